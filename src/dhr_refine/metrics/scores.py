"""Quality of pseudo masks against ground truth: IoU, error rates, and which classes of an image vanished.

Everything but :func:`inter_class_share` is a function of three counts per image and class
(:func:`image_counts`), and every data set figure a ratio of sums of such counts over the images. That makes
the figures streamable (:class:`MaskScores`), and a bootstrap over images one matrix product
(:func:`scores_of` with ``weights``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..checks import check_choice, check_count, check_ignore_index, check_range, describe

Background = Literal["first", "last", "none"]
Mask = Tensor | np.ndarray


class ImageCounts(NamedTuple):
    """Pixels of every class in N images, on the host. Pixels that the ground truth ignores are left out."""

    found: np.ndarray
    """(N, C) int64 pixels of the class that are predicted as the class (TP)."""
    predicted: np.ndarray
    """(N, C) int64 pixels predicted as the class (P)."""
    true: np.ndarray
    """(N, C) int64 pixels of the class (T)."""


class ImageScores(NamedTuple):
    """What became of each image and of each of its tags, see :func:`image_scores`."""

    miou: np.ndarray
    """(N,) mean IoU over the classes of the image's ground truth; NaN where it has no labelled pixel."""
    pairs: np.ndarray
    """(N, C) bool, foreground classes present in the image's ground truth: its image-tag pairs."""
    vanishing: np.ndarray
    """(N, C) bool, pairs with less than ``vanish_share`` of their true pixels found."""
    vanished: np.ndarray
    """(N, C) bool, pairs with no true pixel found."""


class Scores(NamedTuple):
    """Figures of a data set as fractions, NaN where there is nothing to divide by; see :class:`MaskScores`.

    Floats, and an array per class; with ``weights`` of shape (R, N) all have a leading axis R.
    """

    miou: Any
    """Mean of ``iou`` over the classes of the ground truth."""
    iou: Any
    """(C,) TP / (P + T - TP) of each class, NaN for a class that the ground truth does not have."""
    mfpr: Any
    """Mean of (P - TP) / (P + T - TP) over the same classes: the mean false positive rate."""
    mfnr: Any
    """Mean of (T - TP) / (P + T - TP) over the same classes: the mean false negative rate."""
    per_image_miou: Any
    """Mean over images of the mean IoU over the classes of the image's ground truth."""
    vanishing: Any
    """Share of image-tag pairs with less than ``vanish_share`` of their true pixels found."""
    vanished: Any
    """Share of image-tag pairs with no true pixel found."""
    recovery: Any
    """Share of the pairs vanishing in the base mask that are not in the prediction; NaN without a base."""
    images: Any
    """Images with a labelled pixel."""
    pairs: Any
    """Image-tag pairs: foreground classes present in an image's ground truth."""
    base_vanishing: Any
    """Pairs that vanish in the base mask, of which ``recovery`` is a share."""


class MaskScores:
    """Scores of masks against ground truth over a data set, one batch at a time, in constant memory.

    Parameters
    ----------
    num_classes : int
        Number of mask labels 0 to ``num_classes`` - 1, the background's included.
    ignore_index : int
        Pixels with this label in the ground truth are left out. In a prediction it is no class: a miss.
    vanish_share : float
        A class present in an image's ground truth is vanishing there if less than this share of its
        true pixels is found, in (0, 1]. 0.1 is our choice.
    background : {"first", "last", "none"}
        Which label is the background (0, the last, none), which is no tag and cannot vanish.

    Raises
    ------
    ValueError, TypeError
        A number out of range, ``ignore_index`` that is a class, a background that does not exist.

    Notes
    -----
    Sums of pixels run over the whole data set before anything is divided, as is usual for mIoU. A class
    without a true pixel has no IoU and is left out of all means; pixels wrongly predicted as it still count
    against the class that they belong to, as missed. The mean over images takes the classes of each image's
    own ground truth, and images without a labelled pixel are left out of it. "Found" means labelled with
    the right class at the right pixel: a class predicted only elsewhere in the image has vanished.

    References
    ----------
    mFPR and mFNR: Wang et al., Self-supervised Equivariant Attention Mechanism for Weakly Supervised
    Semantic Segmentation, CVPR 2020. Vanishing classes: Jo et al., DHR, ECCV 2024, section 1.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine.metrics import MaskScores
    >>> target = torch.tensor([[0, 0, 1, 1], [2, 2, 2, 255]])
    >>> base = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 1]])  # class 2 vanished
    >>> refined = torch.tensor([[0, 0, 1, 1], [2, 2, 1, 1]])
    >>> scores = MaskScores(num_classes=3)
    >>> scores.update(refined, target, base=base)
    >>> result = scores.compute()
    >>> [round(float(x), 3) for x in result.iou], round(result.miou, 3)
    ([1.0, 0.667, 0.667], 0.778)
    >>> result.vanishing, result.recovery, result.pairs
    (0.0, 1.0, 2)
    """

    def __init__(
        self,
        num_classes: int,
        *,
        ignore_index: int = 255,
        vanish_share: float = 0.1,
        background: Background = "first",
    ):
        """Check the options and start from nothing counted."""
        _check_classes(num_classes, ignore_index)
        _check_options(vanish_share, background)
        self.num_classes = int(num_classes)
        self.ignore_index = int(ignore_index)
        self.vanish_share = float(vanish_share)
        self.background: Background = background
        self._totals = np.zeros(_width(self.num_classes))

    def update(self, pred: Mask, target: Mask, *, base: Mask | None = None) -> None:
        """Add a batch of images (waits for the device).

        Parameters
        ----------
        pred : Tensor or ndarray, (B, H, W) or (H, W), integer
            Predicted labels; ``ignore_index`` is a miss.
        target : Tensor or ndarray, as ``pred``
            Ground truth; ``ignore_index`` is left out.
        base : Tensor or ndarray, as ``pred``, optional
            The mask that ``pred`` was refined from: the recovery rate is taken over images with one.

        Raises
        ------
        ValueError, TypeError
            Masks that are not integer, of different shape or device, or with labels that are no class.
        """
        options = {"num_classes": self.num_classes, "ignore_index": self.ignore_index}
        counts = image_counts(pred, target, **options)
        before = None if base is None else _image_counts(base, target, "base", **options)
        rows = _rows(counts, before, self.vanish_share, self.background)
        self._totals += rows.sum(axis=0)

    def merge(self, other: MaskScores) -> None:
        """Add what another process or shard has counted; ``other`` stays as it is.

        Raises
        ------
        TypeError, ValueError
            ``other`` is something else, or was made with other arguments.
        """
        if not isinstance(other, MaskScores):
            raise TypeError(f"other must be a MaskScores, got {describe(other)}: merge scores with scores")
        for name in ("num_classes", "ignore_index", "vanish_share", "background"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(
                    f"other was made with {name}={theirs!r} but this one with {mine!r}: "
                    "merge scores made with the same arguments"
                )
        self._totals += other._totals

    def compute(self, *, labels: Sequence[int] | None = None) -> Scores:
        """The figures so far.

        Parameters
        ----------
        labels : sequence of int, optional
            Restrict the means ``miou``, ``mfpr`` and ``mfnr`` to these labels. Nothing else changes.

        Returns
        -------
        Scores

        Raises
        ------
        ValueError
            A label that is no class.
        """
        return _finish(self._totals, self.num_classes, _read_labels(labels, self.num_classes))

    def __repr__(self) -> str:
        """Name the size of what was counted."""
        images = int(self._totals[3 * self.num_classes + 1])
        return f"MaskScores(num_classes={self.num_classes}, images={images})"


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
        As :meth:`MaskScores.update`.

    Examples
    --------
    >>> import numpy as np
    >>> from dhr_refine.metrics import image_counts
    >>> counts = image_counts(np.array([[0, 1, 255]]), np.array([[0, 0, 1]]), num_classes=2)
    >>> counts.found.tolist(), counts.predicted.tolist(), counts.true.tolist()
    ([[1, 0]], [[1, 1]], [[2, 1]])
    """
    _check_classes(num_classes, ignore_index)
    return _image_counts(pred, target, "pred", num_classes=int(num_classes), ignore_index=int(ignore_index))


def image_scores(
    counts: ImageCounts, *, vanish_share: float = 0.1, background: Background = "first"
) -> ImageScores:
    """Per-image figures from :func:`image_counts`, to list, sort and plot images by.

    Parameters
    ----------
    counts : ImageCounts
        Of N images; join batches with ``ImageCounts(*map(np.concatenate, zip(*batches)))``.
    vanish_share, background
        As in :class:`MaskScores`.

    Returns
    -------
    ImageScores

    Raises
    ------
    ValueError
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
    _check_options(vanish_share, background)
    _check_counts(counts, "counts")
    found, predicted, true = counts
    present = true > 0
    iou = _ratio(found, predicted + true - found)
    pairs = present & _foreground(true.shape[1], background)
    return ImageScores(
        miou=_mean(iou, present),
        pairs=pairs,
        # A quotient, not share * true: 1 of 10 pixels is not less than 0.1 of them, whatever the rounding.
        vanishing=pairs & (_ratio(found, true) < vanish_share),
        vanished=pairs & (found == 0),
    )


def scores_of(
    counts: ImageCounts,
    *,
    base: ImageCounts | None = None,
    vanish_share: float = 0.1,
    background: Background = "first",
    labels: Sequence[int] | None = None,
    weights: np.ndarray | None = None,
) -> Scores:
    """The figures of :class:`MaskScores` from per-image counts, for a data set or for resamples of it.

    Parameters
    ----------
    counts, base : ImageCounts
        Of the prediction and, for the recovery rate, of the base masks of the same N images.
    vanish_share, background, labels
        As in :class:`MaskScores` and :meth:`MaskScores.compute`.
    weights : ndarray, (R, N), optional
        How often each image counts in each of R resamples. Two predictions scored with the same weights
        make a paired bootstrap over images.

    Returns
    -------
    Scores
        With a leading axis R where ``weights`` are given.

    Raises
    ------
    ValueError
        An option out of range, or arrays that do not fit each other.

    Examples
    --------
    >>> import numpy as np
    >>> from dhr_refine.metrics import image_counts, scores_of
    >>> target = np.array([[[0, 0, 1, 1]], [[0, 0, 0, 1]]])
    >>> counts = image_counts(np.zeros_like(target), target, num_classes=2)
    >>> scores_of(counts, weights=np.array([[1, 1], [2, 0]])).miou.tolist()
    [0.3125, 0.25]
    """
    _check_options(vanish_share, background)
    _check_counts(counts, "counts")
    count, num_classes = counts.true.shape
    if base is not None:
        _check_counts(base, "base")
        if base.true.shape != counts.true.shape or (base.true != counts.true).any():
            raise ValueError("base was not counted on the ground truth of counts: count the same images")
    rows = _rows(counts, base, vanish_share, background)
    if weights is None:
        totals = rows.sum(axis=0)
    elif weights.ndim == 2 and weights.shape[1] == count:
        totals = weights.astype(np.float64) @ rows
    else:
        raise ValueError(
            f"weights must have shape (R, {count}), one column per image, got {describe(weights)}: "
            "draw them with rng.multinomial"
        )
    return _finish(totals, num_classes, _read_labels(labels, num_classes))


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
        Masks that are not integer or have other axes, a negative ``reach``.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine.metrics import inter_class_share
    >>> mask = torch.tensor([[0, 1, 1, 255, 2], [0, 0, 0, 255, 2]])
    >>> inter_class_share(mask)  # of the pairs 0-1, 0-2 and 1-2 the last
    RegionPairs(share=0.3333333333333333, inter_class=1, adjacent=3)
    """
    if isinstance(background, str):
        raise TypeError(f"background must be a label or None, got {describe(background)}: pass 0, say")
    check_ignore_index(ignore_index)
    check_range(reach, "reach", 0.0, float("inf"))
    inter = adjacent = 0
    for mask in read_mask(masks, "masks").cpu().numpy():
        pairs = _adjacent_labels(_fill(mask, ignore_index, reach), ignore_index)
        adjacent += len(pairs)
        inter += len(pairs) if background is None else int((pairs != background).all(axis=1).sum())
    return RegionPairs(inter / adjacent if adjacent else float("nan"), inter, adjacent)


def _fill(mask: np.ndarray, ignore_index: int, reach: float) -> np.ndarray:
    """Give ignored pixels the label of the nearest other pixel within reach."""
    ignored = mask == ignore_index
    if reach == 0 or ignored.all() or not ignored.any():
        return mask
    distance, nearest = cast(Any, ndimage.distance_transform_edt(ignored, return_indices=True))
    return np.where(distance <= reach, mask[tuple(nearest)], mask)


def _adjacent_labels(mask: np.ndarray, ignore_index: int) -> np.ndarray:
    """(pairs, 2) labels of every two adjacent regions of a mask (H, W)."""
    regions, owner = np.zeros(mask.shape, dtype=np.int64), [ignore_index]
    for label in np.unique(mask[mask != ignore_index]):
        parts, count = cast(Any, ndimage.label(mask == label))
        regions = np.where(parts > 0, parts + len(owner) - 1, regions)
        owner += [int(label)] * int(count)
    beside = np.stack((regions[:, :-1].ravel(), regions[:, 1:].ravel()))
    below = np.stack((regions[:-1].ravel(), regions[1:].ravel()))
    edges = np.sort(np.concatenate((beside, below), axis=1), axis=0)
    edges = edges[:, (edges[0] != edges[1]) & (edges[0] > 0)]
    return np.asarray(owner)[np.unique(edges, axis=1).T]


# --------------------------------------------------------------------------------------------------
# Counting


def _image_counts(pred: Mask, target: Mask, name: str, *, num_classes: int, ignore_index: int) -> ImageCounts:
    predicted, truth = read_mask(pred, name), read_mask(target, "target")
    if predicted.shape != truth.shape:
        raise ValueError(
            f"{name} has shape {tuple(pred.shape)} but target has {tuple(target.shape)}: "
            "pass masks of the same images at the same size (resize with mode='nearest')"
        )
    if predicted.device != truth.device:
        raise ValueError(
            f"{name} is on {predicted.device} but target is on {truth.device}: move one of them with .to()"
        )
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


def read_mask(mask: Mask, name: str) -> Tensor:
    """(B, H, W) int64 of an integer mask with or without a batch axis."""
    if isinstance(mask, np.ndarray):
        whole = mask.dtype.kind in "iu"
    elif isinstance(mask, Tensor):
        whole = not (mask.is_floating_point() or mask.is_complex() or mask.dtype == torch.bool)
    else:
        raise TypeError(
            f"{name} must be a tensor or an array of labels, got {describe(mask)}: "
            "convert it with torch.as_tensor"
        )
    if not whole:
        raise TypeError(f"{name} must hold integer labels, got {describe(mask)}: convert its type first")
    if mask.ndim not in (2, 3):
        raise ValueError(
            f"{name} must have shape (B, H, W) or (H, W), got {describe(mask)}: add or remove axes to match"
        )
    if isinstance(mask, np.ndarray):
        mask = torch.from_numpy(mask.astype(np.int64))
    mask = mask.detach().long()
    return mask if mask.ndim == 3 else mask[None]


# --------------------------------------------------------------------------------------------------
# From counts to scores: a row per image whose sum over images holds every numerator and denominator


def _width(num_classes: int) -> int:
    return 3 * num_classes + 7


def _rows(
    counts: ImageCounts, base: ImageCounts | None, vanish_share: float, background: Background
) -> np.ndarray:
    """(N, 3 C + 7) float64, exact for whole numbers up to 2 ** 53."""
    scores = image_scores(counts, vanish_share=vanish_share, background=background)
    labelled = np.isfinite(scores.miou)
    lost = np.zeros_like(scores.pairs)
    if base is not None:
        lost = image_scores(base, vanish_share=vanish_share, background=background).vanishing
    columns = (
        np.where(labelled, scores.miou, 0.0),
        labelled,
        scores.pairs.sum(1),
        scores.vanishing.sum(1),
        scores.vanished.sum(1),
        lost.sum(1),
        (lost & ~scores.vanishing).sum(1),
    )
    return np.concatenate((*counts, np.stack(columns, axis=1)), axis=1, dtype=np.float64)


def _finish(totals: np.ndarray, num_classes: int, chosen: np.ndarray) -> Scores:
    """Divide sums (..., 3 C + 7)."""
    found, predicted, true = (totals[..., i * num_classes : (i + 1) * num_classes] for i in range(3))
    image_miou, images, pairs, vanishing, vanished, lost, recovered = np.moveaxis(
        totals[..., 3 * num_classes :], -1, 0
    )
    union = np.where(true > 0, predicted + true - found, 0.0)
    iou = _ratio(found, union)
    taken = (true > 0) & chosen
    scores = Scores(
        miou=_mean(iou, taken),
        iou=iou,
        mfpr=_mean(_ratio(predicted - found, union), taken),
        mfnr=_mean(_ratio(true - found, union), taken),
        per_image_miou=_ratio(image_miou, images),
        vanishing=_ratio(vanishing, pairs),
        vanished=_ratio(vanished, pairs),
        recovery=_ratio(recovered, lost),
        images=images,
        pairs=pairs,
        base_vanishing=lost,
    )
    if totals.ndim > 1:
        return scores
    plain = {name: float(getattr(scores, name)) for name in Scores._fields if name != "iou"}
    plain |= {name: int(plain[name]) for name in ("images", "pairs", "base_vanishing")}
    return Scores(iou=iou, **plain)


def _ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Quotient, NaN where there is nothing to divide by."""
    quotient = np.full(np.shape(whole), np.nan)
    return np.divide(part, whole, out=quotient, where=np.asarray(whole) > 0)


def _mean(values: np.ndarray, taken: np.ndarray) -> np.ndarray:
    """Mean over the last axis of the entries taken, NaN without any."""
    return _ratio(np.where(taken, values, 0.0).sum(-1), taken.sum(-1))


def _foreground(num_classes: int, background: Background) -> np.ndarray:
    """(C,) bool, the classes that an image can be tagged with."""
    foreground = np.ones(num_classes, dtype=bool)
    if background != "none":
        foreground[0 if background == "first" else -1] = False
    return foreground


# --------------------------------------------------------------------------------------------------
# Checks


def _check_classes(num_classes: int, ignore_index: int) -> None:
    check_count(num_classes, "num_classes", 1)
    check_ignore_index(ignore_index)
    if 0 <= ignore_index < num_classes:
        raise ValueError(
            f"ignore_index {ignore_index} is one of the {num_classes} classes: pass a label that no class has"
        )


def _check_options(vanish_share: float, background: str) -> None:
    check_range(vanish_share, "vanish_share", 0.0, 1.0)
    if vanish_share == 0:
        raise ValueError("vanish_share must be above 0, or nothing vanishes: pass 0.1, say")
    check_choice(background, "background", ("first", "last", "none"))


def _check_counts(counts: ImageCounts, name: str) -> None:
    shapes = {np.shape(part) for part in counts}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        raise ValueError(
            f"{name} must be three arrays of one shape (N, C), got {[np.shape(part) for part in counts]}: "
            "pass what image_counts returns"
        )


def _read_labels(labels: Sequence[int] | None, num_classes: int) -> np.ndarray:
    """(C,) bool, the classes that the means are taken over."""
    chosen = np.full(num_classes, labels is None)
    for label in () if labels is None else labels:
        if not 0 <= label < num_classes:
            raise ValueError(f"labels holds {label}, but labels go from 0 to {num_classes - 1}: drop it")
        chosen[label] = True
    return chosen
