"""What a page says about one image: small pictures of its masks, and what became of each class."""

from __future__ import annotations

import base64
import io
import math
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ...datasets.index import FileIndex
from ...errors import UserError, require
from ...files.pictures import read_picture
from ...files.regular import show_name
from ...metrics import image_scores, scores_of
from ...palettes import UNKNOWN, palette
from ...viz.overlays import overlay_labels
from ..runs.outcomes import one_line
from .ranking import changed_share, counts_of
from .selection import ImageFailed, MaskFolders

MOST_CLASSES = UNKNOWN - 1
"""Labels that there are colours for."""
_SIDE = 360  # pixels of the longer side of a picture
_QUALITY = 80

# What the masks of each folder are called where there is a base, and where there is none.
_TITLES = {"base": "Base", "masks": "Refined", "targets": "Ground truth"}
_ALONE = {"masks": "Mask", "targets": "Ground truth"}


class Picture(NamedTuple):
    """A small picture for a page."""

    title: str
    """What it shows."""
    alt: str
    """The same for who cannot see it."""
    size: tuple[int, int]
    """Width and height in pixels."""
    source: str
    """The picture itself, as a ``data:`` URL."""


class ClassRow(NamedTuple):
    """What became of a class in an image. Shares are of all pixels; NaN where there is no such mask."""

    label: int
    verdict: str
    base_share: float
    share: float
    base_iou: float
    iou: float


class Card(NamedTuple):
    """What a page says about an image."""

    key: str
    pictures: list[Picture]
    rows: list[ClassRow]
    miou: float
    base_miou: float
    changed: float
    unknown: bool
    """Whether pixels of no class are shown."""


class Colours:
    """The colours of labels: the background's is black, whichever label it is.

    Parameters
    ----------
    num_classes : number of labels
    background : "first", "last" or "none"
    ignore_index : label of what has no class
    """

    def __init__(self, num_classes: int, background: str, ignore_index: int):
        """Move the background to row 0 of the palette, or leave this row free."""
        labels = np.arange(num_classes)
        self._rows = {"first": labels, "last": (labels + 1) % num_classes, "none": labels + 1}[background]
        self._ignore_index = ignore_index
        self.table = palette(UNKNOWN)

    def paint(self, pixels: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """A mask over a grey photo."""
        known = mask != self._ignore_index
        rows = np.where(known, self._rows[np.where(known, mask, 0)], UNKNOWN)
        return overlay_labels(pixels, rows, self.table)

    def css(self, label: int) -> str:
        """The colour of a label."""
        return "#" + "".join(f"{int(part):02x}" for part in self.table[self._rows[label]])


def make_card(folders: MaskFolders, images: FileIndex, key: str, colours: Colours) -> Card:
    """Read the files of an image and look at them.

    Raises
    ------
    ImageFailed
        A file is missing or damaged, or of another size than the others.
    """
    masks = folders.read(key)
    pixels = _read_image(images, key, masks["masks"])
    names = folders.classes.names
    shown = _small_picture(pixels)
    pictures = [Picture("Image", f"{key}: the image", _size(shown), _encode(shown))]
    titles = _TITLES if "base" in masks else _ALONE
    for stage, title in titles.items():
        if stage in masks:
            mask = masks[stage].numpy()
            held = [names[label] for label in np.unique(mask).tolist() if label != folders.ignore_index]
            painted = colours.paint(shown, _small_mask(mask, shown.shape[:2]))
            alt = f"{key}: {title.lower()}, with {', '.join(held) or 'no class'}"
            pictures.append(Picture(title, alt, _size(painted), _encode(painted)))
    ious, base_ious = (_ious(folders, masks, stage) for stage in ("masks", "base"))
    shares = {stage: _shares(folders, mask) for stage, mask in masks.items()}
    rows = [
        ClassRow(
            label,
            _verdict({stage: part[label] > 0 for stage, part in shares.items()}),
            float(shares["base"][label]) if "base" in shares else math.nan,
            float(shares["masks"][label]),
            float(base_ious[1][label]),
            float(ious[1][label]),
        )
        for label in np.flatnonzero(sum(shares.values()) > 0).tolist()
    ]
    return Card(
        key,
        pictures,
        rows,
        miou=ious[0],
        base_miou=base_ious[0],
        changed=changed_share(masks["masks"], masks["base"]) if "base" in masks else math.nan,
        unknown=any(bool((mask == folders.ignore_index).any()) for mask in masks.values()),
    )


def _read_image(images: FileIndex, key: str, mask: Tensor) -> np.ndarray:
    """(H, W, 3) uint8 of the size of the mask."""
    try:
        path = images[key]
        image = read_picture(path)
    except (UserError, OSError) as error:
        raise ImageFailed(key, "images", one_line(error)) from error
    if image.shape[1:] != mask.shape:
        sizes = [" x ".join(map(str, size)) for size in (image.shape[1:], mask.shape)]
        message = f"{show_name(path)} has {sizes[0]} pixels, but its mask {sizes[1]}: resize the mask"
        raise ImageFailed(key, "images", message)
    return image.permute(1, 2, 0).numpy()


def _ious(folders: MaskFolders, masks: dict[str, Tensor], stage: str) -> tuple[float, np.ndarray]:
    """Mean IoU of an image and the IoU of each class, NaN without ground truth."""
    if "targets" not in masks or stage not in masks:
        return math.nan, np.full(folders.classes.num_classes, np.nan)
    counts = counts_of(folders, masks[stage], masks["targets"])
    return float(image_scores(counts).miou[0]), scores_of(counts).iou


def _shares(folders: MaskFolders, mask: Tensor) -> np.ndarray:
    """(C,) share of the pixels of each class."""
    known = mask[mask != folders.ignore_index]
    return np.bincount(known.numpy(), minlength=folders.classes.num_classes) / mask.numel()


def _verdict(there: dict[str, bool]) -> str:
    """What became of a class, by the folders whose mask has it."""
    words = []
    if there.get("base", there["masks"]) != there["masks"]:
        words.append("recovered" if there["masks"] else "lost")
    if not there.get("targets", True):
        words.append("not in the ground truth")
    elif not there["masks"] and not words:
        words.append("missing")
    return ", ".join(words)


def _small_picture(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    scale = min(1.0, _SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(require("PIL.Image").fromarray(pixels).resize(size))


def _small_mask(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """The label at the middle of each pixel of a smaller picture."""
    rows, columns = (((np.arange(to) + 0.5) * of / to).astype(int) for to, of in zip(size, mask.shape))
    return mask[rows[:, None], columns]


def _size(picture: np.ndarray) -> tuple[int, int]:
    return picture.shape[1], picture.shape[0]


def _encode(picture: np.ndarray) -> str:
    buffer: Any = io.BytesIO()
    require("PIL.Image").fromarray(picture).save(buffer, format="JPEG", quality=_QUALITY, optimize=True)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
