"""Folders of one file per image: finding an image's file, and reading CAMs, features and masks out of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..files import load_arrays, read_cams
from ..files.pictures import check_labels, read_index_mask

IMAGES = (".jpg", ".jpeg", ".png", ".JPEG", ".JPG")
"""Suffixes of images."""
ARRAYS = (".npy", ".npz", ".pt", ".pth", ".pkl")
"""Suffixes of files that ``load_arrays`` reads."""


def find_file(folder: Path, key: str, suffixes: Sequence[str]) -> Path:
    """The file of an image, with the first of the suffixes that there is; a UserError if there is none."""
    for suffix in suffixes:
        path = folder / f"{key}{suffix}"
        if path.is_file():
            return path
    raise UserError(f"{folder} has no file of image {key}: add {key} with one of {', '.join(suffixes)}")


def read_class_cams(
    folder: Path,
    key: str,
    tags: Sequence[int],
    *,
    background: str | None = None,
    allow_pickle: bool = False,
) -> Tensor:
    """CAMs of an image's tags out of a file in any form that ``read_cams`` takes.

    Parameters
    ----------
    folder : folder of the files
    key : id of the image
    tags : 0-based foreground classes
    background, allow_pickle : as in ``read_cams``

    Returns
    -------
    (K, h, w) float32, in the order of ``tags``

    Raises
    ------
    UserError
        There is no file, it cannot be understood, or it has no CAM of a tag.
    OSError
        The file cannot be opened.
    """
    path = find_file(folder, key, ARRAYS)
    options: Any = {"background": background, "allow_pickle": allow_pickle}
    cams, keys = read_safely(path, lambda: read_cams(path, **options))
    place = {key: row for row, key in enumerate(keys.tolist())}
    missing = [tag for tag in tags if tag not in place]
    if missing:
        raise UserError(
            f"{path} has no CAM of the tags {missing} (0-based, background not counted), only of "
            f"{sorted(place)}: save a map per foreground class or per tag with keys, or pass --tags"
        )
    return cams[[place[tag] for tag in tags]]


def read_levels(folder: Path, key: str, *, allow_pickle: bool = False) -> list[Tensor]:
    """Features of an image, one or several levels in a file.

    Parameters
    ----------
    folder : folder of the files
    key : id of the image
    allow_pickle : unpickle whatever the file holds, which can run any code

    Returns
    -------
    list of (D, h, w), one for each array in the file

    Raises
    ------
    UserError
        There is no file, it cannot be understood, or an array has another shape.
    OSError
        The file cannot be opened.
    """
    path = find_file(folder, key, ARRAYS)
    content = read_arrays(path, allow_pickle=allow_pickle)
    parts = list(content.values()) if isinstance(content, Mapping) else content
    levels = []
    for part in parts if isinstance(parts, (list, tuple)) else [parts]:
        level = torch.as_tensor(part)
        level = level[0] if level.ndim == 4 and level.shape[0] == 1 else level
        if level.ndim != 3:
            raise UserError(f"{path} holds an array of shape {tuple(level.shape)}: (D, h, w) is needed")
        levels.append(level)
    return levels


def read_mask(
    folder: Path, key: str, *, classes: int, ignore_index: int, allow_pickle: bool = False
) -> Tensor:
    """Mask of an image, an index PNG or an array.

    Parameters
    ----------
    folder : folder of the files
    key : id of the image
    classes : number of labels, the background counted
    ignore_index : label beside them that is allowed
    allow_pickle : unpickle whatever the file holds, which can run any code

    Returns
    -------
    (H, W) int64

    Raises
    ------
    UserError
        There is no file, it cannot be understood, or it holds other labels.
    OSError
        The file cannot be opened.
    """
    path = find_file(folder, key, (".png", *ARRAYS))
    if path.suffix == ".png":
        return torch.from_numpy(read_index_mask(path, classes, ignore_index))
    mask = np.squeeze(np.asarray(read_arrays(path, allow_pickle=allow_pickle)))
    return torch.from_numpy(check_labels(mask.astype(np.int64), path, classes, ignore_index))


def read_arrays(path: Path, *, allow_pickle: bool = False) -> Any:
    """Content of a .npy, .npz, .pt or .pkl file; the errors are those of :func:`read_safely`."""
    content = read_safely(path, lambda: load_arrays(path, allow_pickle=allow_pickle))
    if isinstance(content, np.ndarray) and content.dtype == object and content.ndim == 0:
        content = content.item()
    return content


def read_safely(path: Path, read: Callable[[], Any]) -> Any:
    """What a reader of dhr_refine.files, which executes no pickle unless told to, finds in a file.

    Every error but an OSError becomes a UserError in the words of the command line.
    """
    try:
        return read()
    except OSError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(
            f"{path} cannot be read ({error}); allow_pickle=True is --allow-pickle, background= is "
            "--cam-background"
        ) from error
