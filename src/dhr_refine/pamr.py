"""Pixel-adaptive mask refinement: a cheap, local alternative to the dense CRF."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_iterations, check_pair, describe, raise_magnitude, show

_LARGEST = torch.finfo(torch.float32).max
# Pixels refined together on an accelerator: bounds the affinities at 8 x len(dilations) x 4 bytes each.
_PIXELS_AT_ONCE = 2**21


@torch.no_grad()
def pamr(
    images: Tensor,
    probs: Tensor,
    *,
    iterations: int = 10,
    dilations: Sequence[int] = (1, 2, 4, 8, 12, 24),
) -> Tensor:
    r"""Refine probabilities by averaging over neighbours of similar colour (PAMR).

    Each pixel looks at the 8 neighbours of every dilation. Their weights are the softmax over all
    neighbours of ``-mean_rgb(|I_p - I_n| / (1e-8 + 0.1 s_p))``, with ``s_p`` the standard deviation of
    the colours in the same windows; every iteration replaces the probabilities by the weighted mean.
    The border is repeated outwards.

    Parameters
    ----------
    images : Tensor of shape (B, 3, H, W) or (3, H, W)
        RGB, uint8 or floating point in [0, 1].
    probs : Tensor of shape (B, K, H, W) or (K, H, W), floating point
        Probabilities (or any non-negative scores) at the size of the images: classes do not mix, so that one
        channel is fine as well. Numbers down to 0.25 below 0 count as 0, as for :func:`dense_crf`.
    iterations : int, default 10
        Rounds of averaging (Araslanov and Roth, 2020, use 10).
    dilations : sequence of int, default (1, 2, 4, 8, 12, 24)
        Distances of the neighbours in pixels (the same paper's choice).

    Returns
    -------
    Tensor of the shape, dtype and device of ``probs``
        Refined probabilities; sums over the classes are kept.

    Raises
    ------
    TypeError
        If an argument is not a tensor, or not of the kind asked for.
    ValueError
        If shapes, sizes or devices differ, if ``probs`` holds NaN, infinity or negative values, or if
        an option is out of range.

    Notes
    -----
    Runs in float32 whatever autocast says, without gradients. Extra memory is ``8 * len(dilations)``
    float32 planes of the image plus a few copies of ``probs``: 50 MB at 512 x 512 by default. The check
    of ``probs`` waits for the device once.

    References
    ----------
    N. Araslanov and S. Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020,
    section 4.2, equations 5 and 6.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine import pamr
    >>> image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    >>> image[:, :, 4:] = 255
    >>> probs = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0)).softmax(dim=0)
    >>> refined = pamr(image, probs, dilations=(1, 2))
    >>> refined.shape
    torch.Size([2, 8, 8])
    """
    pair = check_pair(images, probs)
    if pair.highest > _LARGEST:
        raise_magnitude(pair.probs, "probs")
    # From the size of the image on, all neighbours of a dilation are the same pixels of the border.
    steps = tuple(min(step, max(pair.probs.shape[2:])) for step in _check_dilations(dilations))
    check_iterations(iterations)
    colours = _to_unit_range(pair.images, images)
    batch, _, height, width = pair.probs.shape
    # On a CPU one image at a time stays in the caches; an accelerator wants several.
    chunk = 1 if colours.device.type == "cpu" else max(1, _PIXELS_AT_ONCE // (height * width))
    result = torch.empty_like(pair.probs, memory_format=torch.contiguous_format)
    with torch.autocast(colours.device.type, enabled=False):
        for start in range(0, batch, chunk):
            part = slice(start, start + chunk)
            weights = _affinities(colours[part].float(), steps)
            current = pair.probs[part].float()
            for _ in range(iterations):
                current = _average(current, weights, steps)
            result[part] = current
    return result if pair.batched else result[0]


def _check_dilations(dilations: Sequence[int]) -> tuple[int, ...]:
    valid = isinstance(dilations, (tuple, list)) and len(dilations) > 0
    valid = valid and all(isinstance(d, Integral) and not isinstance(d, bool) and d > 0 for d in dilations)
    if not valid:
        raise ValueError(
            "dilations must be a non-empty tuple of positive ints, got "
            f"{show(dilations)}: pass e.g. (1, 2, 4)"
        )
    return tuple(map(int, dilations))


def _to_unit_range(images: Tensor, given: Tensor) -> Tensor:
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise TypeError(
            f"images must be uint8 or floating point in [0, 1], got {describe(given)}: convert the dtype"
        )
    low, high = (float(v) for v in images.aminmax()) if images.numel() else (0.0, 1.0)
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"images must lie in [0, 1] where they are floating point, got [{low:.3g}, {high:.3g}]: "
            "undo the normalisation, or pass uint8"
        )
    return images


def _neighbours(padded: Tensor, dilations: tuple[int, ...], size: torch.Size):
    """Yield one view per neighbour of an image padded by the largest dilation: no copy is made."""
    pad = max(dilations)
    height, width = size
    for dilation, dy, dx in product(dilations, (-1, 0, 1), (-1, 0, 1)):
        if dy or dx:
            top, left = pad + dy * dilation, pad + dx * dilation
            yield padded[..., top : top + height, left : left + width]


def _pad(values: Tensor, dilations: tuple[int, ...]) -> Tensor:
    return F.pad(values, (max(dilations),) * 4, mode="replicate")


def _affinities(images: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """Weights of all neighbours, (B, 8 * len(dilations), H, W), summing to 1 over the neighbours."""
    batch, _, height, width = images.shape
    padded = _pad(images, dilations)
    # Sums of differences to the centre, which appears once per dilation with difference 0: no large
    # mean to cancel, so one pass is as exact as the two-pass variance.
    total, squares = torch.zeros_like(images), torch.zeros_like(images)
    for view in _neighbours(padded, dilations, images.shape[-2:]):
        difference = view - images
        total += difference
        squares.addcmul_(difference, difference)
    count = 9 * len(dilations)
    variance = squares.addcmul_(total, total, value=-1 / count).div_(count - 1).clamp_(min=0)
    scale = variance.sqrt_().mul_(0.1).add_(1e-8).mul_(-3).reciprocal_()  # -3: the mean over RGB, negated
    weights = images.new_empty((batch, 8 * len(dilations), height, width))
    for index, view in enumerate(_neighbours(padded, dilations, images.shape[-2:])):
        torch.sum((view - images).abs_().mul_(scale), dim=1, out=weights[:, index])
    # softmax in place, plane by plane.
    weights -= weights.amax(dim=1, keepdim=True)
    weights.exp_()
    weights /= weights.sum(dim=1, keepdim=True)
    return weights


def _average(probs: Tensor, weights: Tensor, dilations: tuple[int, ...]) -> Tensor:
    padded = _pad(probs, dilations)
    result = torch.zeros_like(probs)
    for index, view in enumerate(_neighbours(padded, dilations, probs.shape[-2:])):
        result.addcmul_(view, weights[:, index : index + 1])
    return result
