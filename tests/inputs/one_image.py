"""One image whose base mask holds a label of every class."""

from __future__ import annotations

import torch
from torch import Tensor


def make_image(classes: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """CAMs (C, h, w), base mask with stripes of labels 0 .. C, USS and WSS features."""
    generator = torch.Generator().manual_seed(classes)
    base = (torch.arange(28) * (classes + 1) // 28).expand(20, 28).clone()
    cells = torch.arange(14) * (classes + 1) // 14
    cams = torch.rand(classes, 10, 14, generator=generator)
    cams += (cells == torch.arange(1, classes + 1)[:, None])[:, None]
    features = torch.rand(classes + 1, 8, generator=generator)[cells].T[:, None].expand(8, 10, 14)
    uss = features + 0.1 * torch.rand(8, 10, 14, generator=generator)
    wss = features + 0.3 * torch.rand(8, 10, 14, generator=generator)
    return cams, base, uss, wss
