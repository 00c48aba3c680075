"""Bilinear resizing of float32 maps, fast on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(maps: Tensor, grid: torch.Size | tuple[int, int], *, aligned: bool) -> Tensor:
    """Bilinear resizing of float32 maps (B, C, h, w), corners or half-pixel centres aligned."""
    if maps.shape[-2:] == tuple(grid):
        return maps
    if maps.device.type != "cpu" or maps.stride(1) == 1:
        return F.interpolate(maps, tuple(grid), mode="bilinear", align_corners=aligned)
    # Channel by channel: a CPU would lay out many channels (or three) anew, which takes longer than resizing.
    alone = maps.reshape(-1, 1, *maps.shape[-2:])
    result = F.interpolate(alone, tuple(grid), mode="bilinear", align_corners=aligned)
    return result.view(*maps.shape[:2], *grid)


def between(size: int, cells: int) -> tuple[Tensor, Tensor, Tensor]:
    """Between which entries of an axis cells with aligned corners lie, and the share of the second."""
    place = torch.arange(cells, dtype=torch.float32, device="cpu") * ((size - 1) / max(cells - 1, 1))
    first = place.long().clamp_(max=size - 1)
    return first, (first + 1).clamp_(max=size - 1), place - first
