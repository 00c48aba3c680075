"""PAMR and PAR: cheap, local alternatives to the dense CRF."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..checks import (
    check_finite,
    check_iterations,
    check_pair,
    check_range,
    describe,
    find_extent,
    raise_magnitude,
    show,
)
from ..compiled import eager, ordinary
from .averaging import average, check_dilations
from .weights import pamr_weights, par_weights, position_weights

_LARGEST = torch.finfo(torch.float32).max
# Beyond this, squares of differences over a standard deviation of next to nothing come near float32's limit.
_LARGEST_COLOUR = 1e4


@eager
@ordinary
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
    steps = check_dilations(dilations)
    check_iterations(iterations)
    colours = _to_unit_range(pair.images, images)
    return average(pair, colours, pamr_weights, dilations=steps, iterations=iterations)


@eager
@ordinary
def par(
    images: Tensor,
    probs: Tensor,
    *,
    iterations: int = 10,
    dilations: Sequence[int] = (1, 2, 4, 8, 12, 24),
    colour: float = 0.3,
    position: float = 0.01,
    scale: float = 1.0,
) -> Tensor:
    r"""Refine probabilities by averaging over near neighbours of similar colour (PAR).

    The pixel-adaptive refinement of AFA, ToCo, DuPL, SeCo, MoRe, WeCLIP and ExCEL, which is not PAMR. Each
    pixel looks at the 8 neighbours of every dilation. Their weights are
    ``softmax(-mean_rgb((|I_p - I_n| / (colour s_p))^2) + position softmax(-(d_n / (colour s_d))^2)``, with
    ``s_p`` the standard deviation of the neighbours' colours, ``d_n`` their distances and ``s_d`` the
    standard deviation of these; every iteration replaces the probabilities by the weighted sum. The border is
    repeated outwards.

    Parameters
    ----------
    images : Tensor of shape (B, 3, H, W) or (3, H, W)
        RGB, uint8 or floating point, up to 1e4 in size. Colours are compared with their spread nearby, so
        that any normalisation gives the same result.
    probs : Tensor of shape (B, K, H, W) or (K, H, W), floating point
        Probabilities (or any non-negative scores) at the size of the images: classes do not mix, so that one
        channel is fine as well. Numbers down to 0.25 below 0 count as 0, as for :func:`dense_crf`.
    iterations : int, default 10
        Rounds of averaging: 10 in AFA and the codebases made of it, 20 in WeCLIP and ExCEL.
    dilations : sequence of int, default (1, 2, 4, 8, 12, 24)
        Distances of the neighbours in pixels (all of these codebases).
    colour : float, default 0.3
        Differences of this many standard deviations count as large, above 0; ``w1`` there.
    position : float, default 0.01
        Weight of the term that knows the distances alone, from 0 to 1; ``w2`` there.
    scale : float, default 1.0
        Resolution to work at, in (0, 1]. With 0.5 images and probabilities are brought to ``H // 2`` and
        ``W // 2`` and the result back, bilinear with half-pixel centres, as the callers of PAR in ToCo, DuPL
        and SeCo do (``down_scale=2``; the resizing with aligned corners inside PAR itself meets equal sizes
        there).

    Returns
    -------
    Tensor of the shape, dtype and device of ``probs``
        Refined scores. The weights of a pixel sum to ``1 + position`` and are not brought to 1, as in these
        codebases: 10 rounds make ``1.01 ** 10 = 1.105`` of a sum of 1. Divide by the sum over the classes for
        probabilities; the argmax needs none.

    Raises
    ------
    TypeError
        If an argument is not a tensor, or not of the kind asked for.
    ValueError
        If shapes, sizes or devices differ, if ``images`` or ``probs`` hold NaN or infinity, if ``probs`` are
        negative, or if an option is out of range.

    Notes
    -----
    Runs in float32 whatever autocast says, without gradients. Extra memory is ``8 * len(dilations)``
    float32 planes of the image at ``scale`` plus a few copies of ``probs``: 50 MB at 512 x 512 by default, a
    quarter of it with ``scale=0.5``. The checks wait for the device once, twice with floating point images.

    References
    ----------
    L. Ru et al., "Learning Affinity from Attention: End-to-End Weakly-Supervised Semantic Segmentation with
    Transformers", CVPR 2022, section 3.4; the constants are those of its code and of L. Ru et al., "Token
    Contrast for Weakly-Supervised Semantic Segmentation", CVPR 2023.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine import par
    >>> image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    >>> image[:, :, 4:] = 255
    >>> probs = torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(0)).softmax(dim=0)
    >>> refined = par(image, probs, dilations=(1, 2))
    >>> refined.sum(dim=0).mean().item()  # 1.01 to the power of 10
    1.1046...
    """
    pair = check_pair(images, probs)
    if pair.highest > _LARGEST:
        raise_magnitude(pair.probs, "probs")
    steps = check_dilations(dilations)
    check_iterations(iterations)
    check_range(colour, "colour", 1e-3, 1e3)
    check_range(position, "position", 0.0, 1.0)
    check_range(scale, "scale", 1e-6, 1.0)
    if pair.highest > 0 and position > 0:
        rounds = (math.log(_LARGEST) - math.log(pair.highest)) / math.log1p(position)
        if iterations > rounds:
            raise ValueError(
                f"iterations {show(iterations)} makes probs too large for float32, each round multiplies "
                f"their sum by {1 + position:g}: pass at most {int(rounds)}, or position=0"
            )
    _check_colours(pair.images, images)
    height, width = pair.probs.shape[2:]
    near = [position * weight for weight in position_weights(steps, colour)]

    def weigh(part: Tensor, clipped: tuple[int, ...]) -> Tensor:
        return par_weights(part, clipped, colour, near)

    size = max(1, int(height * scale)), max(1, int(width * scale))
    return average(pair, pair.images.detach(), weigh, dilations=steps, iterations=iterations, size=size)


def _check_colours(images: Tensor, given: Tensor) -> None:
    """Raise unless images are uint8, or floating point within what can be squared."""
    if images.dtype == torch.uint8:
        return
    if not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating point, got {describe(given)}: convert the dtype")
    low, high = find_extent(images)
    if not (math.isfinite(low) and math.isfinite(high)):
        check_finite(images, "images")
    if max(-low, high) > _LARGEST_COLOUR:
        raise ValueError(
            f"images must lie in [-{_LARGEST_COLOUR:g}, {_LARGEST_COLOUR:g}], got [{low:.3g}, {high:.3g}]: "
            "scale them down, any normalisation gives the same result"
        )


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
