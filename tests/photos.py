"""Real photos and plausible class scores for the boundary tools' tests and benchmarks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from places import shared_folder
from torch import Tensor

# Gaussian: gauss_sxy and gauss_compat; bilateral: sxy, srgb and compat. The published settings of
# SEAM and CLIP-ES' POT (A), IRN and AdvCAM (B), DHR, RSEPM and CLIP-ES (C), ToCo (D) and WeakTr (E).
PRESETS = {
    "A": {"gauss_sxy": 3, "gauss_compat": 3, "sxy": 80, "srgb": 13, "compat": 10},
    "B": {"gauss_sxy": 3, "gauss_compat": 3, "sxy": 50, "srgb": 5, "compat": 10},
    "C": {"gauss_sxy": 1, "gauss_compat": 3, "sxy": 67, "srgb": 3, "compat": 4},
    "D": {"gauss_sxy": 1, "gauss_compat": 1, "sxy": 121, "srgb": 5, "compat": 4},
    "E": {"gauss_sxy": 4, "gauss_compat": 3, "sxy": 83, "srgb": 5, "compat": 3},
}
# What of a preset the lattice depends on.
LATTICE = ("sxy", "srgb", "gauss_sxy")


def photo(name: str, height: int, width: int) -> Tensor:
    """A crop of one of scikit-image's photos, (3, H, W) uint8."""
    from skimage import data

    image = np.asarray(getattr(data, name)())[..., :3]
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    crop = image[top : top + height, left : left + width]
    assert crop.shape == (height, width, 3), image.shape
    return torch.from_numpy(np.ascontiguousarray(crop.transpose(2, 0, 1)))


def scores(classes: int, height: int, width: int, *, seed: int = 0, batch: int | None = None) -> Tensor:
    """Smooth random probabilities, as a network would give at a coarse stride: (K, H, W) or with a batch."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch or 1, classes, height // 16 + 2, width // 16 + 2, generator=generator)
    probs = F.interpolate(2 * coarse, size=(height, width), mode="bilinear").softmax(dim=1)
    return probs if batch is not None else probs[0]


def voc_images() -> list[Path]:
    """PASCAL VOC photos next to the checkout, or none."""
    root = shared_folder()
    return sorted(Path(root, "data/voc12/JPEGImages").glob("*.jpg"))
