"""Images as the lattices take them: uint8, or float32 with the extents of each channel."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import check_finite, warn

# Values this close to 0 are those of images in [0, 1] or of normalised ones, not grey levels.
_SMALL = 10.0


class Pixels(NamedTuple):
    """Checked images."""

    values: Tensor  # (B, C, H, W) uint8 or float32; of volumes (B, C, D * H, W)
    extents: list[tuple[float, float]]  # least and largest value of each channel; nothing for uint8


def read_pixels(images: Tensor) -> Pixels:
    """Return images (B, C, H, W) of uint8 or floating point; waits for the device if they are not uint8."""
    check_image_type(images)
    return Pixels(images, []) if images.dtype == torch.uint8 else read_channels(images, "images")


def check_image_type(images: Tensor) -> None:
    """Raise unless images are uint8 or floating point."""
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise TypeError(
            f"images must be uint8 or floating point, got {images.dtype}: pass images.to(torch.uint8) "
            "for whole numbers in [0, 255], else images.float()"
        )


def read_channels(images: Tensor, name: str) -> Pixels:
    """Return floating point channels (B, C, H, W) with the extents of each; waits for the device."""
    values = images.detach().float().resolve_neg()
    if values.numel() == 0:
        return Pixels(values, [(0.0, 0.0)] * values.shape[1])
    lows, highs = torch.stack((values.amin((0, 2, 3)), values.amax((0, 2, 3)))).tolist()
    if not all(map(math.isfinite, (*lows, *highs))):
        check_finite(images, name)
        raise ValueError(f"{name} holds numbers too large for float32 arithmetic: scale it down")
    return Pixels(values, list(zip(lows, highs, strict=True)))


def warn_of_grey_levels(pixels: Pixels, srgb: float | tuple[float, ...], *, name: str = "srgb") -> None:
    """Warn where ``srgb``, by its name, counts grey levels, but images in [0, 1] or normalised have none."""
    if not pixels.extents:
        return
    least = min(srgb) if isinstance(srgb, tuple) else srgb
    span = max(high - low for low, high in pixels.extents)
    size = max(max(-low, high) for low, high in pixels.extents)
    if least >= 1 and 0 < span < 2 * least and size <= _SMALL:
        warn(
            f"images span {span:.3g} but {name} is {least:.3g}, so that colours hardly count: {name} is in "
            f"units of the images; pass {name} / 255 for images in [0, 1], or uint8 images",
        )
