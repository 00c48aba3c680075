"""Fully connected conditional random field with Gaussian edge potentials (dense CRF)."""

from __future__ import annotations

import torch
from torch import Tensor

from dhr_refine import _crf_pydensecrf
from dhr_refine._checks import check_choice, check_positive, describe
from dhr_refine._permutohedral import LatticeParameters
from dhr_refine._image_probs import check_pair

_BACKENDS = ("auto", "torch", "numba", "pydensecrf")


@torch.no_grad()
def dense_crf(
    images: Tensor,
    probs: Tensor,
    *,
    iterations: int = 10,
    sxy: float = 67,
    srgb: float = 3,
    compat: float = 4,
    gauss_sxy: float = 1,
    gauss_compat: float = 3,
    backend: str = "auto",
    lattice: object = None,
) -> Tensor:
    """Refine probabilities along the edges of an image with a dense CRF."""
    pair = check_pair(images, probs)
    if pair.images.dtype != torch.uint8:
        raise TypeError(
            f"images must be uint8 in [0, 255], got {describe(images)}: "
            "pass (images * 255).round().to(torch.uint8) for images in [0, 1]"
        )
    check_choice(backend, "backend", _BACKENDS)
    for name, value in (("sxy", sxy), ("srgb", srgb), ("gauss_sxy", gauss_sxy)):
        check_positive(value, name)
    unary = -pair.probs.float().clamp(1e-5, 1).log()
    result = _crf_pydensecrf.mean_field(
        pair.images,
        unary,
        LatticeParameters(sxy, srgb, gauss_sxy),
        iterations=iterations,
        compat=compat,
        gauss_compat=gauss_compat,
    ).to(probs.dtype)
    return result if pair.batched else result[0]
