"""The layout of PASCAL VOC: folders, splits, and tags of an index or of XML annotations."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files.limits import shorten
from .classes import SETS
from .items import read_list
from .layouts import TARGETS
from .texts import check_key, read_bytes, read_text

CLASSES = SETS["voc"][1]
"""Names of the 20 foreground classes, in the order of their labels."""
_SPLITS = "ImageSets/Segmentation"


def voc_targets(root: Path) -> Path | None:
    """The folder of ground truth, the augmented one first; None if there is neither."""
    folders = (root / name for name in TARGETS)
    return next((folder for folder in folders if folder.is_dir()), None)


def voc_split(root: Path, split: str) -> list[str]:
    """The image ids of a split: ImageSets/Segmentation/SPLIT.txt, else those of index.json, sorted.

    Raises
    ------
    UserError
        The folder has neither, or they cannot be read or understood.
    """
    listed = _list_of(root, split)
    if listed.is_file():
        return read_list(listed)
    entries = _index(root, split)
    if entries is None:
        raise UserError(
            f"{root} has neither {_SPLITS}/{split}.txt nor index.json: pass --list FILE{_lists(root)}"
        )
    return sorted(entry["id"] for entry in entries)


def voc_halves(root: Path) -> dict[str, str]:
    """The half, "tune" or "check", of each image that index.json gives one; empty without an index.

    Raises
    ------
    UserError
        The index cannot be read or understood.
    """
    entries = _index(root, None) or []
    return {entry["id"]: entry["half"] for entry in entries if entry.get("half") in ("tune", "check")}


def voc_tags(root: Path, split: str) -> dict[str, tuple[int, ...]]:
    """0-based tags per image id of a split: those of index.json, else of the XML annotations of the list.

    Raises
    ------
    UserError
        The folder has neither an index nor a list of the split, or one of them or an annotation cannot be
        read or understood.
    """
    entries, listed = _index(root, split), _list_of(root, split)
    if entries is not None:
        return {entry["id"]: _tags_of(entry, root / "index.json") for entry in entries}
    if not listed.is_file():
        named = f"--root {root} has neither index.json nor {_SPLITS}/{split}.txt"
        raise UserError(f"{named}: pass the VOC2012 folder{_lists(root)}")
    return {key: read_xml_tags(root / "Annotations" / f"{key}.xml") for key in read_list(listed)}


def read_xml_tags(path: Path, classes: Sequence[str] = CLASSES) -> tuple[int, ...]:
    """The classes of the objects that a VOC annotation names; where they are stays unread."""
    parser = ElementTree.XMLParser(target=_WithoutTypes())
    try:
        parser.feed(read_bytes(path, "replace it"))
        objects = list(parser.close().iter("object"))
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise UserError(f"{path} is no annotation of VOC ({error}): replace it") from error
    names = {str(item.findtext("name")).strip() for item in objects}
    if unknown := sorted(names - set(classes)):
        known = f"{'VOC' if classes is CLASSES else 'the data set'}'s are {', '.join(classes)}"
        raise UserError(f"{path} names the class {shorten(repr(unknown[0]))}: {known}")
    return tuple(sorted(classes.index(name) for name in names))


class _WithoutTypes(ElementTree.TreeBuilder):
    """Refuses document types before their entities are read, which can expand without bound."""

    def doctype(self, *_: object) -> None:
        """Raise at the start of one."""
        raise ValueError("it has a document type, which VOC's have not")


def _list_of(root: Path, split: str) -> Path:
    return root / _SPLITS / f"{split}.txt"


def _lists(root: Path) -> str:
    """The end of a message that names the splits of a folder."""
    splits = sorted(path.stem for path in (root / _SPLITS).glob("*.txt"))
    return f", or a split that there is: {shorten(', '.join(splits))}" if splits else ""


def _index(root: Path, split: str | None) -> list[dict[str, Any]] | None:
    """Entries of a split, or all, of index.json: ``id``, ``split``, ``image_tags`` (labels, from 1)."""
    path = root / "index.json"
    if not path.is_file():
        return None
    try:
        entries = json.loads(read_text(path, "write it anew"))
        found = [entry for entry in entries if split is None or entry["split"] == split]
        broken = not all(isinstance(entry["id"], str) for entry in found)
    except KeyError as error:
        raise UserError(_broken(path, f"one has no {error}")) from error
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(_broken(path, str(error))) from error
    if broken:
        raise UserError(_broken(path, "an id is no text"))
    for entry in found:
        check_key(entry["id"], path)
    return found


def _tags_of(entry: dict[str, Any], path: Path) -> tuple[int, ...]:
    tags = entry.get("image_tags")
    known = range(1, len(CLASSES) + 1)
    if not isinstance(tags, list) or not all(type(tag) is int and tag in known for tag in tags):
        wanted = f"image_tags of {entry['id']} must be labels from 1 to {len(CLASSES)}"
        raise UserError(_broken(path, f"{wanted}, got {shorten(repr(tags))}"))
    return tuple(tag - 1 for tag in tags)


def _broken(path: Path, why: str) -> str:
    return f"{path} must be a list of images with id, split and image_tags each ({why}): mend it"
