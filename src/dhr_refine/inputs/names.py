"""What the caller of refine_mask calls things: errors name arguments and shapes as they were passed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

from ..checks import describe

Structure = Literal["single", "batch", "list"]


class Names(NamedTuple):
    """How a group of images was passed: as a batch, as one image, or as entries of lists."""

    structure: Structure
    where: list[int]
    """Position of each image of the group in the caller's batch or lists."""

    def of(self, argument: str, row: int = 0) -> str:
        """Name of the tensor that holds an image's share of an argument."""
        return f"{argument}[{self.where[row]}]" if self.structure == "list" else argument

    def entry(self, argument: str, row: int) -> str:
        """Name of one image's entry of an argument that is a list for batches too: tags, boxes."""
        return argument if self.structure == "single" else f"{argument}[{self.where[row]}]"

    def shape(self, *axes: int | str) -> str:
        """A shape such as (C, h, w) in words, with the batch axis if the caller's tensors have one."""
        shown = ", ".join(map(str, ("B", *axes) if self.structure == "batch" else axes))
        return f"({shown})" if "," in shown else f"({shown},)"

    def describe(self, value: Tensor, row: int = 0) -> str:
        """Say what the caller's tensor was, given the group's (with a batch axis)."""
        return describe(value if self.structure == "batch" else value[row])


def check_entries(argument: str, value: Any, count: int, beside: str = "masks") -> None:
    """Raise unless an argument beside a list of ``count`` entries has one for each, or is left out."""
    if value is None:
        return
    listed = isinstance(value, (Tensor, np.ndarray, Sequence))
    if not listed or len(value) != count:
        came = f"{len(value)} entries" if listed and not isinstance(value, str) else describe(value)
        raise ValueError(
            f"{argument} must have one entry for each of the {count} {beside}, got {came}: "
            f"pass a list of {count}"
        )
