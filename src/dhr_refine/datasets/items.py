"""Images of a data set on disk: lists of them, and which to work on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..files.pictures import read_index_mask
from .index import FileIndex
from .rows import read_rows


@dataclass(frozen=True)
class Item:
    """One image of the data set, on disk."""

    key: str
    image: Path
    target: Path
    tags: tuple[int, ...]  # 0-based foreground classes


def read_list(path: Path) -> list[str]:
    """Image ids of a list or table, each once: what a line names first, without folder and image suffix.

    Raises
    ------
    UserError
        The file cannot be opened or is no text, or a line has no id.
    """
    return [*dict.fromkeys(key for key, _ in read_rows(path, "pass a list with an image id per line").rows)]


def select(
    keys: Iterable[str],
    images: FileIndex,
    targets: FileIndex,
    *,
    classes: int = 21,
    ignore_index: int = 255,
    tags: Mapping[str, tuple[int, ...]] | None = None,
    min_classes: int = 1,
    part: str | None = None,
    limit: int | None = None,
) -> list[Item]:
    """The images to work on, sorted by id: those with enough classes, of them the half, of it the first ones.

    Images without a tag are left out: they keep their base mask whatever the recipe.

    Parameters
    ----------
    keys : ids of the images
    images, targets : the images and index PNGs
    classes : number of labels, the background counted
    ignore_index : label of the ground truth that counts as none
    tags : 0-based tags per id, default: those of the ground truth
    min_classes : number of foreground classes that the ground truth of an image has at least
    part : "tune" for the first, third, ... of these images, "check" for the others, default: all
    limit : how many at most

    Raises
    ------
    UserError
        A file or the tags of an image are missing, a file holds other labels, or no image is left.
    OSError
        A file cannot be read.
    """
    items: list[Item] = []
    for key in sorted(set(keys)):
        if part is None and limit is not None and len(items) == limit:
            break
        target = targets[key]
        mask = read_index_mask(target, classes, ignore_index)
        present = sorted({int(label) for label in np.unique(mask)} - {0, ignore_index})
        if tags is not None and key not in tags:
            raise UserError(f"the tags file has no entry for image {key}: complete it, or leave out --tags")
        own = tuple(label - 1 for label in present) if tags is None else tags[key]
        if len(present) >= min_classes and own:
            items.append(Item(key, images[key], target, own))
    if part is not None:
        items = items[part == "check" :: 2]
    items = items[:limit]
    if not items:
        raise UserError("no image is left to work on: check --split, --list, --half and --min-classes")
    return items
