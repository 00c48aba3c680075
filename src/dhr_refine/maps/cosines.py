"""Class averages of a feature map and the cosine of every cell with each of them, reading the map once."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from ..compiled import counterpart
from .resizing import between, resize

# A vector shorter than this has no direction; cosines do not depend on the scale of features otherwise.
LEAST_NORM = 1e-18
# Entries of the blocks of channels that a CPU works on: 2 MB, so that a block stays in the cache.
_BLOCK = 1 << 19

# The compiled pass, None without numba.
_compiled = functools.partial(counterpart, "dhr_refine.maps.cosines_numba")


class Compared(NamedTuple):
    """Result of :func:`compare`."""

    centroids: Tensor  # (B, C, D) float32
    cosine: Tensor  # (B, C, h, w) float32


def compare(features: Tensor, weights: Tensor, grid: torch.Size | None = None) -> Compared:
    """Pool checked features (B, D, h, w) and compare every cell with every class average.

    ``weights`` (B, C, h * w) are cell weights that sum to 1, or 0 for an absent class. With a ``grid`` the
    features are first resized to it, bilinearly with aligned corners, and the weights are those of its cells.
    """
    cells = features.shape[-2:] if grid is None else grid
    compiled = _compiled() if features.device.type == "cpu" and features.stride(1) != 1 else None
    if compiled is not None:
        sizes = () if cells == features.shape[-2:] else zip(features.shape[-2:], cells)
        axes = tuple(between(size, count) for size, count in sizes)
        vectors, dots, squares = compiled.compare_images(features, weights, axes)
    elif features.device.type == "cpu" and len(features) > 1:
        # Image by image on a CPU: the blocks of a whole batch would not fit the cache.
        parts = [_sum(one, own, cells) for one, own in zip(features.split(1), weights.split(1))]
        vectors, dots, squares = (torch.cat(maps) for maps in zip(*parts))
    else:
        vectors, dots, squares = _sum(features, weights, cells)
    cosine = dots / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp_min(LEAST_NORM)
    cosine /= squares.sqrt().clamp_min(LEAST_NORM)
    return Compared(vectors, cosine.unflatten(-1, cells))


def _sum(features: Tensor, weights: Tensor, grid: torch.Size) -> tuple[Tensor, Tensor, Tensor]:
    """Averages (B, C, D), dot products (B, C, N) and squared norms (B, 1, N) of the cells of a grid."""
    # An entry of a class average depends on its channel alone. So one channel after the other can be resized,
    # pooled, squared and multiplied with its averages, and the features come from memory once.
    centroids: list[Tensor] = []
    dots, squares = torch.zeros_like(weights), torch.zeros_like(weights[:, :1])
    for block in features.split(_channels_at_once(features), dim=1):
        cells = resize(block.float(), grid, aligned=True).flatten(2)
        centroids.append(weights @ cells.mT)
        dots.baddbmm_(centroids[-1], cells)
        squares += _squared_norms(cells)
    return torch.cat(centroids, dim=-1), dots, squares


def _channels_at_once(features: Tensor) -> int:
    """Channels of a block: all on an accelerator, and where the channels of a cell lie side by side."""
    if features.device.type != "cpu" or features.stride(1) == 1:
        return features.shape[1]
    return max(32, _BLOCK // (features.shape[2] * features.shape[3]))


def _squared_norms(cells: Tensor) -> Tensor:
    """(B, 1, N) squared lengths of the vectors (B, D, N)."""
    if cells.device.type != "cpu" or cells.stride(1) == 1:
        return torch.linalg.vector_norm(cells, dim=1, keepdim=True).square_()
    # The norm over channels that lie far apart takes thirty times as long on a CPU.
    return (cells * cells).sum(dim=1, keepdim=True)
