"""The options of a call of refine_mask, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ..checks import check_choice, check_ignore_index, check_range, describe
from ..discriminant import ClassDiscriminant
from ..edges import Boundary, check_boundary, needs_images
from ..recipe import Recipe
from ..transport.solver import check_reg
from .boxes import BoxFormat
from .tags import Background


class Options(NamedTuple):
    """Keyword arguments of refine_mask other than tags and boxes."""

    box_format: BoxFormat | None
    background: Background
    ignore_index: int
    keep_unknown: bool
    mean: Sequence[float] | None
    std: Sequence[float] | None
    tau: float
    reg: float
    boundary: Boundary
    recipe: Recipe
    known: ClassDiscriminant | None

    @property
    def all_labels(self) -> bool:
        """Whether every label of the base mask takes part besides the tags and the background."""
        return self.recipe.classes == "mask"

    @property
    def needs_images(self) -> bool:
        """Whether the boundary tool cannot do without images."""
        return needs_images(self.boundary)


def read_options(
    *,
    box_format: BoxFormat | None,
    background: Background,
    ignore_index: int,
    keep_unknown: bool,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    tau: float,
    reg: float,
    boundary: Boundary,
    recipe: Recipe | None,
    known: ClassDiscriminant | None,
) -> Options:
    """Check every option that can be checked without the tensors."""
    recipe = Recipe() if recipe is None else recipe
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a Recipe, got {describe(recipe)}: pass Recipe.paper(), say")
    check_range(tau, "tau", -1.0, 1.0)
    check_reg(reg)
    check_ignore_index(ignore_index)
    check_boundary(boundary, "boundary")
    check_choice(background, "background", ("first", "last", "none"))
    if not isinstance(keep_unknown, bool):
        raise TypeError(f"keep_unknown must be a bool, got {describe(keep_unknown)}: pass True or False")
    if known is not None and known.background != background:
        raise ValueError(
            f"memory has background {known.background!r} but background is {background!r}: pass the one that "
            "the masks have, and make the memory with it"
        )
    return Options(
        box_format, background, ignore_index, keep_unknown, mean, std, tau, reg, boundary, recipe, known
    )
