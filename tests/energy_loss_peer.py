"""The dense energy loss in NumPy, from its formula: on pydensecrf's lattice, or by sums over all pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray
Filter = Callable[[Array, Array], Array]


def filter_by_lattice(features: Array, values: Array) -> Array:
    """Filter values (K, N) over features (d, N) on pydensecrf's lattice, without normalisation.

    pydensecrf does not show its filter, but a step of mean field from no energies gives the softmax of what
    comes out of it. A further class whose values are 0 is what the others are compared with.
    """
    scale = _scale_of(values)
    logs = np.log(step_on_lattice(features, values).astype(np.float64))
    return (logs[:-1] - logs[-1]) / scale


def step_on_lattice(features: Array, values: Array) -> Array:
    """The softmax (K + 1, N) of filtered values (K, N) and of a class that is 0, all times a scale."""
    from pydensecrf.densecrf import DIAG_KERNEL, NO_NORMALIZATION, DenseCRF

    classes, count = values.shape
    scale = _scale_of(values)
    crf = DenseCRF(count, classes + 1)
    crf.setUnaryEnergy(np.zeros((classes + 1, count), np.float32))
    crf.addPairwiseEnergy(np.ascontiguousarray(features, np.float32), scale, DIAG_KERNEL, NO_NORMALIZATION)
    probs, first, second = crf.startInference()
    shown = np.asarray(probs)
    shown[:-1], shown[-1] = values, 0
    crf.stepInference(probs, first, second)
    return np.asarray(probs)


def _scale_of(values: Array) -> float:
    return 10 / values.shape[1]  # the filter of values up to 1 is at most their number


def filter_by_pairs(features: Array, values: Array) -> Array:
    """Filter values (K, N) over features (d, N) by the Gaussian of every pair."""
    distances = ((features[:, :, None] - features[:, None]) ** 2).sum(0)
    return values @ np.exp(-distances / 2)


class Energy(NamedTuple):
    """What the loss is and its gradient to the probabilities before resizing."""

    loss: float
    gradient: Array


def energy(
    images: Any,
    probs: Any,
    labels: Any,
    boxes: list[tuple[int, int, int, int]] | None = None,
    *,
    weight: float = 1e-7,
    sigma_rgb: float = 15,
    sigma_xy: float = 100,
    scale_factor: float = 0.5,
    filtering: Filter = filter_by_lattice,
) -> Energy:
    """The loss of images (N, 3, H, W) in grey levels; boxes are x0, y0, x1, y1."""
    images, probs, labels = (np.asarray(value) for value in (images, probs, labels))
    number, _, height, width = probs.shape
    nearest, linear = _resizers(height, width, scale_factor)
    region = np.zeros((number, height, width))
    for own, (x0, y0, x1, y1) in zip(region, boxes or [(0, 0, width, height)] * number, strict=True):
        own[y0:y1, x0:x1] = 1
    loss, gradient = 0.0, np.empty(probs.shape)
    for index in range(number):
        image, inside, unlabelled = (
            nearest(whole) for whole in (images[index], region[index], labels[index] == 255)
        )
        scores = linear[0] @ probs[index].astype(np.float64) @ linear[1].T
        gate = np.where(unlabelled, 1, np.maximum(inside - scores.max(0), 0))
        rows, columns = np.indices(inside.shape) / (sigma_xy * scale_factor)
        features = np.stack([columns, rows, *(image.astype(np.float64) / sigma_rgb)]).reshape(5, -1)
        masked = inside * scores
        filtered = filtering(features, masked.reshape(len(masked), -1)).reshape(masked.shape)
        loss -= weight / number * (masked * gate * filtered).sum()
        own = -2 * weight / number * inside * gate * filtered
        gradient[index] = linear[0].T @ own @ linear[1]
    return Energy(loss, gradient)


def softmax_gradient(probs: Array, gradient: Array) -> Array:
    """The gradient to logits from that to their softmax over axis 1."""
    return probs * (gradient - (gradient * probs).sum(1, keepdims=True))


def _resizers(height: int, width: int, factor: float) -> tuple[Callable[[Array], Array], tuple[Array, Array]]:
    """What picks the nearest pixels of (..., H, W), and the bilinear weights of rows and of columns."""
    small = int(height * factor), int(width * factor)
    rows, columns = (
        (np.arange(n) * (full / n)).astype(int) for n, full in zip(small, (height, width), strict=True)
    )
    matrices = []
    for n, full in zip(small, (height, width), strict=True):
        places = np.clip((np.arange(n) + 0.5) * full / n - 0.5, 0, full - 1)
        low = np.minimum(places.astype(int), full - 1)
        matrix = np.zeros((n, full))
        matrix[np.arange(n), low] += 1 - (places - low)
        matrix[np.arange(n), np.minimum(low + 1, full - 1)] += places - low
        matrices.append(matrix)
    return lambda whole: whole[..., rows[:, None], columns], (matrices[0], matrices[1])
