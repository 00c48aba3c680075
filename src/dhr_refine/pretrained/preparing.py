"""Images as networks take them: their size, their normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor


def to_multiple(images: Tensor, multiple: int, *, longest: int | None = None) -> Tensor:
    """Resize (B, 3, H, W) to float32 with sides a multiple of ``multiple``.

    ``longest`` is the length that the longer side is brought to first, by default its own.
    """
    scale = 1 if longest is None else longest / max(images.shape[-2:])
    sides = [max(1, round(side * scale / multiple)) * multiple for side in images.shape[-2:]]
    return F.interpolate(images.float(), sides, mode="bilinear", antialias=True)


def normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Bring images 0..255 (B, 3, H, W) to [0, 1], subtract the channels' mean and divide by ``std``."""
    low, scale = (images.new_tensor(list(values))[:, None, None] for values in (mean, std))
    return (images / 255 - low) / scale
