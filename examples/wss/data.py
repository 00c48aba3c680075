"""Images, tags and augmented crops; a crop is a function of (seed, position), nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dhr_refine.datasets.photos import PHOTOS
from dhr_refine.datasets.voc import voc_tags, voc_targets
from dhr_refine.errors import UserError, reading
from dhr_refine.files.pictures import read_index_mask, read_picture
from dhr_refine.training import View
from wss.networks import Features

T = TypeVar("T")


@dataclass(frozen=True)
class Sample:
    """One image with its tags; ``truth`` is for the evaluation alone."""

    key: str
    image: Path | Tensor
    tags: tuple[int, ...]  # 0-based foreground classes
    truth: Path | None = None

    def load(self) -> Tensor:
        """The image, (3, H, W) uint8."""
        if isinstance(self.image, Tensor):
            return self.image
        with reading(self.image, f"replace it, or take {self.key} out of the split"):
            return read_picture(self.image)

    def load_truth(self, classes: int, ignore_index: int) -> Tensor:
        """The ground truth, (H, W) int64, at the image's size."""
        assert self.truth is not None
        with reading(self.truth, f"replace it, or take {self.key} out of the split"):
            truth = torch.from_numpy(read_index_mask(self.truth, classes, ignore_index))
        size = self.load().shape[1:]
        if truth.shape != size:
            raise UserError(
                f"{self.truth} is {tuple(truth.shape)} but the image {tuple(size)} (H, W): the ground truth "
                "has to be at the image's size"
            )
        return truth


def read_folder(root: Path, split: str) -> list[Sample]:
    """Images of a split of a VOC-like folder, with the tags of index.json or of the XML annotations."""
    tags, truth = voc_tags(root, split), voc_targets(root)
    return [
        Sample(key, root / "JPEGImages" / f"{key}.jpg", tags[key], truth and truth / f"{key}.png")
        for key in sorted(tags)
    ]


def demo_photos() -> tuple[list[Sample], list[str], list[list[int]]]:
    """The photos of the demo, the names of their tags, and the ImageNet classes of each."""
    groups = {name: list(group) for photo in PHOTOS.values() for name, group in photo.tags.items()}
    names = list(groups)
    samples = [Sample(p.key, p.load(), tuple(names.index(tag) for tag in p.tags)) for p in PHOTOS.values()]
    return samples, names, list(groups.values())


class Batch(NamedTuple):
    """Crops of one step that this process works on."""

    images: Tensor  # (B, 3, S, S) uint8, grey where padded
    tags: Tensor  # (B, C) multi-hot
    boxes: list[tuple[int, int, int, int]]  # x0, y0, x1, y1 of the image inside each crop
    uss: Tensor  # (B, D, u, v) USS features of the same crops

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(self.images.to(device), self.tags.to(device), self.boxes, self.uss.to(device))


class Crops(torch.utils.data.Dataset):
    """Augmented crops by position, the same in every process and after every restart."""

    def __init__(self, samples: Sequence[Sample], uss: Features, *, crop: int, classes: int, seed: int):
        """Keep what a crop is made from."""
        self.samples, self.uss, self.crop, self.classes, self.seed = samples, uss, crop, classes, seed

    def __getitem__(self, position: int) -> Batch:
        """The crop at a position: each epoch is a new permutation, each position a new augmentation."""
        sample, rng = draw(self.samples, self.seed, position)
        image = sample.load()
        view = draw_view(image.shape[-2:], self.crop, rng)
        return make_crop(image, sample.tags, view, self.uss, self.classes)


def make_crop(image: Tensor, tags: Sequence[int], view: View, uss: Features, classes: int) -> Batch:
    """A batch of one: what a view shows of an image, and of the USS features of the full image."""
    features = view.crop(uss.read(image).float(), size=uss.grid(view.size))
    return Batch(cut(image, view)[None], multi_hot(tags, classes)[None], [view.box], features[None])


def draw(samples: Sequence[T], seed: int, position: int) -> tuple[T, np.random.Generator]:
    """The sample at a position of a run, and what its augmentation is drawn from."""
    epoch, place = divmod(position, len(samples))
    order = np.random.default_rng((seed, 0, epoch)).permutation(len(samples))
    return samples[order[place]], np.random.default_rng((seed, 1, position))


def draw_view(
    size: Sequence[int], crop: int, rng: np.random.Generator, longer: tuple[float, float] = (0.8, 1.5)
) -> View:
    """A random scale (the longer side in crops), flip and window, padded where the image is smaller."""
    scale = crop * rng.uniform(*longer) / max(size)
    resized = [max(1, round(side * scale)) for side in size]
    (low_y, high_y), (low_x, high_x) = (sorted((0, side - crop)) for side in resized)
    y, x = int(rng.integers(low_y, high_y + 1)), int(rng.integers(low_x, high_x + 1))
    return View.of(size, resized=resized, window=(x, y, x + crop, y + crop), flip=bool(rng.integers(2)))


def cut(image: Tensor, view: View) -> Tensor:
    """The crop (3, S, S) uint8 that a view describes; 127, the classifier's zero, where it is padded."""
    scaled = resize(image, view.resized)
    scaled = scaled.flip(-1) if view.flip else scaled
    x0, y0, x1, y1 = view.window
    height, width = view.resized
    return F.pad(scaled, (-x0, x1 - width, -y0, y1 - height), value=127)


def resize(image: Tensor, size: Sequence[int]) -> Tensor:
    """A uint8 image at another size, antialiased."""
    scaled = F.interpolate(image[None].float(), tuple(size), mode="bilinear", antialias=True)
    return scaled[0].round().clamp(0, 255).to(torch.uint8)


def multi_hot(tags: Sequence[int], classes: int) -> Tensor:
    """Tags as a row of zeros and ones."""
    row = torch.zeros(classes)
    row[list(tags)] = 1
    return row


def collate(crops: Sequence[Batch]) -> Batch:
    """Join batches of one."""
    images, tags, boxes, uss = zip(*crops)
    return Batch(torch.cat(images), torch.cat(tags), [box for one in boxes for box in one], torch.cat(uss))
