"""Masks of labels as they come: tensors or arrays, of one image or of a batch."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..checks import check_tensor, describe, way_to_tensor

Mask = Tensor | np.ndarray


def read_mask(mask: Mask, name: str) -> Tensor:
    """(B, H, W) int64 of an integer mask with or without a batch axis."""
    if isinstance(mask, Tensor):
        check_tensor(mask, name, "(B, H, W) or (H, W)", ndim=(2, 3))
    if isinstance(mask, np.ndarray):
        whole = mask.dtype.kind in "iu"
    elif isinstance(mask, Tensor):
        whole = not (mask.is_floating_point() or mask.is_complex() or mask.dtype == torch.bool)
    else:
        raise TypeError(
            f"{name} must be a tensor or an array of labels, got {describe(mask)}: {way_to_tensor(mask)}"
        )
    if not whole:
        fix = ".long()" if isinstance(mask, Tensor) else ".astype(int)"
        raise TypeError(f"{name} must hold integer labels, got {describe(mask)}: call {fix} on it")
    if mask.ndim not in (2, 3):
        raise ValueError(
            f"{name} must have shape (B, H, W) or (H, W), got {describe(mask)}: add or remove axes to match"
        )
    if isinstance(mask, np.ndarray):
        mask = torch.from_numpy(mask.astype(np.int64))
    mask = mask.detach().long()
    return mask if mask.ndim == 3 else mask[None]
