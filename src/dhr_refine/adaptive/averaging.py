"""Neighbours at several distances, and rounds of weighted averaging over them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product
from numbers import Integral

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import ImageProbs, show
from ..maps import resize

# Pixels refined together on an accelerator: bounds the weights at 8 x len(dilations) x 4 bytes each.
_PIXELS_AT_ONCE = 2**21
DIRECTIONS = tuple(step for step in product((-1, 0, 1), (-1, 0, 1)) if step != (0, 0))
"""Steps (y, x) to the 8 neighbours of a dilation of 1."""
Weigh = Callable[[Tensor, tuple[int, ...]], Tensor]
"""From images (B, 3, H, W) and dilations to the weights (B, 8 * len(dilations), H, W) of all neighbours."""


def check_dilations(dilations: Sequence[int]) -> tuple[int, ...]:
    """Return the distances of the neighbours as a tuple, or raise."""
    valid = isinstance(dilations, (tuple, list)) and len(dilations) > 0
    valid = valid and all(isinstance(d, Integral) and not isinstance(d, bool) and d > 0 for d in dilations)
    if not valid:
        raise ValueError(
            "dilations must be a non-empty tuple of positive ints, got "
            f"{show(dilations)}: pass e.g. (1, 2, 4)"
        )
    return tuple(map(int, dilations))


def average(
    pair: ImageProbs,
    images: Tensor,
    weigh: Weigh,
    *,
    dilations: tuple[int, ...],
    iterations: int,
    size: tuple[int, int] | None = None,
) -> Tensor:
    """Replace the scores of every pixel by the weighted sum over its neighbours, ``iterations`` times.

    ``images`` are the colours to compare; with ``size`` the work is done at another resolution.
    """
    batch, _, *full = pair.probs.shape
    height, width = size or full
    # From the size of the image on, all neighbours of a dilation are the same pixels of the border.
    steps = tuple(min(step, max(height, width)) for step in dilations)
    # On a CPU one image at a time stays in the caches; an accelerator wants several.
    chunk = 1 if images.device.type == "cpu" else max(1, _PIXELS_AT_ONCE // (height * width))
    result = torch.empty_like(pair.probs, memory_format=torch.contiguous_format)
    with torch.autocast(images.device.type, enabled=False):
        for start in range(0, batch, chunk):
            part = slice(start, start + chunk)
            weights = weigh(resize(images[part].float(), (height, width), aligned=False), steps)
            current = resize(pair.probs[part].float(), (height, width), aligned=False)
            for _ in range(iterations):
                current = _average_once(current, weights, steps)
            result[part] = resize(current, (full[0], full[1]), aligned=False)
    return result if pair.batched else result[0]


def _average_once(probs: Tensor, weights: Tensor, dilations: tuple[int, ...]) -> Tensor:
    padded = pad(probs, dilations)
    result = torch.zeros_like(probs)
    for index, view in enumerate(neighbours(padded, dilations, probs.shape[-2:])):
        result.addcmul_(view, weights[:, index : index + 1])
    return result


def neighbours(padded: Tensor, dilations: tuple[int, ...], size: torch.Size) -> Iterator[Tensor]:
    """Yield one view per neighbour of an image padded by the largest dilation: no copy is made."""
    border = max(dilations)
    height, width = size
    for dilation, (dy, dx) in product(dilations, DIRECTIONS):
        top, left = border + dy * dilation, border + dx * dilation
        yield padded[..., top : top + height, left : left + width]


def pad(values: Tensor, dilations: tuple[int, ...]) -> Tensor:
    """Repeat the border outwards as far as the largest dilation reaches."""
    return F.pad(values, (max(dilations),) * 4, mode="replicate")
