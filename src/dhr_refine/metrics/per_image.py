"""What became of each image and of each of its tags, from the counts of the image."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from ..checks import check_choice, check_range, show_shapes
from .counts import ImageCounts, check_counts

Background = Literal["first", "last", "none"]
Absent = Literal["skip", "zero"]


class ImageScores(NamedTuple):
    """What became of each image and of each of its tags, see :func:`image_scores`."""

    miou: np.ndarray
    """(N,) mean IoU over the classes of the image's ground truth (``absent="zero"``: and of its prediction);
    NaN where it has no labelled pixel."""
    pairs: np.ndarray
    """(N, C) bool, foreground classes present in the image's ground truth: its image-tag pairs."""
    vanishing: np.ndarray
    """(N, C) bool, pairs with less than ``vanish_share`` of their true pixels found."""
    vanished: np.ndarray
    """(N, C) bool, pairs with no true pixel found."""

    def __repr__(self) -> str:
        """Name the shapes, not the numbers."""
        return show_shapes(self)


def image_scores(
    counts: ImageCounts,
    *,
    vanish_share: float = 0.1,
    background: Background = "first",
    absent: Absent = "skip",
) -> ImageScores:
    """Per-image figures from :func:`image_counts`, to list, sort and plot images by.

    Parameters
    ----------
    counts : ImageCounts
        Of N images; join batches with ``ImageCounts(*map(np.concatenate, zip(*batches)))``.
    vanish_share, background, absent
        As in :class:`MaskScores`.

    Returns
    -------
    ImageScores

    Raises
    ------
    ValueError, TypeError
        An option out of range, or arrays that do not fit each other.

    Examples
    --------
    >>> import numpy as np
    >>> from dhr_refine.metrics import image_counts, image_scores
    >>> counts = image_counts(np.zeros((1, 2, 2), int), np.array([[[0, 0], [1, 1]]]), num_classes=2)
    >>> scores = image_scores(counts)
    >>> scores.miou.tolist(), scores.vanished.tolist()
    ([0.25], [[False, True]])
    """
    check_options(vanish_share, background, absent)
    check_counts(counts, "counts")
    found, predicted, true = counts
    iou = ratio(found, predicted + true - found)
    pairs = (true > 0) & _foreground(true.shape[1], background)
    return ImageScores(
        miou=mean(iou, scored(counts, absent)),
        pairs=pairs,
        # A quotient, not share * true: 1 of 10 pixels is not less than 0.1 of them, whatever the rounding.
        vanishing=pairs & (ratio(found, true) < vanish_share),
        vanished=pairs & (found == 0),
    )


def _foreground(num_classes: int, background: Background) -> np.ndarray:
    """(C,) bool, the classes that an image can be tagged with."""
    foreground = np.ones(num_classes, dtype=bool)
    if background != "none":
        foreground[0 if background == "first" else -1] = False
    return foreground


def scored(counts: ImageCounts, absent: Absent) -> np.ndarray:
    """(..., C) bool, the classes that have an IoU."""
    return counts.true > 0 if absent == "skip" else (counts.true > 0) | (counts.predicted > 0)


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Quotient, NaN where there is nothing to divide by."""
    quotient = np.full(np.shape(whole), np.nan)
    return np.divide(part, whole, out=quotient, where=np.asarray(whole) > 0)


def mean(values: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Mean over the last axis of the entries taken, NaN without any."""
    return ratio(np.where(taken, values, 0.0).sum(-1), taken.sum(-1))


def check_options(vanish_share: float, background: str, absent: str) -> None:
    """Raise unless ``vanish_share`` is in (0, 1], and ``background`` and ``absent`` among the choices."""
    check_range(vanish_share, "vanish_share", 0.0, 1.0)
    if vanish_share == 0:
        raise ValueError("vanish_share must be above 0, or nothing vanishes: pass 0.1, say")
    check_choice(background, "background", ("first", "last", "none"))
    check_choice(absent, "absent", ("skip", "zero"))
