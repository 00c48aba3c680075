"""The reference: pydensecrf's C++ code, one image and one thread at a time."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..geometry import LatticeParameters, spread
from ..unary import log_probs


def mean_field(
    images: Tensor,
    probs: Tensor,
    parameters: LatticeParameters,
    *,
    iterations: int,
    compat: float,
    gauss_compat: float,
) -> Tensor:
    """Run pydensecrf on each image from probabilities (B, K, H, W) (see unary.py)."""
    densecrf: Any = importlib.import_module("pydensecrf.densecrf")  # an optional dependency

    batch, classes, height, width = probs.shape
    plain = images.dtype == torch.uint8 and images.shape[1] == 3
    sxy, srgb, gauss_sxy = map(spread, parameters, (2, images.shape[1], 2))
    logs = log_probs(probs).cpu()
    result = torch.empty(logs.shape, dtype=torch.float32)
    for index in range(batch):
        model = densecrf.DenseCRF2D(width, height, classes)
        unary = (-logs[index]).reshape(classes, -1).contiguous()
        model.setUnaryEnergy(unary.numpy())
        model.addPairwiseGaussian(sxy=gauss_sxy, compat=gauss_compat)
        pixels = np.ascontiguousarray(images[index].permute(1, 2, 0).cpu().numpy())
        if plain:
            model.addPairwiseBilateral(sxy=sxy, srgb=srgb, rgbim=pixels, compat=compat)
        else:
            model.addPairwiseEnergy(_features(pixels, sxy, srgb), compat=compat)
        marginals = np.array(model.inference(iterations), dtype=np.float32)
        result[index] = torch.from_numpy(marginals).reshape(classes, height, width)
    return result.to(probs.device)


def _features(pixels: np.ndarray, sxy: tuple[float, ...], srgb: tuple[float, ...]) -> np.ndarray:
    """(2 + C, H * W) float32 of an image (H, W, C), in the order that geometry.py gives them."""
    utils: Any = importlib.import_module("pydensecrf.utils")
    features = utils.create_pairwise_bilateral(sdims=sxy[::-1], schan=srgb, img=pixels, chdim=2)
    if pixels.shape[2] == 3:
        features[[0, 1]] = features[[1, 0]]
    return features
