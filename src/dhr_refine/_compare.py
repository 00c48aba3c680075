"""Class averages of a feature map and the cosine of every cell with each of them, reading the map once."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# A vector shorter than this has no direction; cosines do not depend on the scale of features otherwise.
LEAST_NORM = 1e-18
# Entries of the blocks of channels that a CPU works on: 2 MB, so that a block stays in the cache.
_BLOCK = 1 << 19


class Compared(NamedTuple):
    """Result of :func:`compare`."""

    centroids: Tensor  # (B, C, D) float32
    cosine: Tensor  # (B, C, h, w) float32


def compare(features: Tensor, weights: Tensor, grid: torch.Size | None = None) -> Compared:
    """Pool checked features (B, D, h, w) and compare every cell with every class average.

    ``weights`` (B, C, h * w) are cell weights that sum to 1, or 0 for an absent class. With a ``grid`` the
    features are first resized to it, bilinearly with aligned corners, and the weights are those of its cells.
    """
    if features.device.type != "cpu" or features.shape[0] == 0:
        return _compare(features, weights, grid)
    # Image by image on a CPU: the blocks of a whole batch would not fit the cache.
    parts = [_compare(one, own, grid) for one, own in zip(features.split(1), weights.split(1))]
    return parts[0] if len(parts) == 1 else Compared(*(torch.cat(maps) for maps in zip(*parts)))


def _compare(features: Tensor, weights: Tensor, grid: torch.Size | None) -> Compared:
    grid = features.shape[-2:] if grid is None else grid
    # An entry of a class average depends on its channel alone. So one channel after the other can be resized,
    # pooled, squared and multiplied with its averages, and the features come from memory once.
    centroids: list[Tensor] = []
    dots, squares = torch.zeros_like(weights), torch.zeros_like(weights[:, :1])
    for block in features.split(_channels_at_once(features), dim=1):
        cells = _resize(block.float(), grid).flatten(2)
        centroids.append(weights @ cells.mT)
        dots.baddbmm_(centroids[-1], cells)
        squares += _squared_norms(cells)
    vectors = torch.cat(centroids, dim=-1)
    cosine = dots / torch.linalg.vector_norm(vectors, dim=-1, keepdim=True).clamp_min(LEAST_NORM)
    cosine /= squares.sqrt_().clamp_min_(LEAST_NORM)
    return Compared(vectors, cosine.unflatten(-1, grid))


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


def _resize(maps: Tensor, grid: torch.Size) -> Tensor:
    """Bilinear resizing of float32 maps (B, D, h, w) with aligned corners."""
    if maps.shape[-2:] == grid:
        return maps
    if maps.device.type != "cpu" or maps.stride(1) == 1:
        return F.interpolate(maps, grid, mode="bilinear", align_corners=True)
    # On a CPU interpolate would bring the channels side by side first, which costs five times as much as
    # mixing pairs of rows and multiplying with the weights of the columns.
    upper, lower, share = _aligned(maps.shape[-2], grid[0])
    rows = torch.lerp(maps.index_select(2, upper), maps.index_select(2, lower), share[:, None])
    left, right, share = _aligned(maps.shape[-1], grid[1])
    columns = torch.zeros(maps.shape[-1], grid[1])
    where = torch.arange(grid[1])
    columns[left, where] = 1.0 - share
    columns[right, where] += share
    return rows @ columns


def _aligned(size: int, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Between which entries of an axis the cells of a grid lie, and the share of the second in each."""
    place = torch.arange(cells) * ((size - 1) / max(cells - 1, 1))
    before = place.long().clamp_(max=size - 1)
    return before, (before + 1).clamp_(max=size - 1), place - before
