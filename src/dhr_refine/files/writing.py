"""Pictures as the bytes of PNG files, numbers as JSON has them, and files written in one piece."""

from __future__ import annotations

import io
import math
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from ..errors import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure_png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi="figure")
    return buffer.getvalue()


def index_png(mask: Tensor | np.ndarray, palette: np.ndarray) -> bytes:
    """A mask as an 8-bit index PNG, the format of the field's label files.

    Parameters
    ----------
    mask : (H, W) labels from 0 to 255
    palette : (256, 3) uint8, the colour of each label, as ``viz.palette`` makes it

    Returns
    -------
    bytes of the file

    Raises
    ------
    UserError
        Pillow is not installed.
    """
    picture = require("PIL.Image").fromarray(np.asarray(mask).astype(np.uint8))
    picture.putpalette(palette.tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def without_nan(value: Any) -> Any:
    """Mappings, lists and numbers for JSON, which has no NaN and no infinity: they become null."""
    if isinstance(value, Mapping):
        return {key: without_nan(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_nan(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def grey_png(mask: Tensor | np.ndarray) -> bytes:
    """A mask as an 8-bit grey PNG whose values are the labels, which every reader gives back as they are.

    Parameters
    ----------
    mask : (H, W) labels from 0 to 255

    Returns
    -------
    bytes of the file

    Raises
    ------
    UserError
        Pillow is not installed.
    """
    buffer = io.BytesIO()
    require("PIL.Image").fromarray(np.asarray(mask).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file in one piece: a reader sees the old file or the whole new one, never a part."""
    # Not tempfile: its files are readable by the owner only. Two machines may have processes of one number.
    part = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
