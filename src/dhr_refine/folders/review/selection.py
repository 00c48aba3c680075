"""Which images of some folders to look at, and their masks; what fails is said of each image by itself."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from ...checks import check_count, describe
from ...datasets.classes import ClassSet
from ...datasets.index import MASKS, FileIndex
from ...datasets.layouts import find_masks
from ...errors import UsageError, UserError, usage
from ...files.masks import read_mask
from ...files.regular import show_name
from ...metrics.counts import check_classes
from ..runs.options import read_ids
from ..runs.outcomes import Outcome, one_line

Folder = str | os.PathLike[str]
Ids = Sequence[str] | str | Path | None


class ImageFailed(Exception):
    """Raised with the outcome of an image that is left out."""

    def __init__(self, key: str, stage: str, message: str):
        """Keep it."""
        super().__init__(message)
        self.outcome = Outcome(key, "failed", stage, message)


@dataclass(frozen=True)
class MaskFolders:
    """Folders of masks of the same images.

    Parameters
    ----------
    folders : path of each folder by its stage, ``"masks"`` the first
    classes : what the masks hold
    ignore_index : label beside the classes
    """

    folders: Mapping[str, Path]
    classes: ClassSet
    ignore_index: int
    files: dict[str, FileIndex] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Look at the folders."""
        check_classes(self.classes.num_classes, self.ignore_index)
        with usage():
            files = {stage: find_masks(path, MASKS) for stage, path in self.folders.items()}
        object.__setattr__(self, "files", files)

    def read(self, key: str, stages: Sequence[str] | None = None) -> dict[str, Tensor]:
        """The masks of an image by their stages, all (H, W) int64 of one size.

        Parameters
        ----------
        key : id of the image
        stages : the folders to read, default: all

        Raises
        ------
        ImageFailed
            A mask is missing, damaged or has another size than the first.
        """
        masks: dict[str, Tensor] = {}
        for stage in self.files if stages is None else stages:
            try:
                path = self.files[stage][key]
                masks[stage] = read_mask(
                    path, num_classes=self.classes.num_classes, ignore_index=self.ignore_index
                )
            except (UserError, OSError) as error:
                raise ImageFailed(key, stage, one_line(error)) from error
            first = next(iter(masks))
            if masks[stage].shape != masks[first].shape:
                sizes = [" x ".join(map(str, masks[one].shape)) for one in (stage, first)]
                message = (
                    f"{show_name(path)} has {sizes[0]} pixels, but {show_name(self.files[first][key])} "
                    f"{sizes[1]}: resize the mask to its image by nearest neighbour"
                )
                raise ImageFailed(key, stage, message)
        return masks


def as_folder(given: Any, name: str) -> Path:
    """A path that was given as text or a path."""
    if not isinstance(given, (str, os.PathLike)):
        raise TypeError(f"{name} must be a path of a folder, got {describe(given)}: pass a str or a Path")
    return Path(os.fsdecode(given))


def choose(files: Sequence[FileIndex], ids: Ids = None, limit: int | None = None) -> list[str]:
    """Ids of the images to look at: those given, else those that all the folders have, sorted.

    Parameters
    ----------
    files : the folders that an image must be in to be chosen, if no ids are given
    ids : ids of the images, in this order, or what else ``read_ids`` takes; whether there are files is not
        asked
    limit : how many at most

    Raises
    ------
    UsageError
        No image is left.
    ValueError, TypeError
        ``ids`` are no list of text, ``limit`` is below 1.
    """
    if limit is not None:
        check_count(limit, "limit", 1)
    if ids is None:
        chosen = [key for key in files[0].keys() if all(key in other for other in files[1:])]  # noqa: SIM118
    else:
        chosen = list(dict.fromkeys(read_ids(ids)))
    if not chosen:
        counts = [f"{' + '.join(map(show_name, one.places))} has {len(one)}" for one in files]
        fix = "files of one image have one name, and masks are .png, .npy, .npz, .pt, .pth or .pkl"
        raise UsageError(f"no image to work on: {', '.join(counts)} files, and none of one image: {fix}")
    return chosen[:limit]
