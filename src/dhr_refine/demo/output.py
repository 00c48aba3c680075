"""The demo's files: pictures as bytes, and how they are written."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..viz import palette
from .models import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def figure_png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi="figure")
    return buffer.getvalue()


def index_png(mask: Tensor | np.ndarray) -> bytes:
    """A mask (H, W) as an 8-bit index PNG with the VOC palette, the format of the field's label files."""
    picture = require("PIL.Image").fromarray(np.asarray(mask).astype(np.uint8))
    picture.putpalette(palette(21).tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file in one piece: a reader sees the old file or the whole new one, never a part."""
    # Not tempfile: its files are readable by the owner only.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
