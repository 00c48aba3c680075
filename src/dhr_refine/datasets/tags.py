"""Files of image tags."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files.contents import read_arrays, read_numbers
from .texts import check_key


def read_tags(path: Path, classes: int, *, allow_pickle: bool = False) -> dict[str, tuple[int, ...]]:
    """0-based tags per image id from a .npy dictionary of multi-hot rows (cls_labels.npy).

    Parameters
    ----------
    path : path of the file, in any form that ``load_arrays`` takes
    classes : number of labels, the background counted; the rows have one entry less
    allow_pickle : unpickle whatever the file holds, which can run any code

    Raises
    ------
    UserError
        The file cannot be understood, holds something else, or rows of another length.
    OSError
        The file cannot be opened.
    """
    content = read_arrays(path, allow_pickle=allow_pickle)
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds no dictionary of image ids and tags: pass a file like cls_labels.npy")
    table = {}
    for key, row in content.items():
        row = read_numbers(row, path)
        key = check_key(_key(key), path)
        if row.shape != (classes - 1,):
            raise UserError(
                f"{path} has tags of shape {tuple(row.shape)} for {key} but --classes {classes} needs "
                f"({classes - 1},): tags are multi-hot without the background"
            )
        if (row < 0).any():
            raise UserError(f"{path} has negative tags for {key}: tags are 1 for what is there and 0 else")
        table[key] = tuple(row.nonzero()[:, 0].tolist())
    return table


def _key(key: Any) -> str:
    if isinstance(key, (int, np.integer)):  # IRN keeps 2007_000032 as the number 2007000032
        return f"{key // 1_000_000:04d}_{key % 1_000_000:06d}"
    return str(key)
