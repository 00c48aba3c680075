"""What callers pass, as the arrays that the engine works on: every number type, every memory layout."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from ..checks import describe, read_numbers
from ..crf.unary import LARGEST_ENERGY

Numbers: TypeAlias = "ArrayLike | Tensor"
"""A number, an array or nested lists of numbers as callers pass them."""

# Weights and marginals up to these keep well below the largest energy, times a million
# pixels and hundreds of labels.
_LARGEST_WEIGHT, LARGEST_MARGINAL = 1e15, 1e4


def read_count(value: Any, name: str, least: int) -> int:
    """A whole number of at least ``least``; as in the original, what follows the point is cut off."""
    try:
        number = int(float(value)) if isinstance(value, Real) else operator.index(value)
    except (TypeError, ValueError, OverflowError):
        raise TypeError(f"{name} must be a whole number, got {describe(value)}: pass an int") from None
    if number < least:
        raise ValueError(f"{name} must be at least {least}, got {number}: pass {least} or more")
    return number


def read_array(value: Any, name: str, form: str) -> np.ndarray:
    """Copy numbers to a contiguous float32 array with as many axes as ``form`` such as "(rows, columns)"."""
    numbers = read_numbers(value, name, f"an array {form}")
    axes = len(form.strip("(),").split(","))
    if numbers.ndim != axes:
        raise ValueError(f"{name} must have shape {form}, got {describe(numbers)}: reshape it to {axes} axes")
    with np.errstate(over="ignore"):  # what is too large for float32 is infinite, and checked as such
        return np.array(numbers, dtype=np.float32, order="C")


def lie_within(values: np.ndarray, limit: float) -> bool:
    """Whether all numbers lie between ``-limit`` and ``limit``; NaN does not."""
    return values.size == 0 or bool(-limit < values.min() and values.max() < limit)


def read_energies(u: Any, f: Any, labels: int, pixels: int) -> np.ndarray:
    """Unary energies (labels, pixels), finite but for +inf, and not +inf for every label of a pixel."""
    name = "u" if f is None else "u @ f"
    if f is None:
        _check_energies(u, labels, pixels)
        energies = read_array(u, "u", "(n_labels, n_pixels)")
    else:
        weights, features = read_array(u, "u", "(n_labels, n)"), read_array(f, "f", "(n, n_pixels)")
        if (len(weights), features.shape[1]) != (labels, pixels) or weights.shape[1] != len(features):
            raise ValueError(
                f"u and f must have shapes ({labels}, n) and (n, {pixels}) for {labels} labels, n features "
                f"and {pixels} pixels, got {weights.shape} and {features.shape}: pass weights u and features "
                "f whose product u @ f is the energy"
            )
        with np.errstate(over="ignore", invalid="ignore"):
            energies = weights @ features
    if not lie_within(energies, LARGEST_ENERGY):
        _mend_energies(energies, name)
    return energies


def _check_energies(u: Any, labels: int, pixels: int) -> None:
    """Raise unless energies have the shape of the field, with the way from the shape that came."""
    shape = read_numbers(u, "u", f"energies ({labels}, {pixels})").shape
    if shape == (labels, pixels):
        return
    fix = "one row for each label, one column for each pixel; check the sizes given to the constructor"
    if shape == (pixels, labels):
        fix = "u.T"
    elif len(shape) > 2 and math.prod(shape) == labels * pixels:
        if shape[0] == labels:
            fix = f"u.reshape({labels}, -1)"
        elif shape[-1] == labels:
            fix = f"np.moveaxis(u, -1, 0).reshape({labels}, -1)"
    raise ValueError(
        f"u must have shape (n_labels, n_pixels) = ({labels}, {pixels}), got {shape}: pass {fix}"
    )


def _mend_energies(energies: np.ndarray, name: str) -> None:
    """Raise for NaN and -inf; where every label of a pixel is impossible or nearly so, differences count."""
    if np.isnan(energies).any():
        raise ValueError(
            f"{name} has NaN: pass finite energies, or +inf where a label is impossible; -log of a negative "
            "number is NaN, clip probabilities first"
        )
    if np.isneginf(energies).any():
        raise ValueError(
            f"{name} has -inf: pass energies, -log(probability), where a certain label has 0 and an "
            "impossible one +inf; was the minus left out?"
        )
    lowest = energies.min(axis=0)
    energies[:, lowest == math.inf] = 0
    far = (lowest > LARGEST_ENERGY) & (lowest < math.inf)
    energies[:, far] -= lowest[far]


def read_features(features: Any, pixels: int) -> np.ndarray:
    """Finite float32 features (d, pixels)."""
    values = read_array(features, "features", "(d, n_pixels)")
    if len(values) == 0 or values.shape[1] != pixels:
        fix = "features.T" if len(values) == pixels else "one row for each feature, one column for each pixel"
        raise ValueError(
            f"features must have shape (d, n_pixels) = (d, {pixels}) with d above 0, got {values.shape}: "
            f"pass {fix}"
        )
    if not lie_within(values, math.inf):
        raise ValueError(
            "features has NaN or infinite numbers: pass finite ones; a deviation of 0 makes infinite ones"
        )
    return values


def read_image(rgbim: Any, height: int, width: int) -> np.ndarray:
    """A uint8 image (height, width, 3), also of other types that hold whole numbers of 0..255."""
    image = read_numbers(rgbim, "rgbim", f"an image ({height}, {width}, 3)")
    if image.shape != (height, width, 3):
        fix = "an RGB image of the size given to DenseCRF2D(w, h, n_labels), width first"
        if image.shape == (3, height, width):
            fix = "np.moveaxis(rgbim, 0, -1)"
        elif image.shape == (width, height, 3):
            fix = "w = rgbim.shape[1] and h = rgbim.shape[0] to DenseCRF2D(w, h, n_labels)"
        elif image.ndim in (2, 3) and image.shape[:2] == (height, width):
            fix = (
                "features of other than three channels to addPairwiseEnergy: "
                "utils.create_pairwise_bilateral makes them"
            )
        raise ValueError(
            f"rgbim must have shape (h, w, 3) = ({height}, {width}, 3), got {describe(image)}: pass {fix}"
        )
    if image.dtype == np.uint8:
        return np.ascontiguousarray(image)
    with np.errstate(invalid="ignore"):
        levels = image.astype(np.uint8)
    if not np.array_equal(levels, image):
        raise ValueError(
            f"rgbim must hold whole numbers of 0..255, got {describe(image)} with others: pass "
            "(255 * rgbim).round().astype(np.uint8) if they lie in 0..1, or give them, with srgb in their "
            "own units, to utils.create_pairwise_bilateral and addPairwiseEnergy"
        )
    return levels


def read_deviations(value: Any, name: str, axes: str) -> tuple[float, ...]:
    """Positive numbers, one for each of ``axes`` such as "(x, y)"; a single number stands for all."""
    count = len(axes.split(","))
    numbers = read_numbers(value, name, f"a number or {count} of them {axes}")
    if numbers.ndim == 0:
        numbers = np.full(count, numbers)
    if numbers.shape != (count,):
        raise ValueError(
            f"{name} must be a number or {count} of them {axes}, got {describe(value)}: pass one for all"
        )
    if not (numbers > 0).all():  # NaN is not
        raise ValueError(f"{name} must be above 0, got {describe(value)}: pass positive numbers")
    return tuple(map(float, numbers))


def read_compat(value: Any, labels: int) -> float | np.ndarray:
    """A number; a diagonal (labels,); a symmetric matrix (labels, labels)."""
    numbers = read_numbers(value, "compat", "a number, a vector or a matrix of numbers")
    if numbers.ndim > 2 or any(side != labels for side in numbers.shape):
        raise ValueError(
            f"compat must be a number, or have shape ({labels},) or ({labels}, {labels}) for {labels} "
            f"labels, got {describe(numbers)}: pass a number for Potts' model, a vector for a diagonal, or a "
            "matrix"
        )
    with np.errstate(over="ignore"):
        weights = numbers.astype(np.float32)
    if not (np.abs(weights) <= _LARGEST_WEIGHT).all():  # NaN is not
        raise ValueError(
            f"compat must be finite and lie within {_LARGEST_WEIGHT:g} of 0, got {describe(value)}: "
            "pass smaller numbers, usually 3 to 10"
        )
    if weights.ndim == 0:
        return float(weights)
    # A matrix that is not symmetric stands for the mean of both directions, as in the original.
    return (weights + weights.T) / 2 if weights.ndim == 2 else weights
