"""Energies from probabilities and labels, and features of kernels over images of any dimension."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from ..checks import describe, read_ints, read_numbers
from .arguments import Numbers, read_count, read_deviations

__all__ = [
    "compute_unary",
    "create_pairwise_bilateral",
    "create_pairwise_gaussian",
    "softmax_to_unary",
    "unary_from_labels",
    "unary_from_softmax",
]

_LOG = logging.getLogger("dhr_refine")


def unary_from_softmax(sm: Numbers, scale: float | None = None, clip: float | None = 1e-5) -> np.ndarray:
    """Turn class probabilities into energies, -log(p).

    Parameters
    ----------
    sm : array_like of real numbers, (n_labels, ...)
        Probabilities of each label, over pixels of any shape. As in the original, half precision is computed
        in half precision: pass ``sm.astype(np.float32)`` for more.
    scale : float, in (0, 1], optional
        How certain the probabilities are: 1 becomes ``scale`` and a share of the rest, 0 a share of the rest.
    clip : float or None, default 1e-5
        Least probability; None leaves 0 as it is, whose energy is infinite.

    Returns
    -------
    ndarray of float32, (n_labels, n_pixels)

    Raises
    ------
    TypeError
        ``sm`` holds no real numbers.
    ValueError
        ``sm`` is a single number, ``scale`` lies outside of (0, 1].

    Examples
    --------
    >>> import numpy as np
    >>> from dhr_refine.pydensecrf.utils import unary_from_softmax
    >>> unary_from_softmax(np.full((2, 4, 5), 0.5)).shape
    (2, 20)
    """
    probs = read_numbers(sm, "sm", "probabilities (n_labels, ...)")
    if probs.ndim == 0 or len(probs) == 0:
        raise ValueError(f"sm must have shape (n_labels, ...), got {describe(sm)}: put the labels first")
    if scale is not None:
        if not 0 < scale <= 1:
            raise ValueError(f"scale must lie in (0, 1], got {scale!r}: pass e.g. 0.9, or None for no change")
        # An array, so that the sum has double precision, as in the original.
        uniform = np.full((1,) * probs.ndim, 1 / len(probs))
        probs = scale * probs + (1 - scale) * uniform
    if clip is not None:
        probs = np.clip(probs, clip, 1.0)
    with np.errstate(divide="ignore"):  # an impossible label has an infinite energy
        energies = -np.log(probs)
    return energies.reshape(len(probs), math.prod(probs.shape[1:])).astype(np.float32, order="C")


def unary_from_labels(labels: Numbers, n_labels: int, gt_prob: float, zero_unsure: bool = True) -> np.ndarray:
    """Turn a label map into energies: that of the label it names, and the same for all others.

    Parameters
    ----------
    labels : array_like of int or bool, any shape (H, W)
        Labels. 0 is "could be anything" if ``zero_unsure``, and the first label otherwise.
    n_labels : int
        Number of labels, at least 2; with ``zero_unsure``, 0 does not count as one.
    gt_prob : float, in (0, 1)
        Probability that the label is right.
    zero_unsure : bool, default True
        Whether pixels of label 0 get the same energy for all labels.

    Returns
    -------
    ndarray of float32, (n_labels, n_pixels)

    Raises
    ------
    TypeError
        ``labels`` holds no whole numbers, ``n_labels`` is none.
    ValueError
        Labels beyond ``n_labels`` or below 0, ``gt_prob`` outside of (0, 1), fewer than two labels.

    Examples
    --------
    >>> import numpy as np
    >>> from dhr_refine.pydensecrf.utils import unary_from_labels
    >>> np.exp(-unary_from_labels(np.array([0, 1, 2]), 2, gt_prob=0.7)).round(2)
    array([[0.5, 0.7, 0.3],
           [0.5, 0.3, 0.7]], dtype=float32)
    """
    count = read_count(n_labels, "n_labels", 2)
    if not 0 < gt_prob < 1:
        raise ValueError(f"gt_prob must lie in (0, 1), got {gt_prob!r}: pass e.g. 0.7")
    names = read_numbers(labels, "labels", "whole numbers, labels of pixels")
    if names.dtype.kind == "f":
        raise TypeError(f"labels must be whole numbers, got {describe(labels)}: pass labels.astype(int)")
    first = 1 if zero_unsure else 0
    own = names.reshape(-1).astype(np.int64) - first
    last = count - 1 + first
    if own.size and not (-first <= own.min() and own.max() < count):
        wrong = [int(name) for name in np.unique(own + first) if not 0 <= name <= last]
        raise ValueError(
            f"labels must lie in 0..{last} for n_labels={count} and zero_unsure={zero_unsure}, got "
            f"{', '.join(map(str, wrong[:5]))}: pass a larger n_labels, or label the pixels that have none "
            "(255, -1) with 0, all others with one more, and keep zero_unsure=True"
        )
    energies = np.full((count, own.size), -np.log((1 - gt_prob) / (count - 1)), dtype=np.float32)
    energies[own, np.arange(own.size)] = -np.log(gt_prob)
    if zero_unsure:
        energies[:, own == -1] = -np.log(1 / count)
    return energies


def create_pairwise_gaussian(sdims: Sequence[float], shape: Sequence[int]) -> np.ndarray:
    """Make the features of a Gaussian kernel: positions over deviations.

    Parameters
    ----------
    sdims : sequence of float
        Deviation along each axis, in the order of ``shape``: for an image (y, x), unlike ``sxy``.
    shape : sequence of int
        Number of pixels along each axis: (H, W), (D, H, W), ...

    Returns
    -------
    ndarray of float32, (number of axes, n_pixels)
        For `DenseCRF.addPairwiseEnergy`.

    Raises
    ------
    TypeError
        ``sdims`` or ``shape`` are no sequences of numbers.
    ValueError
        Their lengths differ, a deviation is not above 0, a size is below 0.

    Examples
    --------
    >>> from dhr_refine.pydensecrf.utils import create_pairwise_gaussian
    >>> create_pairwise_gaussian(sdims=(3, 5), shape=(40, 60)).shape
    (2, 2400)
    """
    return _positions(sdims, _read_shape(shape))


def create_pairwise_bilateral(
    sdims: Sequence[float], schan: float | Sequence[float], img: Numbers, chdim: int = -1
) -> np.ndarray:
    """Make the features of a bilateral kernel: positions and channels over deviations.

    Parameters
    ----------
    sdims : sequence of float
        Deviation along each axis of the image but the channels', in their order: for an image (y, x).
    schan : float or sequence of float
        Deviation of the channels in the units of ``img``, a number for all or one for each.
    img : array_like of real numbers, (H, W, C)
        The image, of any dimension, integer or floating point.
    chdim : int, default -1
        Axis of the channels; -1 says that there is none, and that ``img`` is one channel.

    Returns
    -------
    ndarray of float32, (number of axes + channels, n_pixels)
        For `DenseCRF.addPairwiseEnergy`.

    Raises
    ------
    TypeError
        What should be numbers is not, ``sdims`` is no sequence.
    ValueError
        Their lengths do not fit the image, a deviation is not above 0, ``img`` has no axis ``chdim``.

    Examples
    --------
    >>> import numpy as np
    >>> from dhr_refine.pydensecrf.utils import create_pairwise_bilateral
    >>> image = np.zeros((40, 60, 3), np.uint8)
    >>> create_pairwise_bilateral(sdims=(80, 80), schan=(13, 13, 13), img=image, chdim=2).shape
    (5, 2400)
    """
    image = read_numbers(img, "img", "an image")
    if chdim == -1:
        channels = image[None]
    else:
        axis = _read_axis(chdim, image)
        channels = np.moveaxis(image, axis, 0)
    if channels.ndim < 2:
        raise ValueError(
            f"img must have an axis beside the channels', got {describe(image)}: pass chdim=-1 where it is "
            "one row of one channel"
        )
    count = len(channels)
    form = f"({', '.join(f'c{index}' for index in range(count))})"
    if np.ndim(schan) == 1 and len(cast(Sequence[float], schan)) != count and chdim == -1:
        raise ValueError(
            f"schan must be a number for an image without channels, got {describe(schan)}: pass chdim, the "
            "axis of the channels, if it has some"
        )
    own = read_deviations(schan, "schan", form)
    colours = channels.reshape(count, math.prod(channels.shape[1:])).astype(np.float32)
    scaled = _divide(colours, [schan] * count if np.ndim(schan) == 0 else schan, own)
    return np.concatenate([_positions(sdims, channels.shape[1:]), scaled])


def softmax_to_unary(sm: Numbers, GT_PROB: float = 1) -> np.ndarray:
    """Old name of :func:`unary_from_softmax`; says so in the log.

    Parameters
    ----------
    sm : array_like of real numbers, (n_labels, ...)
        Probabilities.
    GT_PROB : float, in (0, 1], default 1
        The ``scale`` there.

    Returns
    -------
    ndarray of float32, (n_labels, n_pixels)

    Raises
    ------
    TypeError, ValueError
        As there.

    Examples
    --------
    >>> import numpy as np
    >>> from dhr_refine.pydensecrf.utils import softmax_to_unary
    >>> softmax_to_unary(np.full((2, 4, 5), 0.5)).shape
    (2, 20)
    """
    _LOG.warning("pydensecrf.softmax_to_unary is deprecated, use unary_from_softmax instead.")
    return unary_from_softmax(sm, scale=GT_PROB)


def compute_unary(labels: Numbers, M: int, GT_PROB: float = 0.5) -> np.ndarray:
    """Old name of :func:`unary_from_labels`; says so in the log.

    Parameters
    ----------
    labels : array_like of int or bool, any shape (H, W)
        Labels, 0 for "could be anything".
    M : int
        Number of labels without 0.
    GT_PROB : float, in (0, 1), default 0.5
        Probability that the label is right.

    Returns
    -------
    ndarray of float32, (n_labels, n_pixels)

    Raises
    ------
    TypeError, ValueError
        As there.

    Examples
    --------
    >>> import numpy as np
    >>> from dhr_refine.pydensecrf.utils import compute_unary
    >>> compute_unary(np.array([[0, 1, 2]]), 2).shape
    (2, 3)
    """
    _LOG.warning("pydensecrf.compute_unary is deprecated, use unary_from_labels instead.")
    return unary_from_labels(labels, M, GT_PROB)


def _positions(sdims: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Each pixel's position over the deviations, (axes, pixels)."""
    form = f"({', '.join(f's{axis}' for axis in range(len(shape)))})"
    if np.ndim(sdims) != 1:
        raise TypeError(
            f"sdims must be a sequence {form}, got {describe(sdims)}: pass one number for each axis"
        )
    own = read_deviations(sdims, "sdims", form)
    grid = np.indices(shape, dtype=np.float32).reshape(len(shape), math.prod(shape))
    return _divide(grid, sdims, own)


def _divide(rows: np.ndarray, deviations: Any, numbers: tuple[float, ...]) -> np.ndarray:
    """Rows over deviations as they came: to NumPy, a number of its own is not what a Python float is.

    With the former it divides in their precision, with the latter in single precision; so does the original.
    """
    result = np.empty(rows.shape, dtype=np.float32)
    exact = deviations if isinstance(deviations, (list, tuple, np.ndarray)) else numbers
    for row, deviation, scaled in zip(rows, exact, result):
        scaled[:] = row / deviation
    return result


def _read_shape(shape: Any) -> tuple[int, ...]:
    if np.ndim(shape) != 1 or len(shape) == 0:
        raise TypeError(f"shape must be a sequence of sizes, got {describe(shape)}: pass img.shape[:2], say")
    return read_ints(shape, "shape", f"({', '.join('H' for _ in shape)})", least=0)


def _read_axis(chdim: Any, image: np.ndarray) -> int:
    """The axis of the channels, counted from the front."""
    try:
        axis = range(image.ndim)[chdim]
    except (TypeError, IndexError):
        axis = None
    if not isinstance(axis, int):
        raise ValueError(
            f"chdim must be an axis of img, got {chdim!r} for {describe(image)}: pass 2 for (H, W, C), 0 for "
            "(C, H, W), -1 where there are no channels"
        )
    return axis
