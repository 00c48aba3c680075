"""A slip that makes masks look perfect: binary ground truth in {0, 255}, whose foreground is then ignored."""

from __future__ import annotations

import warnings
from typing import NamedTuple

import numpy as np

from .masks import Mask, read_mask

# So many images of which none has a foreground pixel, but half have ignored ones, are no ground truth.
_IMAGES = 10


class Ignored(NamedTuple):
    """What lies under the ignored pixels of binary ground truth without a single pixel of label 1."""

    images: int = 0
    """Images."""
    with_ignored: int = 0
    """Images with an ignored pixel."""
    pixels: int = 0
    """Ignored pixels."""
    foreground: int = 0
    """Ignored pixels predicted as 1."""
    missed: int = 0
    """Ignored pixels predicted as ``ignore_index``."""

    def plus(self, other: Ignored) -> Ignored:
        """The sum of both."""
        return Ignored(*(mine + theirs for mine, theirs in zip(self, other, strict=True)))

    def doubtful(self, *, many: bool) -> bool:
        """Whether what is ignored was surely meant as foreground; ``many`` looks at the images together."""
        if self.pixels == 0:
            return False
        covered = self.foreground + (self.missed if many else 0)
        alike = many and self.images >= _IMAGES and 2 * self.with_ignored >= self.images
        return alike or 2 * covered >= self.pixels


def count_ignored(pred: Mask, target: Mask, true: np.ndarray, ignore_index: int) -> Ignored:
    """Count under the ignored pixels of checked masks; ``true`` (N, 2) pixels of the truth are of a class."""
    truth, predicted = read_mask(target, "target"), read_mask(pred, "pred")
    each = truth.shape[1] * truth.shape[2] - true.sum(axis=1)
    if not each.any():
        return Ignored(images=len(each))
    under = predicted[truth == ignore_index]
    return Ignored(
        images=len(each),
        with_ignored=int((each > 0).sum()),
        pixels=int(each.sum()),
        foreground=int((under == 1).sum()),
        missed=int((under == ignore_index).sum()),
    )


def warn_of_ignored(ignored: Ignored, ignore_index: int, *, many: bool, stacklevel: int) -> None:
    """Warn where the foreground is surely what is ignored."""
    if ignored.doubtful(many=many):
        warnings.warn(
            f"target has no pixel of label 1, and {ignore_index} where the foreground seems to be, which is "
            f"ignored: if {ignore_index} means foreground, pass (target == {ignore_index}) as integers, and "
            "likewise pred where it holds the same",
            UserWarning,
            stacklevel=stacklevel + 1,
        )
