"""Images at sizes that a network takes."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Resize (3, H, W) to float (1, 3, H', W') with sides a multiple of ``multiple``."""
    sides = [max(1, round(side / multiple)) * multiple for side in image.shape[-2:]]
    return F.interpolate(image[None].float(), sides, mode="bilinear", antialias=True)
