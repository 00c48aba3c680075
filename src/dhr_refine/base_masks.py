"""Base masks, what refinement starts from, out of CAMs alone."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .adaptive import pamr
from .crf import dense_crf

Boundary = Literal["crf", "pamr"] | None
"""Name of a boundary tool, or none."""


def make_base_mask(cams: Tensor, image: Tensor, *, background: float, boundary: Boundary) -> Tensor:
    """The usual pseudo mask: CAMs over their maximum, a constant background score, the boundary tool, argmax.

    Parameters
    ----------
    cams : (C, h, w)
    image : (3, H, W) uint8
    background : score of the background, between 0 and 1
    boundary : "crf", "pamr" or None

    Returns
    -------
    (H, W) int64, 0 = background
    """
    scores = F.interpolate(cams[None], image.shape[-2:], mode="bilinear")
    scores = scores / scores.amax((2, 3), keepdim=True).clamp_min(1e-12)
    scores = torch.cat([torch.full_like(scores[:, :1], background), scores], 1)
    probs = scores / scores.sum(1, keepdim=True)
    if boundary == "crf":
        probs = dense_crf(image[None], probs)
    elif boundary == "pamr":
        probs = pamr(image[None], probs)
    return probs[0].argmax(0)
