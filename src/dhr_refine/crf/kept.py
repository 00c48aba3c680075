"""Kernels of single images found again for the same content, so that whoever asks twice builds once.

pydensecrf's users make a new object for every threshold; the lattice is the same.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Any

import numpy as np
import torch

from .backends import implementation
from .energies import backend_for, threads
from .geometry import Geometry, bilateral_geometry, feature_geometry
from .lattice import gaussian_lattices

# Kernels kept beside the newest one, while all together are no larger than this.
_KEPT, _BYTES = 4, 2**27

Deviations = float | tuple[float, ...]


class _Kernels:
    """The last few kernels with what they were built from, for all threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], tuple[np.ndarray, Any]] = OrderedDict()
        self._lock = Lock()

    def get(self, key: tuple[Any, ...], content: np.ndarray, build: Callable[[], Any]) -> Any:
        """Find the kernel of a content by the options in ``key``, or build it."""
        with self._lock:
            entries = [(own, value) for own, value in self._kept.items() if own[:-1] == (*key, content.shape)]
        for own, (known, kernel) in entries:
            if np.array_equal(known, content):
                with self._lock:
                    if own in self._kept:
                        self._kept.move_to_end(own)
                return kernel
        built = build()
        with self._lock:
            self._kept[(*key, content.shape, object())] = content.copy(), built
            while len(self._kept) > 1 and (len(self._kept) > _KEPT or self._nbytes() > _BYTES):
                self._kept.popitem(last=False)
        return built

    def _nbytes(self) -> int:
        return sum(content.nbytes + kernel.nbytes for content, kernel in self._kept.values())

    def clear(self) -> None:
        """Forget all of them."""
        with self._lock:
            self._kept.clear()


kept_kernels = _Kernels()


def gaussian_kernel(height: int, width: int, sxy: Deviations, *, device: torch.device | None = None) -> Any:
    """Kernel of positions, ``sxy`` pixels wide."""
    where = device or torch.device("cpu")
    return gaussian_lattices.get(backend_for(device), height, width, sxy, where)


def bilateral_kernel(
    image: np.ndarray, sxy: Deviations, srgb: Deviations, *, device: torch.device | None = None
) -> Any:
    """Kernel of positions and colours of a uint8 image (H, W, 3)."""

    def build() -> Any:
        height, width, _ = image.shape
        geometry = bilateral_geometry(height, width, sxy, srgb)
        return _build(geometry, np.ascontiguousarray(image.transpose(2, 0, 1)), device)

    return kept_kernels.get(("image", sxy, srgb, backend_for(device), device), image, build)


def feature_kernel(
    features: np.ndarray, size: tuple[int, int] | None = None, *, device: torch.device | None = None
) -> Any:
    """Kernel of any float32 features (d, N) in units of their deviations; ``size`` (H, W) has N pixels."""
    size = size or (1, features.shape[1])

    def build() -> Any:
        low, high = features.min(axis=1).tolist(), features.max(axis=1).tolist()
        geometry = feature_geometry(list(zip(low, high, strict=True)))
        return _build(geometry, np.ascontiguousarray(features).reshape(-1, *size), device)

    return kept_kernels.get(("features", size, backend_for(device), device), features, build)


def _build(geometry: Geometry, image: np.ndarray, device: torch.device | None) -> Any:
    backend = backend_for(device)
    if backend == "numba":
        return implementation(backend).build_features(geometry, image[None], threads())[0]
    return implementation(backend).build_features(geometry, torch.from_numpy(image)[None].to(device or "cpu"))
