"""Ways to refine, the masks of their stages, and the pixel counts of all of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from dhr_refine import ClassDiscriminant, ClassMemory, DenseCRFLattice, Recipe, refine_steps
from dhr_refine.datasets.cache import Cache, digest
from dhr_refine.edges import Edges as Tool
from dhr_refine.errors import explained
from dhr_refine.metrics import ImageCounts, image_counts
from quality.fingerprints import library_code
from quality.kept import are_masks
from quality.samples import Sample

BASE = ("", "base mask")
STAGES = ("seed", "+ USS", "+ WSS", "final without WSS", "final")

Row = tuple[str, str]
"""Name of a variant ("" for the base masks) and of a stage."""


@dataclass(frozen=True)
class Variant:
    """One way to refine: what ``refine_mask`` is called with. A callable boundary is not cached."""

    recipe: Recipe = field(default_factory=Recipe)
    boundary: Any = "crf"
    tau: float = 0.8
    reg: float = 0.1
    stages: tuple[str, ...] = STAGES
    memory: ClassDiscriminant | None = field(default=None, repr=False)

    @property
    def made_from(self) -> tuple[Any, ...]:
        """All that the masks depend on besides the sample, for the cache."""
        if self.memory is None:
            return (self,)
        return (self, self.memory.means, self.memory.precision, self.memory.known, self.memory.background)


def memory_of(
    samples: Callable[[], Iterable[Sample]], classes: int, ignore_index: int, rounds: int
) -> ClassMemory:
    """A class memory of samples, which are gone through ``rounds + 1`` times."""

    def parts() -> Iterator[dict[str, Any]]:
        for sample in samples():
            yield {
                "uss_features": sample.uss,
                "masks": sample.base,
                "labels": list(sample.tags),
                "ignore_index": ignore_index,
            }

    return ClassMemory.fit(parts, classes, rounds=rounds)


def memory_variants(memory: ClassMemory, boundary: Any) -> dict[str, Variant]:
    """The default with a memory, and with one part of what it does left out."""
    changes: dict[str, dict[str, Any]] = {
        "memory": {},
        "memory, averages only": {"memory_weight": 0.0},
        "memory, masks only": {"memory_reach": 0.0},
        "memory, prior as without": {"memory_prior": Recipe().prior},
    }
    return {
        name: Variant(
            replace(Recipe(), **change),
            boundary,
            stages=("final",) if change else STAGES,
            memory=memory.solve(),
        )
        for name, change in changes.items()
    }


def ablations() -> dict[str, Variant]:
    """The default with one choice at a time as in the released code, and without background in groups."""
    changes: dict[str, Any] = {
        choice.name: getattr(Recipe.released(), choice.name)
        for choice in fields(Recipe)
        if getattr(Recipe.released(), choice.name) != getattr(Recipe(), choice.name)
    }
    return {
        f"{name}={value}": Variant(replace(Recipe(), **{name: value}), stages=("final",))
        for name, value in {**changes, "group_background": False}.items()
    }


class Edges:
    """A boundary tool for one image: one lattice, and no probabilities worked on twice."""

    def __init__(self, tool: Any):
        """Take "crf", "pamr", "par", None or a callable, as refine_mask does."""
        self.tool = tool
        self.done: dict[str, Tensor] = {}
        self.applied: Tool | None = None

    def __call__(self, images: Tensor, probs: Tensor) -> Tensor:
        """Refine the edges of (1, K, H, W)."""
        self.applied = self.applied or Tool(self.tool, images, "boundary")
        key = digest(probs)
        if key not in self.done:
            self.done[key] = self.applied(probs)
        return self.done[key]

    @property
    def lattice(self) -> DenseCRFLattice | None:
        """The CRF's, after the first call."""
        return self.applied and self.applied.lattice


def refine(sample: Sample, variant: Variant, edges: Edges, *, ignore_index: int = 255) -> dict[str, Tensor]:
    """The mask of each stage, (H, W) int64; benchmark_quality's docstring says how each is made."""

    @functools.cache
    def run(tau: float, last: bool) -> Any:
        calls = 0

        def boundary(images: Tensor | None, probs: Tensor) -> Tensor:
            # An image with tags calls its boundary tool twice: for the seed, then for the result.
            nonlocal calls
            calls += 1
            return edges(cast(Tensor, images), probs) if last or calls == 1 else probs

        with explained(sample.key):
            return refine_steps(
                sample.cams,
                sample.base,
                sample.uss,
                sample.wss,
                sample.image,
                labels=list(sample.tags),
                ignore_index=ignore_index,
                tau=tau,
                reg=variant.reg,
                boundary=boundary,
                recipe=variant.recipe,
                memory=variant.memory,
            )

    makers = {
        "seed": lambda: run(variant.tau, "final" in variant.stages).init_mask,
        "+ USS": lambda: run(1.0, False).mask,
        "+ WSS": lambda: run(variant.tau, False).mask,
        "final without WSS": lambda: run(1.0, True).mask,
        "final": lambda: run(variant.tau, True).mask,
    }
    return {stage: makers[stage]() for stage in variant.stages}


def base_row(boundary: Any, masks: Path | None = None) -> Row:
    """Name of the row that is refined and compared with."""
    return ("", "base mask as given") if masks is not None else ("", f"base + {boundary or 'nothing'}")


def evaluate(
    samples: Iterable[Sample],
    variants: Mapping[str, Variant],
    *,
    reference: Row = ("", "base + crf"),
    classes: int = 21,
    ignore_index: int = 255,
    cache: Cache | None = None,
) -> dict[Row, ImageCounts]:
    """Refine every sample in every way; per-image counts of every row, those of the base masks first."""
    counts: dict[Row, list[ImageCounts]] = {}
    for sample in samples:
        rows: dict[Row, Tensor] = {} if sample.raw is None else {BASE: sample.raw}
        rows[reference] = sample.base
        edges: dict[Any, Edges] = {}
        for name, variant in variants.items():
            tool = edges.setdefault(variant.boundary, Edges(variant.boundary))
            rows |= {
                (name, s): mask for s, mask in masks_of(sample, variant, tool, ignore_index, cache).items()
            }
        for row, mask in rows.items():
            counted = image_counts(mask, sample.target, num_classes=classes, ignore_index=ignore_index)
            counts.setdefault(row, []).append(counted)
    return {row: ImageCounts(*map(np.concatenate, zip(*parts))) for row, parts in counts.items()}


def masks_of(
    sample: Sample, variant: Variant, edges: Edges, ignore_index: int, cache: Cache | None
) -> dict[str, Tensor]:
    """The masks of a variant's stages, from the cache where they were made before."""

    def make() -> dict[str, np.ndarray]:
        masks = refine(sample, variant, edges, ignore_index=ignore_index)
        return {stage: mask.numpy().astype(np.int32) for stage, mask in masks.items()}

    if cache is None or callable(variant.boundary):
        made = make()
    else:
        inputs = (sample.image, sample.cams, sample.base, sample.uss, *sample.wss, sample.tags)
        made_from = (library_code(), *variant.made_from, ignore_index, *inputs)
        labels = {0, ignore_index, *(tag + 1 for tag in sample.tags), *sample.base.unique().tolist()}
        size = tuple(sample.base.shape)
        made = cache(
            "masks", sample.key, made_from, make, lambda a: are_masks(a, variant.stages, size, labels)
        )
    return {stage: torch.from_numpy(mask).long() for stage, mask in made.items()}
