"""Kernels of single images found again for the same content, so that whoever asks twice builds once.

pydensecrf's users make a new object for every threshold; the lattice is the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from .backends import implementation
from .energies import backend_for, threads
from .geometry import Geometry, bilateral_geometry, feature_geometry
from .lattice import gaussian_lattice
from .recent import Recent

# Kernels kept, fewer where all together are larger than this.
_KEPT, _BYTES = 4, 2**27

Deviations = float | tuple[float, ...]


kept_kernels = Recent(_KEPT, _BYTES)


def gaussian_kernel(height: int, width: int, sxy: Deviations, *, device: torch.device | None = None) -> Any:
    """Kernel of positions, ``sxy`` pixels wide."""
    where = device or torch.device("cpu")
    return gaussian_lattice(backend_for(device), height, width, sxy, where)


def bilateral_kernel(
    image: np.ndarray, sxy: Deviations, srgb: Deviations, *, device: torch.device | None = None
) -> Any:
    """Kernel of positions and colours of a uint8 image (H, W, 3)."""

    def build() -> Any:
        height, width, _ = image.shape
        geometry = bilateral_geometry(height, width, sxy, srgb)
        return _build(geometry, np.ascontiguousarray(image.transpose(2, 0, 1)), device)

    return kept_kernels.get(("image", sxy, srgb, backend_for(device), device), build, image)


def feature_kernel(
    features: np.ndarray, size: tuple[int, int] | None = None, *, device: torch.device | None = None
) -> Any:
    """Kernel of any float32 features (d, N) in units of their deviations; ``size`` (H, W) has N pixels."""
    size = size or (1, features.shape[1])

    def build() -> Any:
        low, high = features.min(axis=1).tolist(), features.max(axis=1).tolist()
        geometry = feature_geometry(list(zip(low, high, strict=True)))
        return _build(geometry, np.ascontiguousarray(features).reshape(-1, *size), device)

    return kept_kernels.get(("features", size, backend_for(device), device), build, features)


def _build(geometry: Geometry, image: np.ndarray, device: torch.device | None) -> Any:
    backend = backend_for(device)
    if backend == "numba":
        return implementation(backend).build_features(geometry, image[None], threads())[0]
    return implementation(backend).build_features(geometry, torch.from_numpy(image)[None].to(device or "cpu"))
