"""Memory for compiled loops, which mind where it starts."""

from __future__ import annotations

import numpy as np


def aligned(size: int, boundary: int) -> np.ndarray:
    """Bytes with anything in them, from a multiple of ``boundary`` on."""
    block = np.empty(size + boundary, np.uint8)
    start = -block.ctypes.data % boundary
    return block[start : start + size]
