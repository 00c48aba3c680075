"""How much each neighbour counts: the softmax of how alike its colour is, for PAR of its distance as well."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .averaging import DIRECTIONS, neighbours, pad

_EPSILON = 1e-8
# The exponential of less is next to nothing, but takes a CPU 36 times as long where float32 is denormal.
_LEAST = -80.0
# Pixels that the softmax works on at a time: what lies between stays in a core's cache. A power of two, so
# that vectors of a sum begin at the same pixels as over all of them, and add up in the same order.
_PIXELS = 2**13


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
    for part in _parts(weights):
        part -= part.amax(dim=1, keepdim=True)
        part.exp_()
        part /= part.sum(dim=1, keepdim=True)
    return weights


def par_weights(images: Tensor, dilations: tuple[int, ...], colour: float, near: Sequence[float]) -> Tensor:
    """Weights of PAR, (B, 8 * len(dilations), H, W): those of colours, which sum to 1, and ``near``.

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
    scale = squares.div_(count - 1).sqrt_().add_(_EPSILON).mul_(colour)
    scale.pow_(-2).div_(-3)  # of squares; -3: mean over RGB, negated
    shift = (mean - images).mul_(scale).mul_(2)
    weights = _planes(images, dilations)
    for index, view in enumerate(neighbours(padded, dilations, images.shape[-2:])):
        torch.sub(view, mean, out=difference)
        torch.addcmul(shift, difference, scale, out=other).mul_(difference)
        torch.sum(other, dim=1, out=weights[:, index])
    added = weights.new_tensor(near)[:, None]
    for part in _parts(weights):
        part -= part.amax(dim=1, keepdim=True)
        part.clamp_(min=_LEAST).exp_()
        part /= part.sum(dim=1, keepdim=True)
        part += added
    return weights


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
    shape = (batch, 8 * len(dilations), height, width)
    if images.device.type == "cpu":
        return torch.from_numpy(np.empty(shape, np.float32))  # NumPy asks the system for large pages
    return images.new_empty(shape)


def _parts(weights: Tensor) -> tuple[Tensor, ...]:
    """Views of some pixels in all planes, (B, planes, n); an accelerator takes all pixels together."""
    flat = weights.flatten(2)
    return flat.split(_PIXELS, dim=2) if weights.device.type == "cpu" else (flat,)
