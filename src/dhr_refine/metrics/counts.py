"""Pixels of each class in each image: found, predicted and true. All scores are made from these."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import check_count, check_data, check_ignore_index, describe, show_shapes
from .masks import Mask, read_mask
from .slips import count_ignored, warn_of_ignored


class ImageCounts(NamedTuple):
    """Pixels of every class in N images, on the host. Pixels that the ground truth ignores are left out."""

    found: np.ndarray
    """(N, C) int64 pixels of the class that are predicted as the class (TP)."""
    predicted: np.ndarray
    """(N, C) int64 pixels predicted as the class (P)."""
    true: np.ndarray
    """(N, C) int64 pixels of the class (T)."""

    def __repr__(self) -> str:
        """Name the shapes, not the numbers."""
        return show_shapes(self)


def image_counts(pred: Mask, target: Mask, *, num_classes: int, ignore_index: int = 255) -> ImageCounts:
    """Count found, predicted and true pixels of each class in each image.

    Parameters
    ----------
    pred, target : Tensor or ndarray, (B, H, W) or (H, W), integer
        Predicted labels and ground truth, as for :meth:`MaskScores.update`.
    num_classes : int
        Number of mask labels, the background's included.
    ignore_index : int
        Left out in ``target``, a miss in ``pred``.

    Returns
    -------
    ImageCounts
        Three arrays (B, ``num_classes``); an image without a batch axis is a batch of one.

    Raises
    ------
    ValueError, TypeError
        No class, an ``ignore_index`` that is one; masks as for :meth:`MaskScores.update`.

    Warns
    -----
    UserWarning
        Two classes, no true pixel of label 1, and half of the ignored pixels are predicted as 1: the ground
        truth was surely meant as {0, 1}.

    Examples
    --------
    >>> import numpy as np
    >>> from dhr_refine.metrics import image_counts
    >>> counts = image_counts(np.array([[0, 1, 255]]), np.array([[0, 0, 1]]), num_classes=2)
    >>> counts.found.tolist(), counts.predicted.tolist(), counts.true.tolist()
    ([[1, 0]], [[1, 1]], [[2, 1]])
    """
    check_classes(num_classes, ignore_index)
    num_classes, ignore_index = int(num_classes), int(ignore_index)
    counts = count_pixels(pred, target, "pred", num_classes=num_classes, ignore_index=ignore_index)
    if num_classes == 2 and not counts.true[:, 1].any():
        ignored = count_ignored(pred, target, counts.true, ignore_index)
        warn_of_ignored(ignored, ignore_index, many=False, stacklevel=2)
    return counts


def count_pixels(pred: Mask, target: Mask, name: str, *, num_classes: int, ignore_index: int) -> ImageCounts:
    """:func:`image_counts` with checked numbers; ``name`` is what errors call ``pred``."""
    predicted, truth = read_mask(pred, name), read_mask(target, "target")
    if predicted.shape != truth.shape:
        raise ValueError(
            f"{name} has shape {tuple(pred.shape)} but target has {tuple(target.shape)}: "
            "pass masks of the same images at the same size (resize with mode='nearest-exact')"
        )
    if predicted.device != truth.device:
        raise ValueError(
            f"{name} is on {predicted.device} but target is on {truth.device}: move one of them with .to()"
        )
    check_data(truth, "target")
    known = truth != ignore_index
    # Both get a column for "no class", which is cut off again.
    for mask, which in ((predicted, name), (truth, "target")):
        wrong = (mask != ignore_index) & ((mask < 0) | (mask >= num_classes))
        if bool(wrong.any()):
            raise ValueError(
                f"{which} holds the label {int(mask[wrong][0])}, but num_classes={num_classes} allows 0 to "
                f"{num_classes - 1} and ignore_index {ignore_index}: raise num_classes or map the labels"
            )
    predicted = torch.where(known & (predicted != ignore_index), predicted, num_classes)
    truth = torch.where(known, truth, num_classes)
    found = torch.where(predicted == truth, truth, num_classes)
    return ImageCounts(*(_histograms(mask, num_classes) for mask in (found, predicted, truth)))


def _histograms(mask: Tensor, num_classes: int) -> np.ndarray:
    """(B, C) pixels of each class per image; the label C is left out."""
    rows = torch.arange(mask.shape[0], device=mask.device)[:, None, None] * (num_classes + 1)
    counts = torch.bincount((mask + rows).flatten(), minlength=mask.shape[0] * (num_classes + 1))
    return counts.view(mask.shape[0], num_classes + 1)[:, :num_classes].cpu().numpy()


def check_classes(num_classes: int, ignore_index: int) -> None:
    """Raise unless there are classes and ``ignore_index`` is none of them."""
    check_count(num_classes, "num_classes", 1)
    check_ignore_index(ignore_index)
    if 0 <= ignore_index < num_classes:
        raise ValueError(
            f"ignore_index {ignore_index} is one of the {num_classes} classes: pass a label that no class has"
        )


def check_counts(counts: ImageCounts, name: str) -> None:
    """Raise unless these are three arrays of one shape (N, C)."""
    if not isinstance(counts, ImageCounts):
        raise TypeError(f"{name} must be ImageCounts, got {describe(counts)}: pass what image_counts returns")
    shapes = [np.shape(part) for part in counts]
    if len(set(shapes)) != 1 or len(shapes[0]) != 2:
        raise ValueError(
            f"{name} must be three arrays of one shape (N, C), got {shapes}: pass what image_counts returns"
        )
    found, predicted, true = map(np.asarray, counts)
    if not ((found >= 0) & (found <= predicted) & (found <= true)).all():
        raise ValueError(
            f"{name} finds more pixels of a class than are predicted or true, or less than none: pass what "
            "image_counts returns"
        )
