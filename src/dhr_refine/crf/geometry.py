"""Geometry of the permutohedral lattice: what every implementation of the dense CRF shares.

A pixel's feature vector (position, and colour for the bilateral kernel) is placed in a lattice of
simplices (Adams et al., 2010). Filtering adds each pixel's values to the d + 1 vertices of its simplex
("splat"), blurs along the d + 1 axes of the lattice, and reads the vertices back ("slice").

A vertex with remainder ``r`` has all coordinates equal to ``r`` modulo d + 1, so
``(coordinate - r) / (d + 1)`` is a small integer. The first d of them, in mixed radix, are the vertex's key;
the last follows, because all coordinates sum to zero.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

_LARGEST_KEY = 2**56
# Larger coordinates float32 can no longer round to whole numbers by adding 1.5 * 2**23.
_LARGEST_COORDINATE = 2**22


class LatticeParameters(NamedTuple):
    """Standard deviations of the two kernels."""

    sxy: float  # bilateral kernel, pixels
    srgb: float  # bilateral kernel, grey levels
    gauss_sxy: float  # Gaussian kernel, pixels


class Geometry(NamedTuple):
    """One kernel's lattice for images of one size."""

    tables: tuple[np.ndarray, ...]  # scaled feature by column, row and grey level; float32
    strides: np.ndarray  # (d + 1,) int64: key of a vertex = sum(strides * coordinates) - origin
    origin: int
    cells: int  # keys lie below this

    def phantom_keys(self, pixels: int) -> np.ndarray:
        """Vertices that take part without a pixel of their own.

        The reference works on four pixels at a time and fills up the last group with zeros: where the
        number of pixels is no multiple of four, the simplex of the black pixel in the corner exists.
        """
        steps = self.strides[:0:-1] if pixels % 4 else self.strides[:0]
        return -self.origin - np.concatenate([np.zeros(min(len(steps), 1), np.int64), np.cumsum(steps)])

    @property
    def key_bits(self) -> int:
        """Bits of the largest key."""
        return self.cells.bit_length()

    @property
    def dimension(self) -> int:
        """Number of features: 2 (Gaussian) or 5 (bilateral)."""
        return len(self.tables)

    @property
    def gain(self) -> float:
        """Scale of the sliced values that makes up for the blur."""
        return 1 / (1 + 2.0**-self.dimension)


def gaussian_geometry(height: int, width: int, sxy: float) -> Geometry:
    """Lattice of (x, y) / sxy."""
    return _geometry([np.arange(width), np.arange(height)], [sxy, sxy], "gauss_sxy")


def bilateral_geometry(height: int, width: int, sxy: float, srgb: float) -> Geometry:
    """Lattice of (x, y) / sxy and (r, g, b) / srgb."""
    levels = np.arange(256)
    values = [np.arange(width), np.arange(height), levels, levels, levels]
    return _geometry(values, [sxy, sxy, srgb, srgb, srgb], "sxy and srgb")


def _geometry(values: list[np.ndarray], deviations: list[float], names: str) -> Geometry:
    # The order of float32 operations is the reference's: another order moves pixels that lie on the
    # border of two simplices, and with them the result.
    d = len(values)
    spread = np.float32(math.sqrt(2 / 3) * (d + 1))
    tables = tuple(
        (value.astype(np.float32) / np.float32(deviation))
        * np.float32(1 / math.sqrt((i + 1) * (i + 2)) * float(spread))
        for i, (value, deviation) in enumerate(zip(values, deviations, strict=True))
    )
    peak = [float(table[-1]) for table in tables]
    lowest = [0.0] + [-(j + 1) * peak[j] for j in range(d)]
    highest = [sum(peak[j:]) for j in range(d + 1)]
    reach = max(*highest, *(-low for low in lowest)) / (d + 1)
    if reach > _LARGEST_COORDINATE:
        raise ValueError(
            f"{names} give lattice coordinates of {reach:.1e}, above {_LARGEST_COORDINATE:.1e}, where "
            f"float32 cannot tell them apart: pass a larger {names.split()[-1]}"
        )
    # Rounding, the walk back to the plane, the simplex and the neighbours move a coordinate by one each.
    start = [math.floor(low / (d + 1)) - 4 for low in lowest]
    size = [math.ceil(high / (d + 1)) + 5 - first for high, first in zip(highest, start, strict=True)]
    strides = [math.prod(size[:i]) for i in range(d)]
    if math.prod(size[:d]) > _LARGEST_KEY:
        raise ValueError(
            f"{names} give a lattice of {float(math.prod(size[:d])):.1e} cells, above {_LARGEST_KEY:.1e}: "
            f"pass a larger {names.split()[-1]}"
        )
    origin = sum(first * stride for first, stride in zip(start, strides, strict=False))
    return Geometry(tables, np.array([*strides, 0], dtype=np.int64), origin, math.prod(size[:d]))
