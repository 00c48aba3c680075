"""An image's files: CAMs and features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from torch import Tensor

from ..errors import UserError
from ..files import Cams
from ..files.contents import read_arrays, read_numbers


def cams_of_tags(path: Path, read: Cams, tags: Sequence[int]) -> Tensor:
    """The CAMs of an image's tags out of those of a file.

    Parameters
    ----------
    path : path of the file, for errors
    read : what ``read_cams`` finds there
    tags : 0-based foreground classes

    Returns
    -------
    (K, h, w) float32, in the order of ``tags``

    Raises
    ------
    UserError
        A tag has no CAM.
    """
    cams, keys = read
    place = {key: row for row, key in enumerate(keys.tolist())}
    missing = [tag for tag in tags if tag not in place]
    if missing:
        raise UserError(
            f"{path} has no CAM of the tags {missing} (0-based, background not counted), only of "
            f"{sorted(place)}: save a map per foreground class or per tag with keys, or pass --tags"
        )
    return cams[[place[tag] for tag in tags]]


def read_levels(path: Path, *, allow_pickle: bool = False) -> list[Tensor]:
    """Features of an image, one or several levels in a file.

    Parameters
    ----------
    path : path of the file
    allow_pickle : unpickle whatever the file holds, which can run any code

    Returns
    -------
    list of (D, h, w), one for each array in the file

    Raises
    ------
    UserError
        The file cannot be understood, or an array has another shape.
    OSError
        The file cannot be opened.
    """
    content = read_arrays(path, allow_pickle=allow_pickle)
    parts = list(content.values()) if isinstance(content, Mapping) else content
    levels = []
    for part in parts if isinstance(parts, (list, tuple)) else [parts]:
        level = read_numbers(part, path)
        level = level[0] if level.ndim == 4 and level.shape[0] == 1 else level
        if level.ndim != 3 or not level.numel():
            raise UserError(f"{path} holds an array of shape {tuple(level.shape)}: (D, h, w) is needed")
        levels.append(level)
    if not levels:
        raise UserError(f"{path} holds no array: (D, h, w) is needed")
    return levels
