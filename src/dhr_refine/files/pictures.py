"""Pictures and label masks out of image files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError, require
from .regular import NotRegularError, open_regular, show_name

# What photos and masks come in. Pillow reads more, EPS among it, which it gives to another program to run.
_FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM")


def read_picture(path: Path) -> Tensor:
    """A picture in RGB, whatever the file holds.

    Parameters
    ----------
    path : path of a PNG, JPEG, WebP, TIFF, BMP, GIF or PPM file

    Returns
    -------
    (3, H, W) uint8, contiguous

    Raises
    ------
    UserError
        Pillow is not installed, or the file holds numbers that are no colours.
    OSError
        The file is no picture or cannot be read.
    """
    with _opened(path) as (picture, _):
        if picture.mode.startswith("I;16"):  # Pillow would cut at 255; of colours it takes the high byte
            grey = (np.array(picture) >> 8).astype(np.uint8)
            return torch.from_numpy(grey).expand(3, -1, -1).contiguous()
        if picture.mode in ("I", "F"):
            raise UserError(f"{show_name(path)} has no 8 or 16 bits per channel: save it with 8 bits")
        return torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).contiguous()


def read_index_mask(path: Path, classes: int, ignore_index: int) -> np.ndarray:
    """Labels out of an index or grey PNG of 1 to 16 bits.

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
    with _opened(path) as (picture, bits):
        if picture.mode not in ("1", "P", "L", "I", "I;16"):
            raise UserError(
                f"{show_name(path)} is a {picture.mode} picture: labels come from index or grey PNGs"
            )
        mask = np.array(picture).astype(np.int64)
        if picture.mode == "L" and bits < 8:  # Pillow spreads grey of few bits over 0 to 255
            mask //= 255 // (2**bits - 1)
    return check_labels(mask, path, classes, ignore_index)


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, int]]:
    """The picture of a file and its bits; a damaged one is an OSError with its name."""
    opener, name = require("PIL.Image"), show_name(path)
    try:
        with open_regular(path) as file:
            bits = _grey_bits(file)
            opener.init()
            formats = [name for name in _FORMATS if name in opener.OPEN]
            with opener.open(file, formats=formats) as picture:
                yield picture, bits
    except (UserError, MemoryError):
        raise
    except NotRegularError as error:
        raise OSError(str(error)) from error
    except opener.UnidentifiedImageError as error:
        raise _damaged(name, "it is none, or damaged") from error
    except Exception as error:  # a damaged file can fail in any way
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise _damaged(name, str(error) or type(error).__name__) from error


def _damaged(name: str, why: str) -> OSError:
    error = OSError(f"{name} cannot be read as a picture ({why}): replace it")
    error.strerror = why  # for callers that name the file and the fix themselves
    return error


def _grey_bits(file: IO[bytes]) -> int:
    """Bits of a grey PNG's pixel, 8 for other files."""
    head = file.read(26)
    file.seek(0)
    return head[24] if head[:8] == b"\x89PNG\r\n\x1a\n" and head[25:] == b"\0" else 8


def check_labels(mask: np.ndarray, path: Path, classes: int, ignore_index: int) -> np.ndarray:
    """Return the labels of a file if all are classes or ignored; a UserError names the file if not."""
    wrong = mask[(mask != ignore_index) & ((mask < 0) | (mask >= classes))]
    if wrong.size:
        raise UserError(
            f"{show_name(path)} holds the label {float(wrong[0]):.12g}, but there are {classes} classes and "
            f"ignore {ignore_index}: pass --classes N with the background counted, and --ignore-index"
        )
    return mask
