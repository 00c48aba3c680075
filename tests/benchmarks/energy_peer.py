"""The dense energy loss as the ToCo family computes it, on pydensecrf's lattice in place of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from energy_loss_peer import filter_by_lattice, step_on_lattice

WEIGHT, SIGMA_RGB, SIGMA_XY, SCALE = 1e-7, 15, 100, 0.5


def follow(images: Tensor, logits: Tensor, labels: Tensor, *, exact: bool = False) -> tuple[float, Tensor]:
    """The loss of images in grey levels, and its gradient to the logits.

    Without ``exact`` the work is that of a filter, and of two softmaxes which pydensecrf does not do without,
    but the result is not brought back to what was filtered.
    """
    leaf = logits.detach().requires_grad_()
    small = F.interpolate(leaf.softmax(1), scale_factor=SCALE, mode="bilinear")
    probs = small.detach()
    colours = F.interpolate(images.float(), scale_factor=SCALE).numpy() / SIGMA_RGB
    unlabelled = F.interpolate(labels[:, None].float(), scale_factor=SCALE) == 255
    gate = (1 - probs.amax(1, keepdim=True)).clamp_(min=0).masked_fill_(unlabelled, 1)
    rows, columns = np.indices(colours.shape[2:], dtype=np.float32) / (SIGMA_XY * SCALE)
    filtered = np.empty(probs.shape, np.float32)
    for own, colour, result in zip(probs.numpy(), colours, filtered, strict=True):
        features = np.stack([columns, rows, *colour]).reshape(5, -1)
        values = own.reshape(len(own), -1)
        found = filter_by_lattice(features, values) if exact else step_on_lattice(features, values)[:-1]
        result[:] = found.reshape(own.shape)
    affinity = torch.from_numpy(filtered) * gate
    weight = WEIGHT / len(images)
    loss = float((probs * affinity).sum()) * -weight
    (gradient,) = torch.autograd.grad(small, leaf, -2 * weight * affinity)
    return loss, gradient
