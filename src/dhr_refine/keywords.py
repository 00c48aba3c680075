"""Keyword arguments of public calls as types, which overloads share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypedDict

from .discriminant import ClassDiscriminant
from .edges import Boundary
from .inputs import Background, BoxFormat, GivenBoxes, Labels
from .memory import ClassMemory
from .recipe import Recipe


class RefineKeywords(TypedDict, total=False):
    """Those of refine_mask and refine_steps."""

    labels: Labels | None
    boxes: GivenBoxes
    box_format: BoxFormat | None
    background: Background
    ignore_index: int
    keep_unknown: bool
    mean: Sequence[float] | None
    std: Sequence[float] | None
    tau: float
    reg: float
    boundary: Boundary
    recipe: Recipe | None
    memory: ClassMemory | ClassDiscriminant | None


class RegionKeywords(TypedDict, total=False):
    """Those of sam_vote, sam_prompts and refine_with_sam that all have."""

    labels: Labels | None
    boxes: GivenBoxes
    box_format: BoxFormat | None
    background: Background
    ignore_index: int


class PromptKeywords(RegionKeywords, total=False):
    """Those of sam_prompts and refine_with_sam."""

    min_pixels: int
    gamma: float
    strength: float


class SamKeywords(PromptKeywords, total=False):
    """Those of refine_with_sam."""

    mean: Sequence[float] | None
    std: Sequence[float] | None
    rounds: int
    prompts_at_once: int


class MaskKeywords(TypedDict, total=False):
    """Those of base_mask and two_threshold_mask that both have."""

    refine: Boundary
    normalise: bool
    size: Sequence[int] | Sequence[Sequence[int]] | None
    boxes: GivenBoxes
    box_format: BoxFormat | None
    ignore_index: int
    mean: Sequence[float] | None
    std: Sequence[float] | None
