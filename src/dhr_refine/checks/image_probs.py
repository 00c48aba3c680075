"""Checks that the boundary tools share: of an (images, probs) pair and of the number of iterations."""

from __future__ import annotations

import math
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

from .arguments import check_finite, check_same, check_tensor, describe, find_extent, show

# Scores between this and 0 count as 0: what SEAM's scaling, (cam - 1e-5) / (max + 1e-5), makes of nothing, or
# bicubic interpolation, which goes beyond hard masks by 0.23.
_LEAST = -0.25


class ImageProbs(NamedTuple):
    """A checked pair, always with a batch axis."""

    images: Tensor  # (B, C, H, W), or volumes (B, C, D, H, W)
    probs: Tensor  # (B, K, H, W) or (B, K, D, H, W), none below 0
    batched: bool  # False where the caller gave a single image
    highest: float  # the largest of probs

    @property
    def axis(self) -> int:
        """The axis of the classes in what the caller gave."""
        return 1 if self.batched else 0


def check_pair(images: object, probs: object, *, channels: str = "3", volumes: bool = False) -> ImageProbs:
    """Return both tensors with a batch axis, or raise with the argument's name.

    With ``volumes``, these are taken as well. Waits for the device once: probabilities must be finite and not
    negative, but for what counts as 0.
    """
    shapes, ranks = "(B, {0}, H, W) or ({0}, H, W)", (3, 4)
    if volumes:
        shapes, ranks = "(B, {0}, H, W), ({0}, H, W) or (B, {0}, D, H, W)", (3, 4, 5)
    image_tensor = check_tensor(images, "images", shapes.format(channels), ndim=ranks)
    prob_tensor = check_tensor(probs, "probs", shapes.format("K"), ndim=ranks)
    if not prob_tensor.is_floating_point():
        raise TypeError(
            f"probs must be floating point, got {describe(prob_tensor)}: call .float() on it, or, of a "
            "mask of labels, make probabilities with probs_from_labels"
        )
    if image_tensor.ndim != prob_tensor.ndim:
        fix = "give both a batch axis, or neither"
        if 5 in (image_tensor.ndim, prob_tensor.ndim):
            fix = "pass volumes (B, C, D, H, W) and (B, K, D, H, W), one of them with a batch axis as well"
        raise ValueError(f"images has {image_tensor.ndim} axes but probs has {prob_tensor.ndim}: {fix}")
    batched = image_tensor.ndim > 3
    check_image_shape(image_tensor, channels, size=prob_tensor.shape[1 + batched :])
    if prob_tensor.shape[batched] == 0:
        raise ValueError(f"probs must have at least one class, got {describe(prob_tensor)}: pass K above 0")
    if not batched:
        image_tensor, prob_tensor = image_tensor[None], prob_tensor[None]
    if volumes and len(prob_tensor) != len(image_tensor) and prob_tensor.shape[1:] == image_tensor.shape[1:]:
        raise ValueError(
            f"probs has batch size {len(prob_tensor)} but images has {len(image_tensor)}: pass the same "
            "images in both, or, of a volume (C, D, H, W), images[None] and probs[None]"
        )
    check_same(prob_tensor, "probs", image_tensor, "images")
    if prob_tensor.shape[2:] != image_tensor.shape[2:]:
        raise ValueError(
            f"probs has size {tuple(prob_tensor.shape[2:])} "
            f"but images has {tuple(image_tensor.shape[2:])}: "
            "resize probs with torch.nn.functional.interpolate"
        )
    if prob_tensor.is_meta:
        raise ValueError(
            "images and probs are on the meta device, which holds no numbers: make them on 'cpu'"
        )
    low, high = find_extent(prob_tensor)
    if not math.isfinite(low) or not math.isfinite(high):
        check_finite(prob_tensor, "probs")
    if low < 0:
        pair = ImageProbs(image_tensor, prob_tensor.detach().clamp(min=0), batched, max(high, 0.0))
        if low < _LEAST and not _negative_throughout(prob_tensor):
            raise ValueError(_explain_negative(pair, low, high))
        return pair
    return ImageProbs(image_tensor, prob_tensor, batched, high)


def _negative_throughout(probs: Tensor) -> bool:
    """Whether scores are negative, down to -1, only for classes that have nothing else in an image.

    SEAM's scaling makes -1 of the CAM of a class that is 0 everywhere.
    """
    flat = probs.flatten(2)
    lows, highs = flat.amin(dim=2), flat.amax(dim=2)  # (B, K)
    fine = (lows >= _LEAST) | ((highs <= 0) & (lows >= -1))
    return bool(fine.all()) and bool((highs > 0).any(dim=1).all())


def _explain_negative(pair: ImageProbs, low: float, high: float) -> str:
    if pair.probs.shape[1] == 1:
        fix = f"for logits pass torch.cat([-probs, probs], dim={pair.axis}).sigmoid()"
    elif high <= 0:
        fix = f"pass probs.exp() for logarithms, probs.softmax(dim={pair.axis}) for logits"
    else:
        fix = f"pass probs.softmax(dim={pair.axis}) for logits"
    return (
        f"probs must not be negative, got {low:.3g}: {fix}, or probs.clamp(min=0) if what lies below 0 "
        "only says that a class is not there, as in scaled CAMs"
    )


def check_image_shape(images: Tensor, channels: str = "3", *, size: torch.Size | None = None) -> None:
    """Raise unless images (B, C, H, W) or (C, H, W) have pixels and channels, three if ``channels`` is "3".

    Or volumes (B, C, D, H, W). ``size`` is what something else says of H and W, of D, H and W.
    """
    axes = 3 if images.ndim == 5 else 2
    count, *sides = images.shape[-axes - 1 :]
    channels_last = size is not None and images.shape[-axes - 1 : -1] == size != images.shape[-axes:]
    last = channels_last and sides[-1] in (1, 3, 4)
    if (count == 3 or (channels != "3" and count > 0)) and min(sides) > 0 and not last:
        return
    fix = "pass RGB images, channels first"
    if last or (sides[-1] == 3 and count != 3):
        fix = f"bring the channels to the front with images.movedim(-1, {-axes - 1})"
    elif count == 1 and min(sides) > 0:
        fix = "repeat the channel with images.expand(*images.shape[:-3], 3, -1, -1)"
    depth = "D, " if axes == 3 else ""
    raise ValueError(
        f"images must have shape (B, {channels}, {depth}H, W) with {depth}H and W above 0, got "
        f"{describe(images)}: {fix}"
    )


def check_iterations(iterations: int) -> None:
    """Raise unless ``iterations`` is a whole number, 0 or more."""
    if isinstance(iterations, bool) or not isinstance(iterations, Integral) or iterations < 0:
        raise ValueError(f"iterations must be an int of at least 0, got {show(iterations)}: pass e.g. 10")
