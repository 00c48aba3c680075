"""Where data sets keep their images and masks: from a folder that a user names to the files of images."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from ..errors import UserError
from ..files.regular import show_name
from .index import IMAGES, FileIndex

TARGETS = ("SegmentationClassAug", "SegmentationClass")
"""The folders of ground truth in PASCAL VOC, the augmented one first."""
_VOC_IMAGES = ("JPEGImages",)
_IMAGE_FOLDERS = ("images", "image", "img", "imgs")
_MASK_FOLDERS = ("masks", "mask", "annotations", "labels", "label", "gt")
_SPLITS = tuple(f"{split}{year}" for year in ("2014", "2017", "") for split in ("train", "val", "test"))


def find_images(path: Path) -> FileIndex:
    """The images of a data set.

    Parameters
    ----------
    path : a folder of images, or a data set that has one: PASCAL VOC (``JPEGImages``, also below VOCdevkit),
        MS COCO (``train2014``, ``val2014``, ..., also below ``images``: all of them together), DHR
        (``{domain}/image``, of one domain or of all), or one image

    Raises
    ------
    UserError
        There is no image, or a folder cannot be read.
    """
    return _find(path, (IMAGES,), _VOC_IMAGES, _IMAGE_FOLDERS, "image")


def find_masks(path: Path, suffixes: Sequence[str] = (".png",)) -> FileIndex:
    """The masks of a data set, its ground truth as a rule.

    Parameters
    ----------
    path : a folder of masks, or a data set that has one: PASCAL VOC (``SegmentationClassAug``, else
        ``SegmentationClass``), MS COCO (PNGs below ``SegmentationClass`` or ``annotations``), DHR
        (``{domain}/mask``), or one mask
    suffixes : those of masks; folders that hold some with the first are preferred

    Raises
    ------
    UserError
        There is no mask, or a folder cannot be read.
    """
    return _find(path, (suffixes[:1], suffixes), TARGETS, _MASK_FOLDERS, "mask")


def find_annotations(path: Path) -> FileIndex | None:
    """The XML annotations of a data set, None if it has none.

    Parameters
    ----------
    path : their folder, or a data set that has one: PASCAL VOC (``Annotations``) or DHR (``xml``)
    """
    for folder in (path, path / "Annotations", path / "xml"):
        if folder.is_dir() and len(index := FileIndex(folder, (".xml",))):
            return index
    return None


def _find(
    path: Path, preferences: Sequence[Sequence[str]], first: Sequence[str], then: Sequence[str], what: str
) -> FileIndex:
    """The files with any suffix of the last preference, in the folders that have some of an earlier one."""
    for suffixes in preferences:
        for places in [[path]] if path.is_file() else _places(path, first, then, what):
            if len(FileIndex(places, suffixes)):
                return FileIndex(places, preferences[-1])
    wanted = ", ".join(preferences[-1])
    if path.is_file():
        raise UserError(f"{show_name(path)} is no {what}: pass a folder, or a file with one of {wanted}")
    names = ", ".join((*first, *then, *_SPLITS, *(f"*/{name}" for name in (*first, what))))
    raise UserError(
        f"{show_name(path)} has no {what} (a file with one of {wanted}), nor have its folders {names}: pass "
        f"the folder of the {what}s"
    )


def _places(root: Path, first: Sequence[str], then: Sequence[str], what: str) -> Iterator[list[Path]]:
    """Folders to look into, one after the other, each with those that belong to it."""
    for name in first:  # unmistakable, where the folder itself may hold other pictures
        yield from _with_splits(root / name)
    yield [root]
    yield [root / split for split in _SPLITS if (root / split).is_dir()]
    for name in then:
        yield from _with_splits(root / name)
    for name in (*first, what):
        yield sorted(folder for folder in root.glob(f"*/{name}") if folder.is_dir())


def _with_splits(folder: Path) -> Iterator[list[Path]]:
    if folder.is_dir():
        yield [folder]
        yield [folder / split for split in _SPLITS if (folder / split).is_dir()]
