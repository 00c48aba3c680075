"""Where the maps of an image come from: folders of images, CAMs, masks and features, or a network."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from ...datasets.classes import ClassSet, class_set
from ...datasets.folders import cams_of_tags, read_levels
from ...datasets.index import ARRAYS, MASKS, FileIndex
from ...datasets.layouts import find_images, find_masks
from ...errors import UserError, usage
from ...files.cams import Cams, read_told
from ...files.contents import read_safely
from ...files.masks import read_mask
from ...files.pictures import read_picture
from ...sam import SegmentIndex, Segments, read_segments

CamBackground = Literal["first", "none"]


@dataclass(frozen=True)
class Sources:
    """Folders with a file for each image, and how to read them. Each is looked at once, when needed."""

    images: Path
    cams: Path | None = None
    masks: Path | None = None
    uss: Path | None = None
    wss: tuple[Path, ...] = ()
    tags: Mapping[str, tuple[int, ...]] | None = None
    classes: ClassSet = field(default_factory=lambda: class_set("voc"))
    ignore_index: int = 255
    cam_background: CamBackground | None = None
    allow_pickle: bool = False
    segments: Path | None = None

    def image(self, key: str) -> Tensor:
        """(3, H, W) uint8."""
        return read_picture(self.image_files[key])

    def tags_of(self, key: str) -> tuple[int, ...]:
        """0-based foreground classes of an image, sorted: those of the tags, or the keys of its CAM file."""
        if self.tags is not None:
            if key not in self.tags:
                raise UserError(f"the tags have no entry for image {key}: complete them")
            return tuple(sorted({*self.tags[key]}))
        return self._told_tags(*self._read_cams(key))

    def cams_of(self, key: str, tags: tuple[int, ...]) -> Tensor:
        """(K, h, w) float32 CAMs of the tags; an image without tags needs no file."""
        return self._chosen(*self._read_cams(key), tags) if tags else torch.zeros(0, 1, 1)

    def tags_and_cams(self, key: str) -> tuple[tuple[int, ...], Tensor]:
        """The tags of an image and their CAMs; a file that tells both is read once."""
        if self.tags is not None:
            tags = self.tags_of(key)
            return tags, self.cams_of(key, tags)
        read = self._read_cams(key)
        tags = self._told_tags(*read)
        return tags, self._chosen(*read, tags) if tags else torch.zeros(0, 1, 1)

    def _read_cams(self, key: str) -> tuple[Path, Cams, bool]:
        """The file of an image's CAMs, what it holds, and whether it tells their classes."""
        path = self.cam_files[key]
        options: Any = {"background": self.cam_background, "allow_pickle": self.allow_pickle}
        return path, *read_safely(path, lambda: read_told(path, **options))

    def _told_tags(self, path: Path, cams: Cams, told: bool) -> tuple[int, ...]:
        if not told:
            raise UserError(
                f"{path} holds a map for each of {len(cams.keys)} classes and does not tell the tags of its "
                "image: pass --tags"
            )
        tags, most = tuple(cams.keys.tolist()), len(self.classes.foreground)
        if tags and tags[-1] >= most:
            raise UserError(
                f"{path} has a map of class {tags[-1]}, but the foreground classes are 0 to {most - 1}: pass "
                "the classes of this data set (--classes), or --cam-background first if 0 is the background"
            )
        return tags

    def _chosen(self, path: Path, cams: Cams, told: bool, tags: tuple[int, ...]) -> Tensor:
        most = len(self.classes.foreground)
        if not told and len(cams.keys) != most:
            raise UserError(
                f"{path} holds {len(cams.keys)} maps without numbers, but there are {most} foreground "
                "classes: pass the folder of CAMs (--cams), the classes of the data set (--classes), or "
                "--cam-background first if the first map is the background"
            )
        return cams_of_tags(path, cams, tags)

    def mask(self, key: str, size: tuple[int, ...]) -> Tensor:
        """(H, W) int64 base mask."""
        path = self.mask_files[key]
        known: Any = {"num_classes": self.classes.num_classes, "ignore_index": self.ignore_index}
        mask = read_mask(path, **known, allow_pickle=self.allow_pickle)
        if tuple(mask.shape) != size:
            raise UserError(
                f"{path} is {tuple(mask.shape)} but the image {size} (H, W): save masks at the size of the "
                "images"
            )
        return mask

    def uss_of(self, key: str) -> Tensor:
        """(D, u, v) features."""
        path = self.uss_files[key]
        levels = read_levels(path, allow_pickle=self.allow_pickle)
        if len(levels) > 1:
            raise UserError(f"{path} holds {len(levels)} arrays: USS features are one (D, h, w)")
        return levels[0].float()

    def wss_of(self, key: str) -> list[Tensor]:
        """The levels of the classifier's features, of one folder after the other."""
        levels = (read_levels(files[key], allow_pickle=self.allow_pickle) for files in self.wss_files)
        return [level.float() for part in levels for level in part]

    def segments_of(self, key: str, size: tuple[int, ...]) -> Segments:
        """The segments of an image of a size (H, W)."""
        path = self.segment_files[key]
        segments = read_segments(path)
        if segments.size != size:
            raise UserError(
                f"{path} has segments of {segments.size} but the image is {size} (H, W): make them of the "
                "image at its own size"
            )
        return segments

    def files(self) -> dict[str, FileIndex | SegmentIndex]:
        """The files of every folder that is given, by what they are; a UsageError if a folder has none."""
        with usage():
            found: dict[str, FileIndex | SegmentIndex] = {"images": self.image_files}
            found |= {} if self.cams is None else {"cams": self.cam_files}
            found |= {} if self.masks is None else {"masks": self.mask_files}
            found |= {} if self.uss is None else {"uss": self.uss_files}
            found |= {} if self.segments is None else {"segments": self.segment_files}
            return found | {f"wss {number}": files for number, files in enumerate(self.wss_files)}

    @cached_property
    def image_files(self) -> FileIndex:
        """Files of images."""
        return find_images(self.images)

    @cached_property
    def cam_files(self) -> FileIndex:
        """Files of CAMs."""
        return _index(self.cams, ARRAYS, "--cams")

    @cached_property
    def mask_files(self) -> FileIndex:
        """Files of base masks."""
        if self.masks is None:
            raise UserError("there are no base masks: pass --masks")
        return find_masks(self.masks, MASKS)

    @cached_property
    def uss_files(self) -> FileIndex:
        """Files of USS features."""
        return _index(self.uss, ARRAYS, "--uss")

    @cached_property
    def segment_files(self) -> SegmentIndex:
        """Files and folders of segments."""
        if self.segments is None or not self.segments.is_dir():
            raise UserError(
                f"{self.segments} is no folder: pass --boundary sam:DIR with the folder of segments"
            )
        return SegmentIndex(self.segments)

    @cached_property
    def wss_files(self) -> list[FileIndex]:
        """Files of WSS features, for each folder."""
        return [_index(folder, ARRAYS, "--wss") for folder in self.wss]


def _index(folder: Path | None, suffixes: tuple[str, ...], option: str) -> FileIndex:
    if folder is None:
        raise UserError(f"a folder is missing: pass {option} DIR")
    index = FileIndex(folder, suffixes)
    if not len(index):
        raise UserError(f"{folder} has no file with one of {', '.join(suffixes)}: pass another {option}")
    return index
