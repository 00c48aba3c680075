"""Mean field on volumes: positions are features of the lattice like the channels, whatever their number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .backends import choose_backend, implementation
from .geometry import LatticeParameters, volume_geometry
from .images import Pixels
from .lattice import gaussian_lattices

Size = tuple[int, int, int]

# Implementations that filter any number of features.
_BACKENDS = ("auto", "torch", "numba")


def check_volumes(backend: str, lattice: object) -> None:
    """Raise for what only images can have."""
    if backend not in _BACKENDS:
        raise ValueError(
            f"backend must be 'auto', 'torch' or 'numba' for volumes (B, C, D, H, W), got {backend!r}: pass "
            "backend='auto'"
        )
    if lattice is not None:
        raise ValueError(
            "lattice must be None for volumes (B, C, D, H, W), whose lattices are not kept: leave it out"
        )


def refine_volumes(
    pixels: Pixels,
    depth: int,
    probs: Tensor,
    parameters: LatticeParameters,
    backend: str,
    options: dict[str, Any],
) -> Tensor:
    """Mean field from probabilities (B, K, D * H, W) on volumes (B, C, D * H, W) of that depth."""
    values = pixels.values
    batch, channels, rows, width = values.shape
    size = depth, rows // depth, width
    backend = choose_backend(backend, values.device)
    module = implementation(backend)
    # Before the lattice of positions: what it refuses is cheaper to learn first.
    extents = pixels.extents or [(0.0, 255.0)] * channels
    geometry = volume_geometry(size, parameters.sxy, parameters.srgb, extents=extents)
    gaussian = _gaussian_lattice(backend, size, parameters.gauss_sxy, values.device)
    positions = _positions(size, values.device).expand(batch, -1, -1, -1)
    features = torch.cat((positions, values), dim=1)  # float32, of uint8 as well
    if backend == "numba":
        return module.build_and_infer(geometry, features, gaussian, probs, **options)
    return module.mean_field(module.build_bilateral(geometry, features), gaussian, probs, **options)


def _gaussian_lattice(backend: str, size: Size, sxy: float | tuple[float, ...], device: torch.device) -> Any:
    """The lattice of positions, which volumes of one size share."""

    def build() -> Any:
        kernel = implementation(backend).build_bilateral(volume_geometry(size, sxy), _positions(size, device))
        return kernel[0] if isinstance(kernel, list) else kernel

    return gaussian_lattices.get((backend, size, sxy, device), build)


def _positions(size: Size, device: torch.device) -> Tensor:
    """The z, y and x of all pixels, (1, 3, D * H, W) float32, slice below slice."""
    axes = [torch.arange(side, dtype=torch.float32, device=device) for side in size]
    return torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1, 2)[None]
