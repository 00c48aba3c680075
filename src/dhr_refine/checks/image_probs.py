"""Checks that the boundary tools share: of an (images, probs) pair and of the number of iterations."""

from __future__ import annotations

import math
from numbers import Integral
from typing import NamedTuple

from torch import Tensor

from .arguments import check_finite, check_same, check_tensor, describe, find_extent


class ImageProbs(NamedTuple):
    """A checked pair, always with a batch axis."""

    images: Tensor  # (B, 3, H, W)
    probs: Tensor  # (B, K, H, W)
    batched: bool  # False where the caller gave a single image


def check_pair(images: object, probs: object) -> ImageProbs:
    """Return both tensors with a batch axis, or raise with the argument's name.

    Waits for the device once: probabilities must be finite and not negative.
    """
    image_tensor = check_tensor(images, "images", "(B, 3, H, W) or (3, H, W)", ndim=(3, 4))
    prob_tensor = check_tensor(probs, "probs", "(B, K, H, W) or (K, H, W)", ndim=(3, 4), floating=True)
    if image_tensor.ndim != prob_tensor.ndim:
        raise ValueError(
            f"images has {image_tensor.ndim} axes but probs has {prob_tensor.ndim}: "
            "give both a batch axis, or neither"
        )
    batched = image_tensor.ndim == 4
    if not batched:
        image_tensor, prob_tensor = image_tensor[None], prob_tensor[None]
    check_image_shape(image_tensor)
    check_same(prob_tensor, "probs", image_tensor, "images")
    if prob_tensor.shape[-2:] != image_tensor.shape[-2:]:
        raise ValueError(
            f"probs has size {tuple(prob_tensor.shape[-2:])} "
            f"but images has {tuple(image_tensor.shape[-2:])}: "
            "resize probs with torch.nn.functional.interpolate"
        )
    if prob_tensor.shape[1] == 0:
        raise ValueError(f"probs must have at least one class, got {describe(prob_tensor)}: pass K above 0")
    low, high = find_extent(prob_tensor)
    if not math.isfinite(low) or not math.isfinite(high):
        check_finite(prob_tensor, "probs")
    if low < 0:
        raise ValueError(
            f"probs must not be negative, got {low:.3g}: pass probabilities, e.g. scores.softmax(dim=1)"
        )
    return ImageProbs(image_tensor, prob_tensor, batched)


def check_image_shape(images: Tensor) -> None:
    """Raise unless a batch of images has three channels and at least one pixel."""
    if images.shape[1] != 3 or images.shape[2] == 0 or images.shape[3] == 0:
        raise ValueError(
            f"images must have shape (B, 3, H, W) with H and W above 0, got {describe(images)}: "
            "pass RGB images, channels first"
        )


def check_iterations(iterations: int) -> None:
    """Raise unless ``iterations`` is a whole number, 0 or more."""
    if isinstance(iterations, bool) or not isinstance(iterations, Integral) or iterations < 0:
        raise ValueError(f"iterations must be an int of at least 0, got {iterations!r}: pass e.g. 10")
