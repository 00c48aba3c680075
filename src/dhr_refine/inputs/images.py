"""Images: normalised floating point, in [0, 1], or uint8, channels first or last."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import show
from .names import Names

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Images(NamedTuple):
    """Images of one size."""

    pixels: Tensor
    """(B, 3, H, W) uint8."""
    extent: tuple[float, float] | None
    """Least and largest value of floating point images that were taken to be normalised."""


def read_images(
    images: Tensor,
    size: Sequence[int],
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    names: Names,
    argument: str = "images",
    size_of: str = "masks",
) -> Images:
    """Bring normalised, [0, 1] or uint8 images with a batch axis to (B, 3, H, W) uint8.

    ``names`` and ``argument`` say what the caller calls them, ``size_of`` what has their size.
    """
    name = names.of(argument)
    _check_normalisation(mean, std)
    if images.dtype == torch.uint8 and images.shape[1] != 3 and images.shape[-1] == 3:
        images = images.movedim(-1, 1)
    if images.shape[1] != 3 or images.shape[2:] != torch.Size(size):
        fix = _way_to_rgb(images.shape, size, name, names.structure == "batch")
        raise ValueError(
            f"{name} must have shape {names.shape(3, 'H', 'W')} with the size of {size_of} {tuple(size)}, "
            f"got {names.describe(images)}: {fix}"
        )
    if images.dtype == torch.uint8:
        return Images(images, None)
    if not images.is_floating_point():
        raise TypeError(
            f"{name} must be uint8 or floating point, got {names.describe(images)}: call .byte() on it"
        )
    images = images.detach().float()
    lows, highs = [0.0], [0.0]
    if images.numel():
        lows, highs = torch.stack((images.amin((0, 2, 3)), images.amax((0, 2, 3)))).tolist()
    low, high = min(lows), max(highs)
    if not all(map(math.isfinite, (*lows, *highs))):
        row = int((~torch.isfinite(images)).flatten(1).any(1).int().argmax())
        raise ValueError(f"{names.of(argument, row)} hold NaN or infinity: check the augmentation")
    # Resizing overshoots a little; a normalised image that stays this close to [0, 1] would be all grey.
    unit = low >= -0.1 and high <= 1.1
    extent = None
    if mean is not None and std is not None and not unit:
        extent = (low, high)
        shape = (1, 3, 1, 1)
        images = images * images.new_tensor(list(std)).view(shape) + images.new_tensor(list(mean)).view(shape)
        low = min(value * s + m for value, s, m in zip(lows, std, mean))
        high = max(value * s + m for value, s, m in zip(highs, std, mean))
    if low < -0.5 or high > 1.5:
        row = int((images.flatten(1) - 0.5).abs().amax(1).argmax())
        raise ValueError(
            f"{names.of(argument, row)} span [{low:.3g}, {high:.3g}] after undoing mean and std, not [0, 1]: "
            f"{_way_to_unit(min(lows), max(highs), mean)}"
        )
    return Images((images * 255.0).round_().clamp_(0, 255).byte(), extent)


def _way_to_rgb(shape: Sequence[int], size: Sequence[int], name: str, batched: bool) -> str:
    """What to do with images of another shape."""
    height, width = size
    _, channels, *last = shape
    if list(shape[1:]) == [height, width, 3]:
        return "call .movedim(-1, -3) on it"
    if list(shape[1:]) == [3, width, height]:
        return "call .mT on it if height and width are exchanged"
    if channels == 1 and last == [height, width]:
        return f"repeat the grey channel, {name}.expand({'-1, ' * batched}3, -1, -1)"
    if channels == 4 and last == [height, width]:
        return f"leave the fourth channel out, {name}[{':, ' * batched}:3]"
    return "resize the images or the masks"


def _way_to_unit(low: float, high: float, mean: Sequence[float] | None) -> str:
    """What to do with images that are none of what is allowed."""
    if low >= 0 and high <= 255:
        return "call .byte() on images in 0..255"
    if mean is not None and max(mean) > 1.5:
        return "pass mean and std divided by 255"
    return "pass the mean and std that they were normalised with, or uint8 images"


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
                f"{name} must have 3 entries, finite{', above 0' if name == 'std' else ''}, got "
                f"{show(values)}: one per channel"
            )
