"""Pictures and label masks out of image files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError, require


def read_picture(path: Path) -> Tensor:
    """A picture in RGB, whatever the file holds.

    Parameters
    ----------
    path : path of any image file that Pillow reads

    Returns
    -------
    (3, H, W) uint8, contiguous

    Raises
    ------
    UserError
        Pillow is not installed.
    OSError
        The file is no picture or cannot be read.
    """
    with require("PIL.Image").open(path) as picture:
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()


def read_index_mask(path: Path, classes: int, ignore_index: int) -> np.ndarray:
    """Labels out of an index or grey PNG, 8 or 16 bits.

    Parameters
    ----------
    path : path of the file
    classes : number of labels, the background counted
    ignore_index : label beside them that is allowed, 255 as a rule

    Returns
    -------
    (H, W) int64

    Raises
    ------
    UserError
        The file is a colour picture or holds other labels, or Pillow is not installed.
    OSError
        The file is no picture or cannot be read.
    """
    with require("PIL.Image").open(path) as picture:
        if picture.mode not in ("P", "L", "I", "I;16"):
            raise UserError(f"{path} is a {picture.mode} picture: labels come from index or grey PNGs")
        mask = np.array(picture).astype(np.int64)
    return check_labels(mask, path, classes, ignore_index)


def check_labels(mask: np.ndarray, path: Path, classes: int, ignore_index: int) -> np.ndarray:
    """Return the labels of a file if all are classes or ignored; a UserError names the file if not."""
    wrong = mask[(mask != ignore_index) & ((mask < 0) | (mask >= classes))]
    if wrong.size:
        raise UserError(
            f"{path} holds the label {wrong[0]}, but there are {classes} classes and ignore {ignore_index}: "
            "pass --classes N with the background counted, and --ignore-index"
        )
    return mask
