"""The walk itself: CAMs averaged again and again over cells that belong together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import (
    check_count,
    check_data,
    check_magnitude,
    check_range,
    check_tensor,
    describe,
    way_to_tensor,
)
from ..compiled import eager
from ..maps import resize
from .affinity import Affinity
from .boxes import inside_boxes
from .polynomial import apply_power

_NAMES = ("cams", "affinity")
# How far a score may be from that of the plain products, over the largest of its map.
_ERROR = 1e-9
# Far above all uses; with many more a call would not return.
_MOST_STEPS = 2**20


@overload
def random_walk(
    cams: Tensor, affinity: Affinity, *, steps: int | None = None, within: float | None = None
) -> Tensor: ...


@overload
def random_walk(
    cams: Sequence[Tensor],
    affinity: Sequence[Affinity],
    *,
    steps: int | None = None,
    within: float | None = None,
) -> list[Tensor]: ...


@eager
def random_walk(
    cams: Tensor | Sequence[Tensor],
    affinity: Affinity | Sequence[Affinity],
    *,
    steps: int | None = None,
    within: float | None = None,
) -> Tensor | list[Tensor]:
    """Propagate CAMs over the cells of an image: in each step a cell takes the average of those like it.

    Parameters
    ----------
    cams : Tensor, (B, C, h, w) or (C, h, w), floating point, or a list of (C, h, w)
        Class activation maps, of the tags or of all classes, a background score among them if it is to be
        propagated as well (PSA, SEAM). CAMs of another size than the affinity's grid are brought to it: by
        area if that is smaller, bilinear otherwise.
    affinity : Affinity, or a list of them
        Of the same images, of :func:`edge_affinity`, :func:`pairwise_affinity`, :func:`attention_affinity` or
        :func:`feature_affinity`. For a list of CAMs a list of affinities of one image each.
    steps : int, optional
        Steps of the walk, 0 to 2**20. Default: those of the affinity, 2**8 for edges, 2**6 for pairs, 2 for
        attention, 16 for USS features. ``exp_times`` or ``logt`` of t in others' code are 2**t steps.
    within : float in [0, 1], optional
        Only what lies in the bounding boxes of connected cells above this share of a map's maximum enters the
        walk: 0.4 in CLIP-ES. Default: everything.

    Returns
    -------
    Tensor, (B, C, h, w) or (C, h, w), or a list
        Propagated scores at the affinity's grid, in the type of ``cams``. They are averages, so lower than
        the CAMs where these were high: divide by the maximum before a threshold, as :func:`base_mask` does.
        Gradients flow to ``cams``.

    Raises
    ------
    ValueError, TypeError
        Anything above violated, NaN, different batch sizes or devices; the message says which.

    Notes
    -----
    The maps are multiplied with the transition matrix; its powers are never made. Where it comes from
    symmetric weights, a Chebyshev sum makes 2**8 steps of about a hundred products, at a difference below
    1e-9 of a map's maximum. Sums run in float64, also under autocast: in float32 the roundings of so many
    steps add up to 1e-4. The host waits for the device once, with ``within`` twice.

    References
    ----------
    Jo et al., DHR, ECCV 2024, equation 1 (the base mask); Ahn and Kwak, CVPR 2018, equation 5; Ahn, Cho and
    Kwak, CVPR 2019, equation 10; Lin et al., CVPR 2023, equation 7.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine import random_walk
    >>> from dhr_refine.propagation import feature_affinity
    >>> features = torch.tensor([[[1.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]])  # the first two of three cells agree
    >>> random_walk(torch.tensor([[[0.8, 0.4, 0.1]]]), feature_affinity(features), steps=1)
    tensor([[[0.6000, 0.6000, 0.1000]]])
    """
    if steps is not None:
        check_count(steps, "steps", 0)
        check_range(steps, "steps", 0, _MOST_STEPS)
    if within is not None:
        check_range(within, "within", 0.0, 1.0)
    if isinstance(cams, Tensor):
        check_tensor(cams, "cams", "(B, C, h, w) or (C, h, w)", ndim=(3, 4), floating=True)
        result = _walk_images(cams if cams.ndim == 4 else cams[None], affinity, _NAMES, steps, within)
        return result if cams.ndim == 4 else result[0]
    if not isinstance(cams, Sequence) or isinstance(cams, str):
        raise TypeError(
            f"cams must be a tensor (B, C, h, w), (C, h, w) or a list, got {describe(cams)}: "
            f"{way_to_tensor(cams)}"
        )
    if not isinstance(affinity, Sequence) or len(affinity) != len(cams):
        count = f"a list of {len(affinity)}" if isinstance(affinity, Sequence) else describe(affinity)
        raise ValueError(
            f"cams is a list of {len(cams)} but affinity is {count}: pass a list with one for each image, or "
            "stack the CAMs"
        )
    walked = []
    for place, (one, own) in enumerate(zip(cams, affinity, strict=True)):
        names = (f"cams[{place}]", f"affinity[{place}]")
        check_tensor(one, names[0], "(C, h, w)", ndim=3, floating=True)
        walked.append(_walk_images(one[None], own, names, steps, within)[0])
    return walked


def _walk_images(
    cams: Tensor, affinity: Any, names: tuple[str, str], steps: int | None, within: float | None
) -> Tensor:
    """Propagate (B, C, h, w)."""
    _check(cams, affinity, names)
    if cams.numel() == 0:
        return cams.new_zeros(*cams.shape[:2], *affinity.grid)
    with torch.autocast(device_type=cams.device.type, enabled=False):
        maps = _bring_to(cams.to(torch.float64, copy=steps == 0), affinity.grid)
        if within is not None:
            maps = maps * inside_boxes(maps.detach(), within)
        if affinity.source is not None:
            maps = maps * _usable(affinity.source)[:, None]
        walked = _Walk.apply(maps.flatten(2), affinity, affinity.steps if steps is None else int(steps))
        return walked.unflatten(2, affinity.grid).to(cams.dtype)


def _check(cams: Tensor, affinity: Any, names: tuple[str, str]) -> None:
    if not isinstance(affinity, Affinity):
        raise TypeError(
            f"{names[1]} must be an Affinity, got {describe(affinity)}: make one of a boundary map with "
            "edge_affinity, of a matrix with pairwise_affinity or attention_affinity, of features with "
            "feature_affinity, all in dhr_refine.propagation"
        )
    if 0 in cams.shape[2:]:
        raise ValueError(f"{names[0]} is empty, got {describe(cams)}: h and w must be above 0")
    check_data(cams, names[0])
    if cams.shape[0] != affinity.images:
        raise ValueError(
            f"{names[0]} has {cams.shape[0]} image(s) but {names[1]} has {affinity.images}: pass the same "
            "images in both"
        )
    if cams.device != affinity.device:
        raise ValueError(
            f"{names[0]} is on {cams.device} but {names[1]} on {affinity.device}: make the affinity on the "
            "device of the CAMs"
        )
    check_magnitude(cams, names[0])


def _bring_to(maps: Tensor, grid: tuple[int, int]) -> Tensor:
    """Maps at the cells of a grid: means where it is coarser, else between the centres of cells."""
    if maps.shape[2:] == grid:
        return maps
    if maps.shape[2] >= grid[0] and maps.shape[3] >= grid[1]:
        return F.adaptive_avg_pool2d(maps, grid)
    return resize(maps, grid, aligned=False)


def _usable(maps: Tensor) -> Tensor:
    """Maps that autograd may keep: those of an affinity that was made in inference mode it may not."""
    return maps.clone() if maps.is_inference() else maps


class _Walk(torch.autograd.Function):
    """Steps of a walk of maps (B, C, N): linear, and its own adjoint but for the sums of the weights."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, affinity: Affinity, steps: int) -> Tensor:
        ctx.walk = (affinity, steps)
        averages = affinity.averages
        walked = averages.enter(maps)
        if affinity.sums is None:
            for _ in range(steps):
                walked = averages.average(walked)
        else:
            walked = apply_power(averages.average, walked, steps, _ERROR / affinity.spread**0.5)
        return averages.leave(walked)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        affinity, steps = ctx.walk
        if affinity.sums is None:
            return _Walk.apply(grads[0], affinity, steps), None, None
        sums = _usable(affinity.sums)[:, None]
        return _Walk.apply(grads[0] / sums, affinity, steps) * sums, None, None
