"""Adjacent regions of a mask, and how many of their borders lie between two foreground classes."""

from __future__ import annotations

from numbers import Integral
from typing import Any, NamedTuple

import numpy as np

from ..checks import check_data, check_ignore_index, check_range, describe
from ..extras import import_optional
from .masks import Mask, read_mask


class RegionPairs(NamedTuple):
    """Pairs of adjacent regions, see :func:`inter_class_share`."""

    share: float
    """Share of the adjacent pairs that are inter-class, NaN without any."""
    inter_class: int
    """Adjacent pairs of two foreground classes."""
    adjacent: int
    """Adjacent pairs of two labels, the background's included."""


def inter_class_share(
    masks: Mask, *, ignore_index: int = 255, background: int | None = 0, reach: float = 5.0
) -> RegionPairs:
    """Share of adjacent regions whose border lies between two foreground classes.

    The paper (section 1) sets regions between classes against regions within a class and names no
    measure; this is our reading. A region is a connected set of pixels of one label (over edges, not
    corners). Two regions are adjacent if an edge between two pixels separates them. Of all pairs of adjacent
    regions, which always differ in their label, those without the background are inter-class.

    Parameters
    ----------
    masks : Tensor or ndarray, (B, H, W) or (H, W), integer
        Ground truth or predictions; pairs are summed over the images.
    ignore_index : int
        Label of pixels that belong to no region.
    background : int or None
        Label of the background.
    reach : float
        Distance in pixels up to which ignored pixels take the nearest label first. The ground truth of
        VOC draws a band of about 5 pixels around every object, and nothing would be adjacent; 5 is our
        choice. 0: leave them out.

    Returns
    -------
    RegionPairs

    Raises
    ------
    ValueError, TypeError
        Masks that are not integer or have other axes, a negative ``reach``, a background that is a word.
    ImportError
        If SciPy is not installed.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine.metrics import inter_class_share
    >>> mask = torch.tensor([[0, 1, 1, 255, 2], [0, 0, 0, 255, 2]])
    >>> inter_class_share(mask)  # of the pairs 0-1, 0-2 and 1-2 the last
    RegionPairs(share=0.3333333333333333, inter_class=1, adjacent=3)
    """
    if background is not None and (isinstance(background, bool) or not isinstance(background, Integral)):
        raise TypeError(f"background must be a label or None, got {describe(background)}: pass 0, say")
    check_ignore_index(ignore_index)
    check_range(reach, "reach", 0.0, float("inf"))
    inter = adjacent = 0
    labels = read_mask(masks, "masks")
    check_data(labels, "masks")
    for mask in labels.cpu().numpy():
        pairs = _adjacent_labels(_fill(mask, ignore_index, reach), ignore_index)
        adjacent += len(pairs)
        inter += len(pairs) if background is None else int((pairs != background).all(axis=1).sum())
    return RegionPairs(inter / adjacent if adjacent else float("nan"), inter, adjacent)


def _ndimage() -> Any:
    return import_optional("scipy.ndimage", by="inter_class_share")


def _fill(mask: np.ndarray, ignore_index: int, reach: float) -> np.ndarray:
    """Give ignored pixels the label of the nearest other pixel within reach."""
    ignored = mask == ignore_index
    if reach == 0 or ignored.all() or not ignored.any():
        return mask
    distance, nearest = _ndimage().distance_transform_edt(ignored, return_indices=True)
    return np.where(distance <= reach, mask[tuple(nearest)], mask)


def _adjacent_labels(mask: np.ndarray, ignore_index: int) -> np.ndarray:
    """(pairs, 2) labels of every two adjacent regions of a mask (H, W)."""
    regions, owner = np.zeros(mask.shape, dtype=np.int64), [ignore_index]
    for label in np.unique(mask[mask != ignore_index]):
        parts, count = _ndimage().label(mask == label)
        regions = np.where(parts > 0, parts + len(owner) - 1, regions)
        owner += [int(label)] * int(count)
    beside = np.stack((regions[:, :-1].ravel(), regions[:, 1:].ravel()))
    below = np.stack((regions[:-1].ravel(), regions[1:].ravel()))
    edges = np.sort(np.concatenate((beside, below), axis=1), axis=0)
    edges = edges[:, (edges[0] != edges[1]) & (edges[0] > 0)]
    return np.asarray(owner)[np.unique(edges, axis=1).T]
