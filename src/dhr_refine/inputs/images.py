"""Images: normalised floating point, in [0, 1], or uint8, channels first or last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import check_same, check_tensor, describe

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def read_images(
    images: Any, masks: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None, needed: bool
) -> Tensor | None:
    """Bring normalised, [0, 1] or uint8 images to (B, 3, H, W) uint8."""
    if images is None:
        if needed:
            raise ValueError(
                "images must be given for boundary='crf' or 'pamr': pass the images, or boundary=None"
            )
        return None
    check_tensor(images, "images", "(B, 3, H, W)", ndim=4)
    _check_normalisation(mean, std)
    if images.dtype == torch.uint8 and images.shape[1] != 3 and images.shape[-1] == 3:
        images = images.movedim(-1, 1)
    check_same(images, "images", masks, "masks")
    if images.shape[1] != 3 or images.shape[2:] != masks.shape[1:]:
        raise ValueError(
            f"images must have shape (B, 3, H, W) with the size of masks {tuple(masks.shape[1:])}, got "
            f"{describe(images)}: resize the images or the masks"
        )
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating point, got {describe(images)}: call .byte() on it")
    images = images.detach().float()
    lows, highs = [0.0], [0.0]
    if images.numel():
        lows, highs = torch.stack((images.amin((0, 2, 3)), images.amax((0, 2, 3)))).tolist()
    low, high = min(lows), max(highs)
    if not all(map(math.isfinite, (*lows, *highs))):
        raise ValueError("images hold NaN or infinity: check the augmentation")
    # Resizing overshoots a little; a normalised image that stays this close to [0, 1] would be all grey.
    unit = low >= -0.1 and high <= 1.1
    if mean is not None and std is not None and not unit:
        shape = (1, 3, 1, 1)
        images = images * images.new_tensor(list(std)).view(shape) + images.new_tensor(list(mean)).view(shape)
        low = min(value * s + m for value, s, m in zip(lows, std, mean))
        high = max(value * s + m for value, s, m in zip(highs, std, mean))
    if low < -0.5 or high > 1.5:
        raise ValueError(
            f"images span [{low:.3g}, {high:.3g}] after undoing mean and std, not [0, 1]: pass the mean and "
            "std that they were normalised with, or uint8 images"
        )
    return (images * 255.0).round_().clamp_(0, 255).byte()


def _check_normalisation(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Raise unless mean and std are three finite numbers each, std above 0, or None."""
    if mean is None and std is None:
        return
    if mean is None or std is None:
        raise ValueError("mean and std must be given together: pass both, or None for both")
    for name, values in (("mean", mean), ("std", std)):
        try:
            numbers = [float(value) for value in values]
        except (TypeError, ValueError):
            numbers = []
        good = len(numbers) == 3 and all(math.isfinite(v) and (name == "mean" or v > 0) for v in numbers)
        if not good:
            raise ValueError(
                f"{name} must have 3 entries, finite{', above 0' if name == 'std' else ''}, got {values!r}: "
                "one per channel"
            )
