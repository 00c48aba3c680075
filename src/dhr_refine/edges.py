"""The boundary tool of a call: a name, none, or the caller's function, whose results are checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, Protocol, cast, get_args, runtime_checkable

import torch
from torch import Tensor

from .adaptive import pamr, par
from .checks import check_data, describe, find_extent, show
from .crf import DenseCRFLattice
from .crf.inference import refine_checked

BoundaryName = Literal["crf", "pamr", "par"]
Boundary = BoundaryName | Callable[[Tensor, Tensor], Tensor] | None
"""A boundary tool as callers pass it.

Images are None in calls without images. A function that takes ``Tensor | None`` is of this type as well; one
that takes tensors alone is for calls with images.
"""
_NAMES = get_args(BoundaryName)
_LOCAL = {"pamr": pamr, "par": par}


class Place(NamedTuple):
    """What a boundary tool works on: a crop of one of the caller's images."""

    image: int
    """Position of the image in the caller's batch or lists."""
    size: tuple[int, int]
    """(H, W) of the image."""
    box: tuple[int, int, int, int]
    """x0, y0, x1, y1 of the crop, ends exclusive."""


@runtime_checkable
class PlacedTool(Protocol):
    """A boundary tool that holds something of its own for each image, its segments, say."""

    @property
    def needs_images(self) -> bool:
        """Whether it cannot do without images."""
        ...

    def at(self, places: Sequence[Place]) -> Callable[[Tensor | None, Tensor], Tensor]:
        """The callable for crops of one size."""
        ...


def names_of_tools() -> str:
    """The names, for errors: 'crf', 'pamr' or 'par'."""
    return f"{', '.join(map(repr, _NAMES[:-1]))} or {_NAMES[-1]!r}"


def check_boundary(value: object, argument: str) -> None:
    """Raise unless a value is a boundary tool."""
    if value is None or callable(value) or is_named(value):
        return
    names = ", ".join(map(repr, _NAMES))
    raise ValueError(f"{argument} must be {names}, None or a callable, got {show(value)}: pass one of them")


def is_named(value: object) -> bool:
    """Whether a boundary tool is one of the library's own."""
    return isinstance(value, str) and value in _NAMES


def needs_images(value: object) -> bool:
    """Whether a boundary tool cannot do without images."""
    return value.needs_images if isinstance(value, PlacedTool) else is_named(value)


class Edges:
    """A boundary tool for images of one size: the CRF's lattice is built once for all calls."""

    def __init__(self, tool: Boundary, images: Tensor | None, argument: str, places: Sequence[Place] = ()):
        """Take the images (b, 3, h, w) uint8, what the caller calls the tool, and where the images are."""
        if isinstance(tool, PlacedTool):
            tool = tool.at(places)
        self.tool: Boundary = tool
        self.images: Tensor | None = images
        self.argument: str = argument
        self.lattice: DenseCRFLattice | None = None
        if tool == "crf":
            assert images is not None
            self.lattice = DenseCRFLattice(images)

    def __call__(self, probs: Tensor) -> Tensor:
        """Apply the tool to (b, k, h, w)."""
        if self.tool is None:
            return probs
        if callable(self.tool):
            if probs.shape[1] == 1:  # nothing to part: a CRF gives the one class everything, or refuses
                return torch.ones_like(probs)
            # None without images: see Boundary.
            return self._checked(self.tool(cast(Tensor, self.images), probs.clone()), probs)
        assert self.images is not None
        if self.lattice is not None:
            return refine_checked(self.images, probs, self.lattice)
        return _LOCAL[self.tool](self.images, probs)

    def _checked(self, result: object, probs: Tensor) -> Tensor:
        """What the caller's function returned, or an error."""
        name = self.argument
        if not isinstance(result, Tensor) or result.shape != probs.shape:
            raise ValueError(
                f"{name} must return probabilities of shape {tuple(probs.shape)}, got "
                f"{describe(result)}: keep the shape of its second argument"
            )
        check_data(result, f"the result of {name}")
        result = result.detach().to(probs)
        low, high = find_extent(result)
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(
                f"the result of {name} holds NaN or infinity in float32: return probabilities in [0, 1]"
            )
        if low < 0:
            raise ValueError(f"{name} returned negative values: return probabilities, not logarithms")
        return result
