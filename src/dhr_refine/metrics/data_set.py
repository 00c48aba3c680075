"""Figures of a data set: a row per image whose sum over images holds every numerator and denominator.

That makes them streamable (:class:`MaskScores`), and a bootstrap over images one matrix product
(:func:`scores_of` with ``weights``).
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any, Generic, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from typing_extensions import NamedTuple, TypeVar

from ..checks import describe, read_numbers, show_shapes
from ..tables import Table, percent
from .counts import ImageCounts, check_classes, check_counts, count_pixels
from .masks import Mask
from .per_image import Absent, Background, check_options, image_scores, mean, ratio, scored
from .slips import Ignored, count_ignored, warn_of_ignored

FIGURES = {
    "miou": "mIoU",
    "per_image_miou": "per-image mIoU",
    "mfpr": "mFPR",
    "mfnr": "mFNR",
    "vanishing": "vanishing (< 10 %)",
    "vanished": "vanished (0)",
    "recovery": "recovery",
}
"""Figures of ``Scores`` that tables show, and their titles there (with the default ``vanish_share``)."""

Figure = TypeVar("Figure", default=float)
Number = TypeVar("Number", default=int)
Resampled: TypeAlias = "Scores[NDArray[np.float64], NDArray[np.float64]]"
"""With ``weights``: arrays throughout."""


class Scores(NamedTuple, Generic[Figure, Number]):
    """Figures of a data set as fractions, NaN where there is nothing to divide by; see :class:`MaskScores`.

    Floats, ints where things are counted, and an array per class; with ``weights`` of shape (R, N) all are
    float64 arrays with a leading axis R (to type checkers, ``Scores[ndarray, ndarray]``).
    """

    miou: Figure
    """Mean of ``iou`` over the classes of the ground truth (``absent="zero"``: and of the prediction)."""
    iou: NDArray[np.float64]
    """(C,) TP / (P + T - TP) of each class, NaN for a class over which ``miou`` is not taken."""
    mfpr: Figure
    """Mean of (P - TP) / (P + T - TP) over the same classes: the mean false positive rate."""
    mfnr: Figure
    """Mean of (T - TP) / (P + T - TP) over the same classes: the mean false negative rate."""
    per_image_miou: Figure
    """Mean over images of the mean IoU over the image's classes, as for ``miou``."""
    vanishing: Figure
    """Share of image-tag pairs with less than ``vanish_share`` of their true pixels found."""
    vanished: Figure
    """Share of image-tag pairs with no true pixel found."""
    recovery: Figure
    """Share of the pairs vanishing in the base mask that are not in the prediction; NaN without a base."""
    images: Number
    """Images with a labelled pixel."""
    pairs: Number
    """Image-tag pairs: foreground classes present in an image's ground truth."""
    base_vanishing: Number
    """Pairs that vanish in the base mask, of which ``recovery`` is a share."""

    def __repr__(self) -> str:
        """The figures as a table, in percent; of resamples the shapes."""
        if isinstance(self.miou, np.ndarray):
            return show_shapes(self)
        return f"{_table(self).text()}\n{_counted(self)}"

    def _repr_html_(self) -> str:
        """The same for notebooks."""
        if isinstance(self.miou, np.ndarray):
            return f"<p>{show_shapes(self)}</p>"
        return f"{_table(self).html()}<div>{_counted(self)}</div>"


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
    absent : {"skip", "zero"}
        What a class is worth that is predicted somewhere, but that the ground truth does not have: it is
        left out of the means, or its IoU is 0 (and its share in ``mfpr`` 1), as torchmetrics and mmseg count.

    Raises
    ------
    ValueError, TypeError
        A number out of range, ``ignore_index`` that is a class, an option that does not exist.

    Notes
    -----
    Sums of pixels run over the whole data set before anything is divided, as is usual for mIoU. A class
    that is neither true nor predicted has no IoU. One without a true pixel is left out of all means by
    default; pixels wrongly predicted as it still count against the class that they belong to, as missed.
    Both ways agree wherever the ground truth has every class, as that of VOC and of COCO has. The mean over
    images takes the classes of each image by the same rule, and images without a labelled pixel are left out
    of it. "Found" means labelled with the right class at the right pixel: a class predicted only elsewhere in
    the image has vanished.

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
        absent: Absent = "skip",
    ):
        """Check the options and start from nothing counted."""
        check_classes(num_classes, ignore_index)
        check_options(vanish_share, background, absent)
        self.num_classes: int = int(num_classes)
        self.ignore_index: int = int(ignore_index)
        self.vanish_share: float = float(vanish_share)
        self.background: Background = background
        self.absent: Absent = absent
        self._totals = np.zeros(_width(self.num_classes))
        self._ignored = Ignored()

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

        Examples
        --------
        >>> import torch
        >>> from dhr_refine.metrics import MaskScores
        >>> scores = MaskScores(num_classes=2)
        >>> for _ in range(3):
        ...     scores.update(torch.zeros(4, 8, 8, dtype=torch.long), torch.ones(4, 8, 8, dtype=torch.long))
        >>> scores
        MaskScores(num_classes=2, images=12)
        """
        options = {"num_classes": self.num_classes, "ignore_index": self.ignore_index}
        counts = count_pixels(pred, target, "pred", **options)
        before = None if base is None else count_pixels(base, target, "base", **options)
        rows = _rows(counts, before, self.vanish_share, self.background, self.absent)
        self._totals += rows.sum(axis=0)
        if self._only_background():
            self._ignored = self._ignored.plus(count_ignored(pred, target, counts.true, self.ignore_index))

    def _only_background(self) -> bool:
        """Whether there are two classes, and the ground truth so far does not have the second."""
        return self.num_classes == 2 and self._totals[5] == 0

    def merge(self, other: MaskScores) -> None:
        """Add what another process or shard has counted; ``other`` stays as it is.

        Parameters
        ----------
        other : MaskScores
            Made with the same arguments.

        Raises
        ------
        TypeError, ValueError
            ``other`` is something else, or was made with other arguments.

        Examples
        --------
        >>> import numpy as np
        >>> from dhr_refine.metrics import MaskScores
        >>> shards = MaskScores(num_classes=2), MaskScores(num_classes=2)
        >>> for scores in shards:
        ...     scores.update(np.array([[0, 1]]), np.array([[1, 1]]))
        >>> shards[0].merge(shards[1])
        >>> shards
        (MaskScores(num_classes=2, images=2), MaskScores(num_classes=2, images=1))
        """
        if not isinstance(other, MaskScores):
            raise TypeError(f"other must be a MaskScores, got {describe(other)}: merge scores with scores")
        for name in ("num_classes", "ignore_index", "vanish_share", "background", "absent"):
            mine, theirs = getattr(self, name), getattr(other, name)
            if mine != theirs:
                raise ValueError(
                    f"other was made with {name}={theirs!r} but this one with {mine!r}: "
                    "merge scores made with the same arguments"
                )
        self._totals += other._totals
        self._ignored = self._ignored.plus(other._ignored)

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

        Warns
        -----
        UserWarning
            Binary ground truth without label 1 whose foreground seems to be ``ignore_index``: masks in
            {0, 255}. It is taken for that where half of the ignored pixels are predicted as 1 or as
            ``ignore_index``, or in ten images or more of which half have ignored pixels.

        Examples
        --------
        >>> import numpy as np
        >>> from dhr_refine.metrics import MaskScores
        >>> scores = MaskScores(num_classes=2)
        >>> scores.update(np.array([[0, 0, 1, 1]]), np.array([[0, 0, 0, 1]]))
        >>> scores.compute(labels=[1]).miou  # the mean over class 1 alone
        0.5
        """
        if self._only_background():
            warn_of_ignored(self._ignored, self.ignore_index, many=True, stacklevel=2)
        chosen = _read_labels(labels, self.num_classes)
        return _plain(_finish(self._totals, self.num_classes, chosen, self.absent))

    def __repr__(self) -> str:
        """Name the size of what was counted."""
        images = int(self._totals[3 * self.num_classes + 1])
        return f"MaskScores(num_classes={self.num_classes}, images={images})"


@overload
def scores_of(
    counts: ImageCounts,
    *,
    base: ImageCounts | None = None,
    vanish_share: float = 0.1,
    background: Background = "first",
    absent: Absent = "skip",
    labels: Sequence[int] | None = None,
    weights: None = None,
) -> Scores: ...
@overload
def scores_of(
    counts: ImageCounts,
    *,
    base: ImageCounts | None = None,
    vanish_share: float = 0.1,
    background: Background = "first",
    absent: Absent = "skip",
    labels: Sequence[int] | None = None,
    weights: NDArray[Any],
) -> Resampled: ...
def scores_of(
    counts: ImageCounts,
    *,
    base: ImageCounts | None = None,
    vanish_share: float = 0.1,
    background: Background = "first",
    absent: Absent = "skip",
    labels: Sequence[int] | None = None,
    weights: NDArray[Any] | None = None,
) -> Scores | Resampled:
    """The figures of :class:`MaskScores` from per-image counts, for a data set or for resamples of it.

    Parameters
    ----------
    counts, base : ImageCounts
        Of the prediction and, for the recovery rate, of the base masks of the same N images.
    vanish_share, background, absent, labels
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
    ValueError, TypeError
        An option out of range, a label that is no class, or arrays that do not fit each other.

    Examples
    --------
    >>> import numpy as np
    >>> from dhr_refine.metrics import image_counts, scores_of
    >>> target = np.array([[[0, 0, 1, 1]], [[0, 0, 0, 1]]])
    >>> counts = image_counts(np.zeros_like(target), target, num_classes=2)
    >>> scores_of(counts, weights=np.array([[1, 1], [2, 0]])).miou.tolist()
    [0.3125, 0.25]
    """
    check_options(vanish_share, background, absent)
    check_counts(counts, "counts")
    count, num_classes = counts.true.shape
    if base is not None:
        check_counts(base, "base")
        if base.true.shape != counts.true.shape or (base.true != counts.true).any():
            raise ValueError("base was not counted on the ground truth of counts: count the same images")
    rows = _rows(counts, base, vanish_share, background, absent)
    if weights is None:
        return _plain(_finish(rows.sum(axis=0), num_classes, _read_labels(labels, num_classes), absent))
    times = read_numbers(weights, "weights", f"an array (R, {count})").astype(np.float64)
    if times.ndim != 2 or times.shape[1] != count:
        raise ValueError(
            f"weights must have shape (R, {count}), one column per image, got {describe(weights)}: "
            f"draw them with rng.multinomial({count}, np.full({count}, 1 / {count}), size=1000)"
        )
    if not (np.isfinite(times).all() and (times >= 0).all()):
        raise ValueError(
            f"weights must be finite and not negative, got {times.min():.3g} to {times.max():.3g}: pass how "
            "often each image counts"
        )
    totals = times @ rows
    return _finish(totals, num_classes, _read_labels(labels, num_classes), absent)


def _table(scores: Scores[Any, Any]) -> Table:
    """The figures of a data set, the recovery rate where there is one, and the extremes of the classes."""
    # The share below which a class is vanishing is not known here.
    titles = FIGURES | {"vanishing": "vanishing"}
    rows = [(title, percent(getattr(scores, name))) for name, title in titles.items()]
    if np.isfinite(scores.iou).any():
        for what, label in ("lowest", np.nanargmin(scores.iou)), ("highest", np.nanargmax(scores.iou)):
            rows.append((f"{what} IoU (label {label})", percent(scores.iou[label])))
    return Table(("in %", "masks"), rows)


def _counted(scores: Scores[Any, Any]) -> str:
    images = f"{scores.images} image{'s' * (scores.images != 1)}"
    base = f", {scores.base_vanishing} vanish in the base" if scores.base_vanishing else ""
    return f"{images}, {scores.pairs} image-tag pairs{base}"


def _width(num_classes: int) -> int:
    """Columns of a row: three counts of each class, then seven figures of the image (see :func:`_rows`)."""
    return 3 * num_classes + 7


def _rows(
    counts: ImageCounts, base: ImageCounts | None, vanish_share: float, background: Background, absent: Absent
) -> np.ndarray:
    """(N, 3 C + 7) float64, exact for whole numbers up to 2 ** 53."""
    scores = image_scores(counts, vanish_share=vanish_share, background=background, absent=absent)
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


def _finish(totals: np.ndarray, num_classes: int, chosen: np.ndarray, absent: Absent) -> Resampled:
    """Divide sums (..., 3 C + 7)."""
    found, predicted, true = (totals[..., i * num_classes : (i + 1) * num_classes] for i in range(3))
    image_miou, images, pairs, vanishing, vanished, lost, recovered = np.moveaxis(
        totals[..., 3 * num_classes :], -1, 0
    )
    there = scored(ImageCounts(found, predicted, true), absent)
    union = np.where(there, predicted + true - found, 0.0)
    iou = ratio(found, union)
    taken = there & chosen
    return Scores(
        miou=mean(iou, taken),
        iou=iou,
        mfpr=mean(ratio(predicted - found, union), taken),
        mfnr=mean(ratio(true - found, union), taken),
        per_image_miou=ratio(image_miou, images),
        vanishing=ratio(vanishing, pairs),
        vanished=ratio(vanished, pairs),
        recovery=ratio(recovered, lost),
        images=images,
        pairs=pairs,
        base_vanishing=lost,
    )


def _plain(scores: Resampled) -> Scores:
    """Floats and ints in the place of arrays without axes."""
    parts: dict[str, Any] = {name: float(getattr(scores, name)) for name in Scores._fields if name != "iou"}
    parts |= {name: int(parts[name]) for name in ("images", "pairs", "base_vanishing")}
    return Scores(iou=scores.iou, **parts)


def _read_labels(labels: Sequence[int] | None, num_classes: int) -> np.ndarray:
    """(C,) bool, the classes that the means are taken over."""
    if labels is None:
        return np.ones(num_classes, dtype=bool)
    given = read_numbers(
        list(labels) if isinstance(labels, (Set, range)) else labels, "labels", "a list of labels"
    )
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise TypeError(f"labels must be a list of whole numbers, got {describe(labels)}: pass [0, 1], say")
    chosen = np.zeros(num_classes, dtype=bool)
    for label in given.tolist():
        if not 0 <= label < num_classes:
            raise ValueError(f"labels holds {label}, but labels go from 0 to {num_classes - 1}: drop it")
        chosen[label] = True
    return chosen
