"""How much each neighbour counts: the softmax of how alike its colour is, for PAR of its distance as well."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .averaging import DIRECTIONS, neighbours, pad

_EPSILON = 1e-8


def pamr_weights(images: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """Weights of all neighbours, (B, 8 * len(dilations), H, W), summing to 1 over the neighbours."""
    padded = pad(images, dilations)
    # Sums of differences to the centre, which appears once per dilation with difference 0: no large
    # mean to cancel, so one pass is as exact as the two-pass variance.
    total, squares = torch.zeros_like(images), torch.zeros_like(images)
    for view in neighbours(padded, dilations, images.shape[-2:]):
        difference = view - images
        total += difference
        squares.addcmul_(difference, difference)
    count = 9 * len(dilations)
    variance = squares.addcmul_(total, total, value=-1 / count).div_(count - 1).clamp_(min=0)
    scale = variance.sqrt_().mul_(0.1).add_(_EPSILON).mul_(-3).reciprocal_()  # -3: mean over RGB, negated
    weights = _planes(images, dilations)
    for index, view in enumerate(neighbours(padded, dilations, images.shape[-2:])):
        torch.sum((view - images).abs_().mul_(scale), dim=1, out=weights[:, index])
    return _softmax_(weights)


def par_weights(images: Tensor, dilations: tuple[int, ...], colour: float) -> Tensor:
    """Colour weights of PAR, (B, 8 * len(dilations), H, W), summing to 1 over the neighbours.

    In ``(I_p - I_n)^2 = (I_n - m)(I_n + m - 2 I_p) + (I_p - m)^2`` with the neighbours' mean m the last term
    is the same for all neighbours and drops out of the softmax. The rest loses no digits where the pixel
    itself is unlike all of them, and m need not be exact.
    """
    padded = pad(images, dilations)
    mean, squares = torch.zeros_like(images), torch.zeros_like(images)
    for view in neighbours(padded, dilations, images.shape[-2:]):
        mean += view
    count = 8 * len(dilations)
    mean /= count
    # The centre is not among the neighbours and may be far from them: their mean comes first.
    difference, other = torch.empty_like(images), torch.empty_like(images)
    for view in neighbours(padded, dilations, images.shape[-2:]):
        torch.sub(view, mean, out=difference)
        squares.addcmul_(difference, difference)
    scale = squares.div_(count - 1).sqrt_().add_(_EPSILON).mul_(colour).reciprocal_()
    shift = (mean - images).mul_(scale).mul_(2)
    weights = _planes(images, dilations)
    for index, view in enumerate(neighbours(padded, dilations, images.shape[-2:])):
        torch.sub(view, mean, out=difference).mul_(scale)
        torch.add(difference, shift, out=other).mul_(difference)
        torch.sum(other, dim=1, out=weights[:, index])
    return _softmax_(weights.div_(-3))  # the mean over RGB, negated


def position_weights(dilations: tuple[int, ...], colour: float) -> list[float]:
    """Softmax over the neighbours of ``-(d / (std(d) * colour))^2``, d their distances in pixels."""
    steps = np.array([np.hypot(dy, dx) for dy, dx in DIRECTIONS])
    # Beyond any image, and not so far that squares overflow.
    capped = np.array([min(dilation, 10**100) for dilation in dilations], dtype=np.float64)
    distances = (capped[:, None] * steps).ravel()
    scores = -((distances / (distances.std(ddof=1) + _EPSILON) / colour) ** 2)
    weights = np.exp(scores - scores.max())
    return (weights / weights.sum()).tolist()


def _planes(images: Tensor, dilations: tuple[int, ...]) -> Tensor:
    batch, _, height, width = images.shape
    return images.new_empty((batch, 8 * len(dilations), height, width))


def _softmax_(weights: Tensor) -> Tensor:
    """Softmax over the neighbours in place, plane by plane."""
    weights -= weights.amax(dim=1, keepdim=True)
    weights.exp_()
    weights /= weights.sum(dim=1, keepdim=True)
    return weights
