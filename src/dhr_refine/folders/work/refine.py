"""The DHR step on every image of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...discriminant import ClassDiscriminant
from ...edges import Boundary
from ...memory import ClassMemory
from ...pretrained import Extractor, load_extractor
from ...recipe import Recipe
from ...refine import refine_mask, refine_steps
from ...sam import Segments, segment_voting
from .outputs import Outputs, Result
from .sources import Sources


class Maps(NamedTuple):
    """All that the step needs of an image."""

    image: Tensor
    tags: tuple[int, ...]
    cams: Tensor
    mask: Tensor
    uss: Tensor | None
    wss: list[Tensor]
    segments: Segments | None = None


@dataclass(frozen=True)
class RefineTask:
    """Refining the base mask of each image, as ``refine_mask`` does.

    Without WSS features the USS features stand in for them. An image without tags keeps its base mask. With
    segments these vote after the boundary tool.
    """

    sources: Sources
    outputs: Outputs
    uss_model: str | None = None
    wss_model: str | None = None
    tau: float = 0.8
    reg: float = 0.1
    boundary: Boundary = "crf"
    recipe: Recipe = field(default_factory=Recipe)
    memory: Path | None = None
    device: str = "cpu"

    def open(self) -> Refiner:
        """Load the memory and the networks."""
        memory = None if self.memory is None else ClassMemory.load(self.memory, device=self.device).solve()
        return Refiner(self, memory)


class Refiner:
    """What is done with an image, see :class:`RefineTask`."""

    def __init__(self, task: RefineTask, memory: ClassDiscriminant | None):
        """Take what was loaded."""
        self.task, self.memory = task, memory
        self.together = task.device != "cpu"

    @cached_property
    def _uss(self) -> Extractor:
        return load_extractor(self.task.uss_model or "", device=self.task.device)

    @cached_property
    def _wss(self) -> Extractor:
        return load_extractor(self.task.wss_model or "", device=self.task.device)

    def finished(self, key: str) -> bool:
        """Whether all files of an image are there."""
        return self.task.outputs.finished(key)

    def read(self, key: str) -> Maps:
        """Read the maps of an image; where base masks are still to be made, its mask is blank."""
        sources = self.task.sources
        image = sources.image(key)
        tags, cams = sources.tags_and_cams(key)
        size = tuple(image.shape[1:])
        mask = torch.zeros(size, dtype=torch.long) if sources.masks is None else sources.mask(key, size)
        if not tags:
            return Maps(image, tags, cams, mask, None, [])
        uss = None if self.task.uss_model else sources.uss_of(key)
        segments = None if sources.segments is None else sources.segments_of(key, size)
        return Maps(image, tags, cams, mask, uss, sources.wss_of(key), segments)

    def work(self, items: Sequence[Maps]) -> list[Result]:
        """Refine the masks."""
        tagged = [item for item in items if item.tags]
        results = iter(self._refine([self._completed(item) for item in tagged]) if tagged else [])
        return [next(results) if item.tags else self._kept(item) for item in items]

    def write(self, key: str, result: Result) -> None:
        """Write the mask of an image."""
        self.task.outputs.write(key, result)

    def _completed(self, item: Maps) -> Maps:
        """The maps of an image with those that networks make."""
        uss = self._uss(item.image)[0] if item.uss is None else item.uss
        wss = item.wss
        if not wss:
            wss = self._wss(item.image) if self.task.wss_model else [uss]
        return item._replace(uss=uss, wss=wss)

    def _refine(self, items: list[Maps]) -> list[Result]:
        task, device = self.task, self.task.device
        arguments = [
            [item.cams.to(device) for item in items],
            [item.mask.to(device) for item in items],
            [item.uss.to(device) for item in items if item.uss is not None],
            [[level.to(device) for level in item.wss] for item in items],
            [item.image.to(device) for item in items],
        ]
        boundary = task.boundary
        if task.sources.segments is not None:
            boundary = segment_voting(
                [item.segments for item in items if item.segments is not None], tool=boundary
            )
        options: dict[str, Any] = {
            "labels": torch.stack([self._multi_hot(item.tags) for item in items]),
            "background": task.sources.classes.background,
            "ignore_index": task.sources.ignore_index,
            "tau": task.tau,
            "reg": task.reg,
            "boundary": boundary,
            "recipe": task.recipe,
            "memory": self.memory,
        }
        if not task.outputs.probs:
            return [Result(mask.cpu()) for mask in refine_mask(*arguments, **options)]
        steps = refine_steps(*arguments, **options)
        return [
            Result(mask.cpu(), probs.cpu(), labels.tolist())
            for mask, probs, labels in zip(steps.mask, steps.probs, steps.classes)
        ]

    def _multi_hot(self, tags: Sequence[int]) -> Tensor:
        """Tags as (C,), which tells the number of classes beside CAMs of the tags alone."""
        row = torch.zeros(len(self.task.sources.classes.foreground))
        row[list(tags)] = 1
        return row

    def _kept(self, item: Maps) -> Result:
        """The base mask as the result; where it is known, it is certain."""
        labels = sorted({*item.mask.unique().tolist()} - {self.task.sources.ignore_index})
        return Result(
            item.mask,
            torch.stack([item.mask == label for label in labels] or [item.mask < 0]).half(),
            labels or [0],
        )
