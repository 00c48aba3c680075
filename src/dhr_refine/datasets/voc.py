"""The layout of PASCAL VOC: folders, splits, and tags of an index or of XML annotations."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from .items import read_list

CLASSES: Sequence[str] = """
    aeroplane bicycle bird boat bottle bus car cat chair cow diningtable dog horse motorbike person
    pottedplant sheep sofa train tvmonitor
""".split()  # noqa: SIM905
"""Names of the 20 foreground classes, in the order of their labels."""


def voc_targets(root: Path) -> Path | None:
    """The folder of ground truth, the augmented one first; None if there is neither."""
    folders = (root / name for name in ("SegmentationClassAug", "SegmentationClass"))
    return next((folder for folder in folders if folder.is_dir()), None)


def voc_folders(root: Path) -> tuple[Path, Path]:
    """Folders of images and of ground truth below a VOC-like folder; a UserError if one is missing."""
    targets = voc_targets(root)
    if targets is None or not (root / "JPEGImages").is_dir():
        raise UserError(
            f"{root} needs the folders JPEGImages and SegmentationClassAug or SegmentationClass: "
            "pass the VOC2012 folder, or --images and --targets"
        )
    return root / "JPEGImages", targets


def voc_split(root: Path, split: str) -> list[str]:
    """The image ids of a split: ImageSets/Segmentation/SPLIT.txt, else those of index.json, sorted.

    Raises
    ------
    UserError
        The folder has neither.
    """
    listed = _list_of(root, split)
    if listed.is_file():
        return read_list(listed)
    entries = _index(root, split)
    if entries is None:
        raise UserError(f"{root} has neither {listed.relative_to(root)} nor index.json: pass --list FILE")
    return sorted(entry["id"] for entry in entries)


def voc_tags(root: Path, split: str) -> dict[str, tuple[int, ...]]:
    """0-based tags per image id of a split: those of index.json, else of the XML annotations of the list.

    Raises
    ------
    UserError
        The folder has neither an index nor a list of the split.
    OSError
        An annotation cannot be read.
    """
    entries, listed = _index(root, split), _list_of(root, split)
    if entries is not None:
        return {entry["id"]: tuple(tag - 1 for tag in entry["image_tags"]) for entry in entries}
    if listed.is_file():
        return {key: read_xml_tags(root / "Annotations" / f"{key}.xml") for key in read_list(listed)}
    raise UserError(f"--root {root} has neither index.json nor {listed.relative_to(root)}")


def read_xml_tags(path: Path) -> tuple[int, ...]:
    """The classes of the objects that a VOC annotation names; where they are stays unread."""
    objects = ElementTree.parse(path).getroot().iter("object")
    return tuple(sorted({CLASSES.index(str(item.findtext("name"))) for item in objects}))


def _list_of(root: Path, split: str) -> Path:
    return root / "ImageSets" / "Segmentation" / f"{split}.txt"


def _index(root: Path, split: str) -> list[dict[str, Any]] | None:
    """Entries of a split in index.json, with ``id``, ``split`` and ``image_tags`` (labels, from 1)."""
    path = root / "index.json"
    if not path.is_file():
        return None
    return [entry for entry in json.loads(path.read_text()) if entry["split"] == split]
