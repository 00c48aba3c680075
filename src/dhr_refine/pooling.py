"""Class-average pooling: one mean feature vector per class of a mask (the paper's CAP, appendix A.1)."""

from __future__ import annotations

from numbers import Integral
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .checks import (
    check_choice,
    check_data,
    check_filled,
    check_finite,
    check_ignore_index,
    check_plain,
    check_same,
    check_tensor,
    describe,
    show_shapes,
)
from .compiled import eager

Assign = Literal["area", "majority"]


class ClassCentroids(NamedTuple):
    """Result of :func:`class_avg_pool`."""

    vectors: Tensor
    """(B, C, D) mean feature vector of each class, zeros where a class is absent."""
    counts: Tensor
    """(B, C) feature cells that carry each class (fractional with ``assign="area"``); 0 = absent."""

    def __repr__(self) -> str:
        """Name the shapes, not the numbers."""
        return show_shapes(self)


@eager
def class_avg_pool(
    features: Tensor,
    mask: Tensor,
    *,
    num_classes: int,
    ignore_index: int = 255,
    assign: Assign = "area",
) -> ClassCentroids:
    """Average the feature vectors of the pixels that carry each class (paper, appendix A.1).

    Parameters
    ----------
    features : Tensor, (B, D, h, w), floating point
        Feature map at any resolution. fp16 and bf16 are averaged in float32.
    mask : Tensor, (B, H, W), integer (or floating point with whole numbers)
        Class of each pixel in ``0 .. num_classes - 1``, or ``ignore_index``. Any resolution: features and
        mask both span the whole image.
    num_classes : int
        Number of classes C.
    ignore_index : int
        Label of pixels that take part in nothing.
    assign : {"area", "majority"}
        ``"area"`` (default, our choice): each cell counts by the share of its pixels in the class, which is
        the mean over the H x W pixels of the nearest-enlarged features, so a class smaller than a cell
        keeps its centroid. ``"majority"`` (the released code): a cell counts for its most frequent label,
        ties to the lowest, and not at all where that is ``ignore_index``.

    Returns
    -------
    ClassCentroids
        ``vectors`` (B, C, D) in the dtype of ``features``, ``counts`` (B, C) float32 (float64 for float64).
        Gradients flow to ``features``.

    Raises
    ------
    ValueError, TypeError
        Wrong rank or dtype, different batch sizes or devices, labels out of range, non-finite features.

    Notes
    -----
    The host waits for the device twice, to check the features and the labels.

    References
    ----------
    Jo et al., DHR: Dual Features-Driven Hierarchical Rebalancing, ECCV 2024, appendix A.1.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine import class_avg_pool
    >>> features = torch.tensor([[[[1.0, 3.0]], [[0.0, 2.0]]]])  # 1 image, 2 channels, 1 x 2 cells
    >>> mask = torch.tensor([[[0, 255, 0, 1]]])  # 1 x 4 pixels: class 1 has half of the second cell
    >>> vectors, counts = class_avg_pool(features, mask, num_classes=3)
    >>> vectors[0].tolist(), counts[0].tolist()
    ([[2.0, 1.0], [3.0, 2.0], [0.0, 0.0]], [1.0, 0.5, 0.0])
    """
    check_tensor(features, "features", "(B, D, h, w)", ndim=4, floating=True, plain=False)
    labels = check_mask(mask, "mask", num_classes=num_classes, ignore_index=ignore_index)
    check_same(labels, "mask", features, "features")
    check_choice(assign, "assign", ("area", "majority"))
    check_filled(features, "features")
    check_filled(labels, "mask")
    check_data(features, "features")
    check_plain(features, "features", graded=True)
    check_finite(features, "features")
    labels = torch.where(labels == ignore_index, num_classes, labels)
    with torch.autocast(device_type=features.device.type, enabled=False):
        wide = features if features.dtype == torch.float64 else features.float()
        weights = cell_weights(
            labels, wide.shape[-2:], num_classes=num_classes, assign=assign, dtype=wide.dtype
        )
        vectors, counts = pool(wide, weights)
    return ClassCentroids(vectors.to(features.dtype), counts)


def check_mask(mask: Tensor, name: str, *, num_classes: int, ignore_index: int) -> Tensor:
    """Return a (B, H, W) mask as int64 after checking its type and labels (waits for the device once)."""
    check_tensor(mask, name, "(B, H, W)", ndim=3)
    check_ignore_index(ignore_index)
    if isinstance(num_classes, bool) or not isinstance(num_classes, Integral) or num_classes < 1:
        raise ValueError(
            f"num_classes must be a positive int, got {describe(num_classes)}: pass the number of classes"
        )
    if mask.dtype == torch.bool or mask.is_complex():
        raise TypeError(f"{name} must hold labels, got {describe(mask)}: call .long() on it")
    check_data(mask, name)
    labels = mask.long()
    if labels.numel() == 0:
        return labels
    wrong = (labels != ignore_index) & ((labels < 0) | (labels >= num_classes))
    broken = labels != mask if mask.is_floating_point() else torch.zeros_like(wrong[:1])
    has_wrong, has_broken = torch.stack((wrong.any(), broken.any())).tolist()
    if has_broken:
        raise ValueError(f"{name} holds values that are no whole numbers: pass labels, not probabilities")
    if has_wrong:
        raise ValueError(
            f"{name} holds the label {int(labels[wrong][0])}, outside 0..{num_classes - 1} and not "
            f"ignore_index {ignore_index}: raise num_classes or set ignore_index"
        )
    return labels


def cell_weights(
    labels: Tensor,
    grid: torch.Size | tuple[int, int],
    *,
    num_classes: int,
    assign: Assign = "area",
    multiple: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """(B, C, h * w) weight of each feature cell in each class, in feature cells.

    ``labels`` (B, H, W) int64 in ``0 .. num_classes``; ``num_classes`` itself stands for "takes no part".
    ``multiple`` serves parity with the released code, whose majority vote first enlarges the mask to a
    multiple of the ViT patch (USS) or, as here by default, of the grid (WSS).
    """
    if assign == "area":
        return area_weights(cell_counts(labels, grid, num_classes + 1), dtype)
    units = (multiple, multiple) if multiple else grid
    labels = _enlarge(labels, *(-(-size // unit) * unit for size, unit in zip(labels.shape[1:], units)))
    counts = cell_counts(labels, grid, num_classes + 1, late=1)
    winner = counts.argmax(1, keepdim=True)  # argmax returns the first of equals: the lowest label
    return torch.zeros_like(counts, dtype=dtype).scatter_(1, winner, 1.0)[:, :num_classes]


def area_weights(counts: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """(B, C, N) weights of cells by area from :func:`cell_counts` (B, C + 1, N), in feature cells."""
    pixels = counts.sum((1, 2), keepdim=True)  # of the image, after an enlargement if any
    return counts[:, :-1].to(dtype) * (counts.shape[-1] / pixels.to(dtype))


def cell_shares(counts: Tensor) -> Tensor:
    """(B, C, N) share in [0, 1] of each cell's own pixels, from its :func:`cell_counts` (B, C + 1, N)."""
    return counts[:, :-1] / counts.sum(1, keepdim=True)


def box_mass(inside: Tensor, grid: torch.Size | tuple[int, int]) -> Tensor:
    """(B, h * w) mass of each cell: the share of its pixels ``inside`` (B, H, W), brought to sum 1."""
    share = cell_shares(cell_counts((~inside).long(), grid, 2))[:, 0]
    return share / share.sum(-1, keepdim=True).clamp_min(1e-12)


def cell_counts(
    labels: Tensor, grid: torch.Size | tuple[int, int], slots: int, *, late: Literal[0, 1] = 0
) -> Tensor:
    """(B, slots, h * w) float32 number of pixels of each label in each cell.

    A pixel lies in the cell that nearest-neighbour enlargement of the features gives it. The vote of the
    released code cuts its windows at floor(i * size / cells) instead (``late``), one pixel off at times.
    """
    # A mask coarser than the features: every cell reads the label under it.
    labels = _enlarge(labels, *(max(size, cell) for size, cell in zip(labels.shape[1:], grid)))
    height, width = labels.shape[1:]
    cells = grid[0] * grid[1]
    rows = ((torch.arange(height, device=labels.device) + late) * grid[0] - late) // height
    columns = ((torch.arange(width, device=labels.device) + late) * grid[1] - late) // width
    cell = torch.add(columns, rows[:, None], alpha=grid[1])
    index = torch.add(cell, labels, alpha=cells)
    return count_labels(index.flatten(1), slots * cells).unflatten(1, (slots, cells))


def count_labels(labels: Tensor, slots: int) -> Tensor:
    """(B, slots) float32 number of entries of labels (B, N) int64 that have each value ``0 .. slots - 1``."""
    # Whole counts in float32 are exact whatever the order of the additions: deterministic on every device.
    counts = torch.zeros(labels.shape[0], slots, dtype=torch.float32, device=labels.device)
    if labels.device.type == "cpu":
        # Half the time; but an accelerator would wait for the largest label.
        for image, own in zip(counts, labels):
            image.copy_(torch.bincount(own, minlength=slots))
        return counts
    return counts.scatter_add_(1, labels, counts.new_ones(()).expand(labels.shape))


def _enlarge(labels: Tensor, height: int, width: int) -> Tensor:
    """Nearest-neighbour enlargement of labels (B, H, W)."""
    if labels.shape[1:] == (height, width):
        return labels
    rows = torch.arange(height, device=labels.device) * labels.shape[1] // height
    columns = torch.arange(width, device=labels.device) * labels.shape[2] // width
    return labels[:, rows[:, None], columns]


def pool(features: Tensor, weights: Tensor) -> ClassCentroids:
    """Weighted mean of checked features (B, D, h, w) with cell weights (B, C, h * w)."""
    counts = weights.sum(-1)
    # Shares first, so that sums of large features cannot overflow.
    shares = weights / torch.where(counts > 0, counts, 1.0)[..., None]
    return ClassCentroids(shares @ features.flatten(2).mT, counts)
