"""What all feature extractors share: images in, levels of features out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import check_filled, check_tensor
from ..errors import UserError, reason
from .preparing import to_multiple


class Network(NamedTuple):
    """A loaded network."""

    levels: Callable[[Tensor], list[Tensor]]
    """Images 0..255 (B, 3, H, W) float32 to one or several levels (B, D, h, w), fine ones first."""
    multiple: int
    """What the sides of images must be multiples of: the patch, or the stride of the last stage."""


@dataclass(frozen=True)
class Extractor:
    """Dense features of images, from a network of any library.

    Each level's cells cover the whole image in equal parts: images are resized to sides that the network
    divides without a rest. Everything runs in single precision, without gradients.
    """

    name: str
    network: Network
    device: torch.device
    size: int | None = None
    """Length that the longer side of an image is brought to; None keeps the image's own."""

    def __call__(self, image: Tensor) -> list[Tensor]:
        """Features of one image.

        Parameters
        ----------
        image : (3, H, W) uint8, on any device

        Returns
        -------
        list of (D, h, w) float32 on the extractor's device, one for each level, fine ones first

        Raises
        ------
        TypeError, ValueError
            Another shape or type.
        """
        check_tensor(image, "image", "(3, H, W)", ndim=3)
        return [level[0] for level in self.batch(image[None])]

    @torch.no_grad()
    def batch(self, images: Tensor) -> list[Tensor]:
        """Features of several images of one size at once.

        Parameters
        ----------
        images : (B, 3, H, W) uint8, on any device

        Returns
        -------
        list of (B, D, h, w) float32, those of each image alone up to rounding: a processor may add in another
        order for another number of images

        Raises
        ------
        TypeError, ValueError
            Another shape or type, or no image.
        """
        check_tensor(images, "images", "(B, 3, H, W)", ndim=4)
        check_filled(images, "images", batched=False)
        if images.dtype != torch.uint8 or images.shape[1] != 3:
            raise ValueError(
                f"images must be uint8 of shape (B, 3, H, W), got {images.dtype} {tuple(images.shape)}: pass "
                "the photo's own bytes, channels first; it is normalised here"
            )
        resized = to_multiple(images.to(self.device), self.network.multiple, longest=self.size)
        # Convolutions on CUDA round to ten bits, and choose their method by a race, unless told not to.
        with (
            torch.autocast(self.device.type, enabled=False),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            return [level.contiguous() for level in self.network.levels(resized)]


def choose_layers(name: str, layer: int | None, count: int, kind: str) -> list[int]:
    """Places, counted from 0, of the layers to take: one that was asked for, else the last two.

    ``kind`` says what the model of that name has ``count`` of.
    """
    if layer is None:
        return list(range(max(0, count - 2), count))
    if not 1 <= layer <= count:
        raise UserError(f"the model {name} has {kind} 1 to {count}, layer {layer} is not among them")
    return [layer - 1]


def try_out(network: Callable[[Tensor], Any], name: str, sides: Sequence[int], device: torch.device) -> Any:
    """What a network makes of one grey image; a UserError where it does not take that size."""
    try:
        with torch.no_grad():
            return network(torch.full((1, 3, *sides), 127.0, device=device))
    except Exception as error:  # networks that do not fit fail in many ways
        raise UserError(
            f"the model {name} takes no image of {sides[0]} x {sides[1]} pixels ({reason(error)}): "
            "choose a network that takes any, such as DINOv2, DINOv3, CLIP or ResNet"
        ) from error


def no_maps(name: str) -> UserError:
    """The error about a network whose outputs do not lie on a grid of the image."""
    return UserError(
        f"the model {name} gives no map of features, one vector for each cell of an image: choose a "
        "ViT such as DINOv2 or CLIP, or a network with stages such as ResNet"
    )
