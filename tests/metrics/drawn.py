"""Masks drawn at random, and how scores of them are compared."""

from __future__ import annotations

import numpy as np
import pytest

CLASSES = 5


def draw_masks(seed, *, images=3, size=(9, 11), classes=CLASSES, ignore=0.1):
    """Predictions, base masks and truths in which classes are missing here and there, with 255 in all."""
    rng = np.random.default_rng(seed)
    shape = images, *size
    target = rng.integers(0, classes, shape) * (rng.random(shape) < 0.8)
    for image in target:  # each image lacks a class
        image[image == rng.integers(1, classes)] = 0
    result = []
    for noise in (0.3, 0.6):
        pred = np.where(rng.random(shape) < noise, rng.integers(0, classes, shape), target)
        for image in pred:  # and a class vanishes
            image[image == rng.integers(1, classes)] = 0
        result.append(np.where(rng.random(shape) < ignore / 2, 255, pred))
    return *result, np.where(rng.random(shape) < ignore, 255, target)


def close(one, other):
    return one == pytest.approx(other, rel=1e-12, abs=1e-15, nan_ok=True)
