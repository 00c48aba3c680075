"""Image tags from any source, and the table that we write."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import UserError
from ..files.contents import read_arrays, read_numbers
from ..files.masks import read_mask
from ..files.regular import show_name
from ..files.writing import write_atomic
from .classes import Background, ClassSet, class_set
from .coco import is_coco, read_json, tags_of_coco
from .index import ARRAYS, IMAGES, MASKS, FileIndex
from .layouts import find_annotations, find_masks
from .rows import Rows, id_of, read_rows
from .tag_table import Tags, match_ids
from .tag_words import TITLE, Known, tags_of_names, tags_of_rows, tags_of_words
from .texts import check_key
from .voc import CLASSES, read_xml_tags

_FIX = "pass tags as a cls_labels.npy, a table, COCO's instances, or a folder of annotations or masks"
_MOST_LABELS = 65536


def read_tags(
    source: Path,
    *,
    classes: ClassSet | None = None,
    background: Background | None = None,
    ignore_index: int = 255,
    first: int | None = None,
    keys: Iterable[str] | None = None,
    allow_pickle: bool = False,
) -> Tags:
    """Image tags from any source, told by what it is.

    Parameters
    ----------
    source : path of one of these:

        - a dictionary of multi-hot rows (``cls_labels.npy``), in any form that ``load_arrays`` takes, by ids,
          or by the numbers that IRN and COCO have for them
        - a list or table with tags beside the images: multi-hot, class numbers or class names
        - JSON: COCO's instances, or a dictionary of lists of tags
        - a folder of VOC's XML annotations, of images with tags in their names (``x[1 0 1].png``), or of
          masks
        - a data set that has annotations or masks

    classes : the classes of the data set, default: what the source says
    background : which label of masks is the background, default: as in ``classes``, else the first
    ignore_index : label of masks that is no class
    first : number of the first foreground class, needed where numbers of classes could count from 0 or from 1
    keys : ids of the images that are wanted, default: all; COCO's ids may differ from those of the source in
        what stands before the number
    allow_pickle : unpickle whatever a file of arrays holds, which can run any code

    Raises
    ------
    UserError
        The source cannot be understood, could mean either of two things, or does not fit the classes.
    ValueError
        ``background`` is another than that of ``classes``.
    OSError
        A file cannot be opened, or a mask is no picture.
    """
    if classes is not None:
        background = class_set(classes, background=background).background
    known, suffix = Known(classes, first), source.suffix.lower()
    wanted = None if keys is None else [*dict.fromkeys(keys)]
    if source.is_dir() or suffix in (".xml", ".png"):
        return _tags_of_files(source, known, wanted, background or "first", ignore_index)
    if suffix in ARRAYS:
        tags = _tags_of_arrays(read_arrays(source, allow_pickle=allow_pickle), source, known)
    elif suffix == ".json":
        content = read_json(source)
        if is_coco(content):
            tags = tags_of_coco(content, source, known)
        else:
            tags = tags_of_words(_rows_of_json(content, source), source, known)
    else:
        tags = tags_of_words(read_rows(source, _FIX), source, known)
    return tags if wanted is None else tags.of(wanted)


def write_tags(path: Path, table: Mapping[str, Iterable[int]]) -> None:
    """Write tags as a table that :func:`read_tags` reads: a line of titles, then a line for each image.

    Parameters
    ----------
    path : path of the file
    table : 0-based foreground classes per image id

    Raises
    ------
    UserError
        An id cannot be written as the name of a file.
    OSError
        The file cannot be written.
    """
    lines = [f"id,{TITLE}"]
    for key in sorted(table):
        # An id that ends like the name of a file gets another ending, as the file of its image has.
        name = f"{key}.png" if Path(key).suffix.lower() in IMAGES else key
        if id_of(name, path) != check_key(key, path):
            raise UserError(f"{show_name(path)} cannot hold the image id {key!a}: rename the image")
        if not re.fullmatch(r"[\w.-]+", name):
            name = '"' + name.replace('"', '""') + '"'
        lines.append(f"{name},{' '.join(map(str, sorted(set(table[key]))))}")
    write_atomic(path, "".join(f"{line}\n" for line in lines).encode())


def _tags_of_arrays(content: Any, path: Path, known: Known) -> Tags:
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds no dictionary of image ids and tags: pass a file like cls_labels.npy")
    keys, rows = [_key(key, path) for key in content], []
    for key, row in zip(keys, _numbers([*content.values()], path)):
        if row.ndim != 1:
            raise UserError(
                f"{path} has tags of shape {tuple(row.shape)} for {key} but they must be (C,): tags are "
                "multi-hot without the background"
            )
        if (row < 0).any():
            raise UserError(f"{path} has negative tags for {key}: tags are 1 for what is there and 0 else")
        if (row != row.round()).any():
            raise UserError(
                f"{path} has fractions as tags for {key}: tags are 1 for what is there and 0 else, no scores"
            )
        rows.append(row.tolist())
    return tags_of_rows(keys, rows, path, known, "a dictionary of multi-hot rows")


def _numbers(rows: list[Any], path: Path) -> Iterable[Tensor]:
    """What the entries of a dictionary hold, all at once where they are alike, which is faster."""
    if (
        all(isinstance(row, np.ndarray) for row in rows)
        and len({(row.shape, row.dtype) for row in rows}) == 1
    ):
        return read_numbers(np.stack(rows), path)
    return (read_numbers(row, path) for row in rows)


def _key(key: Any, path: Path) -> str:
    if isinstance(key, (int, np.integer)):  # IRN keeps 2007_000032 as the number 2007000032
        return str(key) if key < 10**9 else f"{key // 1_000_000:04d}_{key % 1_000_000:06d}"
    name = str(key)
    return check_key(Path(name).stem if name.lower().endswith(IMAGES) and "/" not in name else name, path)


def _rows_of_json(content: Any, path: Path) -> Rows:
    """A dictionary of ids and lists of tags as lines."""
    rows = []
    for key, tags in content.items() if isinstance(content, dict) else ():
        if not isinstance(tags, list) or not all(isinstance(tag, (int, str)) for tag in tags):
            break
        rows.append((id_of(key, path), [tag if isinstance(tag, str) else str(int(tag)) for tag in tags]))
    if not rows or len(rows) < len(content):
        raise UserError(
            f"{show_name(path)} holds neither COCO's instances nor a dictionary of image ids and lists of "
            f"tags: {_FIX}"
        )
    return Rows([], rows, True)


def _names_of_annotations(path: Path, known: Known) -> tuple[str, ...]:
    """The names that annotations give classes: VOC's, unless the data set has names of its own."""
    if known.classes is not None and not all(name.isdecimal() for name in known.classes.foreground):
        return known.classes.foreground
    if known.foreground not in (None, len(CLASSES)):
        raise UserError(
            f"{show_name(path)} has annotations, whose names only a set of classes puts in order, but "
            f"{known.option} is a number: pass the name of the set"
        )
    return CLASSES


def _tags_of_files(
    path: Path, known: Known, keys: Sequence[str] | None, background: Background, ignore_index: int
) -> Tags:
    """Tags of annotations, else of the names of images, else of masks."""
    xml = FileIndex(path, (".xml",)) if path.suffix.lower() == ".xml" else find_annotations(path)
    if xml is not None:
        names = _names_of_annotations(path, known)
        own = match_ids(xml.keys(), xml.keys() if keys is None else keys)
        table = {key: read_xml_tags(xml[name], names) for key, name in own.items()}
        return Tags(table, len(names), "VOC's annotations")
    if path.is_dir() and len(images := FileIndex(path, IMAGES)):
        tags = tags_of_names(images.keys(), path, known)
        if tags is not None:
            return tags if keys is None else tags.of(keys)
    masks = find_masks(path, MASKS)
    own = match_ids(masks.keys(), masks.keys() if keys is None else keys)
    count = _MOST_LABELS if known.classes is None else known.classes.num_classes
    if background == "last" and known.classes is None:
        raise UserError(f"{show_name(path)} has masks whose background is the last label: pass --classes N")
    table = {}
    for key, name in own.items():
        mask = read_mask(masks[name], num_classes=count, ignore_index=ignore_index)
        labels = {int(label) for label in mask.unique()} - {ignore_index}
        labels -= {"first": {0}, "last": {count - 1}, "none": set[int]()}[background]
        table[key] = tuple(sorted(label - 1 if background == "first" else label for label in labels))
    return Tags(table, known.foreground, f"masks with the background {background}")
