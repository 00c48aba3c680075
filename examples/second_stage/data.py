"""Images with the masks to train on, or to be scored with, and augmented crops of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from wss.data import cut, draw, draw_view
from wss.loop import IGNORE

from dhr_refine.datasets.items import read_list
from dhr_refine.datasets.layouts import find_images, find_masks
from dhr_refine.errors import UserError, reading
from dhr_refine.files import read_mask
from dhr_refine.files.pictures import read_picture
from dhr_refine.training import View

MASK_FILES = (".png", ".npy", ".npz")


@dataclass(frozen=True)
class Pair:
    """An image and its mask, on disk."""

    key: str
    image: Path
    mask: Path
    classes: int

    def load(self) -> tuple[Tensor, Tensor]:
        """The image (3, H, W) uint8 and the mask (H, W) int64, 255 where it knows no class."""
        with reading(self.image, self._fix):
            image = read_picture(self.image)
        mask = self.load_mask()
        if mask.shape != image.shape[1:]:
            raise UserError(
                f"{self.mask} is {tuple(mask.shape)} but {self.image.name} {tuple(image.shape[1:])} (H, W): "
                "masks have to be at the size of their images"
            )
        return image, mask

    def load_mask(self) -> Tensor:
        """The mask alone, whatever its size."""
        with reading(self.mask, self._fix):
            return read_mask(self.mask, num_classes=self.classes, ignore_index=IGNORE)

    @property
    def _fix(self) -> str:
        return f"replace it, or take {self.key} out of the list"


def find_pairs(images: Path, masks: Path, listed: Path | None, classes: int) -> tuple[list[Pair], int]:
    """The listed images, or all, that have a mask, and the number of those that have none."""
    pictures, found = find_images(images), find_masks(masks, MASK_FILES)
    keys = pictures.keys() if listed is None else read_list(listed)
    pairs = [Pair(key, pictures[key], found[key], classes) for key in keys if key in found]
    if not pairs:
        raise UserError(
            f"none of {len(keys)} images has a mask in {masks}: masks have the names of their images, with "
            f"one of {', '.join(MASK_FILES)}"
        )
    return pairs, len(keys) - len(pairs)


class Batch(NamedTuple):
    """Crops of one step that this process works on."""

    images: Tensor  # (B, 3, S, S) uint8, grey where padded
    masks: Tensor  # (B, S, S) int64, 255 where padded

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(self.images.to(device), self.masks.to(device))


class Crops(torch.utils.data.Dataset):
    """Augmented crops by position, the same in every process and after every restart."""

    def __init__(self, pairs: Sequence[Pair], *, crop: int, longer: tuple[float, float], seed: int):
        """Keep what a crop is made from; ``longer`` is the range of an image's longer side, in crops."""
        self.pairs, self.crop, self.longer, self.seed = pairs, crop, longer, seed

    def __getitem__(self, position: int) -> tuple[Tensor, Tensor]:
        """The crop at a position: scale, flip and window are drawn from the seed and the position."""
        pair, rng = draw(self.pairs, self.seed, position)
        image, mask = pair.load()
        view = draw_view(image.shape[-2:], self.crop, rng, self.longer)
        return cut(image, view), cut_mask(mask, view)


def cut_mask(mask: Tensor, view: View) -> Tensor:
    """What a view shows of a mask (H, W), 255 where it is padded."""
    shifted = (mask - IGNORE)[None]  # outside the image a view has zeros
    return view.crop(shifted, size=view.size, mode="nearest")[0] + IGNORE


def collate(crops: Sequence[tuple[Tensor, Tensor]]) -> Batch:
    """Stack crops."""
    images, masks = zip(*crops)
    return Batch(torch.stack(images), torch.stack(masks))
