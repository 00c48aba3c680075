"""Base masks of a folder of CAMs, where a user has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ...base_masks import base_mask
from ...datasets.classes import ClassSet
from ...edges import Boundary
from .outputs import Outputs, Result
from .sources import Sources


class Cammed(NamedTuple):
    """An image with the CAMs of its tags."""

    image: Tensor
    tags: tuple[int, ...]
    cams: Tensor


@dataclass(frozen=True)
class BaseTask:
    """Making a base mask of the CAMs of each image, with a boundary tool, as ``base_mask`` does.

    Where probabilities are to be written the tool is a function, or none.

    The masks have the labels of the data set. Where it has no background, pixels of no tag are unknown.
    """

    sources: Sources
    outputs: Outputs
    background: float | Literal["power"]
    alpha: float = 1.0
    boundary: Boundary = "crf"
    device: str = "cpu"
    together: bool = False

    def open(self) -> BaseTask:
        """Nothing to load."""
        return self

    def finished(self, key: str) -> bool:
        """Whether the mask is there."""
        return self.outputs.finished(key)

    def read(self, key: str) -> Cammed:
        """Image and CAMs."""
        return Cammed(self.sources.image(key), *self.sources.tags_and_cams(key))

    def work(self, items: Sequence[Cammed]) -> list[Result]:
        """Make the masks."""
        return [self._make(item) for item in items]

    def write(self, key: str, result: Result) -> None:
        """Write a mask."""
        self.outputs.write(key, result)

    def _make(self, item: Cammed) -> Result:
        classes, ignore_index = self.sources.classes, self.sources.ignore_index
        empty = empty_label(classes, ignore_index)
        if not item.tags:
            mask = torch.full(item.image.shape[1:], empty, dtype=torch.long)
            return Result(mask, torch.ones(1, *mask.shape), [empty])
        labels = [empty, *(label_of(tag, classes) for tag in item.tags)]
        probs: list[Tensor] = []

        def tool(images: Tensor, scores: Tensor) -> Tensor:
            result = self.boundary(images, scores) if callable(self.boundary) else scores
            probs.append(result[0])
            return result

        options: Any = {"background": self.background, "alpha": self.alpha}
        options["refine"] = tool if self.outputs.probs else self.boundary
        cams, image = item.cams.to(self.device), item.image.to(self.device)
        mask = base_mask(cams, range(len(item.tags)), image, **options).cpu()
        return Result(torch.tensor(labels)[mask], *probs, labels=labels)


def label_of(tag: int, classes: ClassSet) -> int:
    """The mask label of a tag."""
    return tag + (classes.background == "first")


def empty_label(classes: ClassSet, ignore_index: int) -> int:
    """The mask label of pixels of no tag: the background, or unknown where there is none."""
    return {"first": 0, "last": classes.num_classes - 1, "none": ignore_index}[classes.background]
