"""The reference: pydensecrf's C++ code, one image and one thread at a time."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..geometry import LatticeParameters
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
    logs = log_probs(probs).cpu()
    result = torch.empty(logs.shape, dtype=torch.float32)
    for index in range(batch):
        model = densecrf.DenseCRF2D(width, height, classes)
        unary = (-logs[index]).reshape(classes, -1).contiguous()
        model.setUnaryEnergy(unary.numpy())
        model.addPairwiseGaussian(sxy=parameters.gauss_sxy, compat=gauss_compat)
        pixels = np.ascontiguousarray(images[index].permute(1, 2, 0).cpu().numpy())
        model.addPairwiseBilateral(sxy=parameters.sxy, srgb=parameters.srgb, rgbim=pixels, compat=compat)
        marginals = np.array(model.inference(iterations), dtype=np.float32)
        result[index] = torch.from_numpy(marginals).reshape(classes, height, width)
    return result.to(probs.device)
