"""How far the figures of a data set can be trusted: the same figures on resamples of its images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np

from ..checks import check_count, describe, read_numbers
from .counts import ImageCounts, check_counts
from .data_set import Resampled, Scores, scores_of
from .per_image import Absent, Background

Row = TypeVar("Row")

_BLOCK = 100  # resamples at a time: 100 x 40,000 images fit in memory


def bootstrap(
    counts: Mapping[Row, ImageCounts],
    *,
    base: ImageCounts | None = None,
    draws: int = 1000,
    seed: int = 0,
    vanish_share: float = 0.1,
    background: Background = "first",
    absent: Absent = "skip",
    labels: Sequence[int] | None = None,
) -> dict[Row, Resampled]:
    """Score several predictions of the same images on the same resamples of these images.

    The difference between two predictions on the same resamples is a paired bootstrap: what is hard for both
    cancels. See :func:`standard_error`.

    Parameters
    ----------
    counts : dict of name to ImageCounts
        Of each prediction, as from :func:`image_counts`; all of the same N images.
    base : ImageCounts, optional
        Of the masks that they were refined from, for the recovery rate.
    draws : int
        Number R of resamples. 1000, our choice, gives the standard error to about 2 %.
    seed : int
        Where the random numbers start, from 0.
    vanish_share, background, absent, labels
        As for :func:`scores_of`.

    Returns
    -------
    dict of name to Scores
        Each with a leading axis R, as :func:`scores_of` returns for ``weights``.

    Raises
    ------
    ValueError, TypeError
        No prediction, predictions of different images, a number or an option out of range.

    Examples
    --------
    >>> import numpy as np
    >>> from dhr_refine.metrics import bootstrap, image_counts, standard_error
    >>> target = np.array([[[0, 1]], [[0, 1]], [[1, 1]]])
    >>> before = image_counts(np.array([[[0, 0]], [[0, 1]], [[1, 0]]]), target, num_classes=2)
    >>> after = image_counts(target, target, num_classes=2)
    >>> scores = bootstrap({"before": before, "after": after}, draws=200)
    >>> scores["before"].miou.shape
    (200,)
    >>> bool(standard_error(scores["after"].miou - scores["before"].miou) > 0)
    True
    """
    if not isinstance(counts, Mapping) or not counts:
        raise ValueError(
            f"counts must be a dict with the counts of one prediction or more, got {describe(counts)}: "
            'pass {"refined": image_counts(...)}, say'
        )
    check_count(draws, "draws", 1)
    check_count(seed, "seed", 0)
    parts = [*counts.values()] if base is None else [*counts.values(), base]
    for part in parts:
        check_counts(part, "counts")
        if part.true.shape != parts[0].true.shape or (part.true != parts[0].true).any():
            raise ValueError("counts hold different images or ground truth: count the same images for all")
    images = len(parts[0].true)
    rng = np.random.default_rng(seed)
    sampled: dict[Row, list[Resampled]] = {row: [] for row in counts}
    for start in range(0, draws, _BLOCK):
        size = min(_BLOCK, draws - start)
        weights = np.zeros((size, 0))
        if images:
            weights = rng.multinomial(images, np.full(images, 1 / images), size=size)
        for row, part in counts.items():
            scores = scores_of(
                part,
                base=base,
                vanish_share=vanish_share,
                background=background,
                absent=absent,
                labels=labels,
                weights=weights,
            )
            sampled[row].append(scores)
    return {row: Scores(*map(np.concatenate, zip(*several))) for row, several in sampled.items()}


def standard_error(samples: np.ndarray | Sequence[float]) -> float:
    """Spread of a figure, or of a difference between two, over resamples.

    Parameters
    ----------
    samples : ndarray or sequence of float, (R,)
        A figure on each resample, NaN where it is not defined: these are left out.

    Returns
    -------
    float
        Standard deviation with R - 1 in the denominator, NaN with fewer than two defined values.

    Raises
    ------
    ValueError, TypeError
        ``samples`` are no list of numbers.

    Examples
    --------
    >>> from dhr_refine.metrics import standard_error
    >>> round(standard_error([0.5, 0.7, float("nan")]), 4)
    0.1414
    """
    given = read_numbers(samples, "samples", "a list of numbers")
    if given.ndim != 1:
        raise ValueError(f"samples must have shape (R,), got {describe(samples)}: pass one figure")
    defined = given[np.isfinite(given)]
    return float(defined.std(ddof=1)) if len(defined) > 1 else math.nan
