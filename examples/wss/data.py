"""Images, tags and augmented crops; a crop is a function of (seed, position), nothing else."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from dhr_refine.demo.models import DemoError, require
from dhr_refine.demo.photos import PHOTOS
from dhr_refine.training import View
from wss.networks import Features

VOC = """
    aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person
    pottedplant sheep sofa train tvmonitor
""".split()  # noqa: SIM905


@dataclass(frozen=True)
class Sample:
    """One image with its tags; ``truth`` is for the evaluation alone."""

    key: str
    image: Path | Tensor
    tags: tuple[int, ...]  # 0-based foreground classes
    truth: Path | None = None

    def load(self) -> Tensor:
        """The image, (3, H, W) uint8."""
        return (
            self.image if isinstance(self.image, Tensor) else read_picture(self.image, "RGB").permute(2, 0, 1)
        )


def read_picture(path: Path, mode: str | None = None) -> Tensor:
    """A picture as uint8: (H, W, 3) in mode "RGB", (H, W) where the file holds the indices of a mask."""
    with require("PIL.Image").open(path) as picture:
        return torch.from_numpy(np.array(picture if mode is None else picture.convert(mode)))


def read_folder(root: Path, split: str) -> list[Sample]:
    """Images of a split of a VOC-like folder, with the tags of index.json or of the XML annotations."""
    index, names = root / "index.json", root / "ImageSets" / "Segmentation" / f"{split}.txt"
    if index.is_file():
        entries = [entry for entry in json.loads(index.read_text()) if entry["split"] == split]
        tags = {entry["id"]: tuple(tag - 1 for tag in entry["image_tags"]) for entry in entries}
    elif names.is_file():
        tags = {key: read_xml_tags(root / "Annotations" / f"{key}.xml") for key in names.read_text().split()}
    else:
        raise DemoError(f"--root {root} has neither index.json nor {names.relative_to(root)}")
    folders = (root / "SegmentationClassAug", root / "SegmentationClass")
    truth = next((folder for folder in folders if folder.is_dir()), None)
    return [
        Sample(key, root / "JPEGImages" / f"{key}.jpg", tags[key], truth and truth / f"{key}.png")
        for key in sorted(tags)
    ]


def read_xml_tags(path: Path) -> tuple[int, ...]:
    """The classes of the objects that a VOC annotation names; where they are stays unread."""
    objects = ElementTree.parse(path).getroot().iter("object")
    return tuple(sorted({VOC.index(str(item.findtext("name"))) for item in objects}))


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
        epoch, place = divmod(position, len(self.samples))
        order = np.random.default_rng((self.seed, 0, epoch)).permutation(len(self.samples))
        sample = self.samples[order[place]]
        image = sample.load()
        view = draw_view(image.shape[-2:], self.crop, np.random.default_rng((self.seed, 1, position)))
        return make_crop(image, sample.tags, view, self.uss, self.classes)


def make_crop(image: Tensor, tags: Sequence[int], view: View, uss: Features, classes: int) -> Batch:
    """A batch of one: what a view shows of an image, and of the USS features of the full image."""
    features = view.crop(uss.read(image).float(), size=uss.grid(view.size))
    return Batch(cut(image, view)[None], multi_hot(tags, classes)[None], [view.box], features[None])


def draw_view(size: Sequence[int], crop: int, rng: np.random.Generator) -> View:
    """A random scale (longer side 0.8 to 1.5 crops), flip and window, padded where the image is smaller."""
    scale = crop * rng.uniform(0.8, 1.5) / max(size)
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
