"""What the released code multiplies by instead of a plan; kept for parity only."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .problem import TINY


def early_stopped_weights(scores: Tensor, pixels: Tensor, classes: Tensor) -> Tensor:
    """OT weights of the released code: kernel Sinkhorn that stops after about two rounds, then min-max.

    Not a transport plan (its pixel marginals are off by about as much as they are); kept for parity only.
    ``scores`` (B, K, N), bool ``pixels`` (B, N) and ``classes`` (B, K); returns (B, K, N) in [0, 1], zero
    where masked. At most 100 rounds, until the mean absolute change of the row scaling is below 1e-2.
    """
    inside = pixels[:, None] & classes[..., None]
    kernel = torch.exp((scores - 1.0) / 0.1).masked_fill(~inside, 0.0)
    count = pixels.sum(-1, keepdim=True).clamp_min(1)
    row_mass = pixels.to(scores.dtype) / count
    column_mass = classes.to(scores.dtype) / classes.sum(-1, keepdim=True).clamp_min(1)
    rows = pixels.to(scores.dtype)
    columns = classes.to(scores.dtype)
    done = torch.zeros_like(count, dtype=torch.bool)
    for _ in range(100):
        new_rows = row_mass / (kernel.mT @ columns[..., None])[..., 0].clamp_min(TINY)
        new_columns = column_mass / (kernel @ new_rows[..., None])[..., 0].clamp_min(TINY)
        change = (new_rows - rows).abs().sum(-1, keepdim=True) / count
        rows = torch.where(done, rows, new_rows)
        columns = torch.where(done, columns, new_columns)
        done = done | (change < 1e-2)
        if bool(done.all()):
            break
    return minmax(rows[:, None] * kernel * columns[..., None], inside)


def minmax(maps: Tensor, inside: Tensor) -> Tensor:
    """Scale (B, K, N) to 0..1 over the entries ``inside``, range floored at 1e-5; 0 outside."""
    low = maps.masked_fill(~inside, math.inf).amin(-1, keepdim=True)
    high = maps.masked_fill(~inside, -math.inf).amax(-1, keepdim=True)
    scaled = (maps - low) / (high - low).clamp_min(1e-5)
    return scaled.clamp(0.0, 1.0).masked_fill(~inside, 0.0)
