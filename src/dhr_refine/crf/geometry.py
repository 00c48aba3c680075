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
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ..checks import check_positive, describe

_LARGEST_KEY = 2**56
# Larger coordinates float32 can no longer round to whole numbers by adding 1.5 * 2**23.
_LARGEST_COORDINATE = 2**22


class LatticeParameters(NamedTuple):
    """Standard deviations of the two kernels; one number where all are equal."""

    sxy: float | tuple[float, ...]  # bilateral kernel, pixels: x, y
    srgb: float | tuple[float, ...]  # bilateral kernel, grey levels: by channel
    gauss_sxy: float | tuple[float, ...]  # Gaussian kernel, pixels: x, y


class Geometry(NamedTuple):
    """One kernel's lattice for images of one size.

    Features are column, row and channels. With other than three channels the row comes first: so do
    ``addPairwiseBilateral`` and ``create_pairwise_bilateral`` of the reference, and with another order the
    lattice lies otherwise in the space of features.
    """

    tables: tuple[np.ndarray, ...]  # scaled feature by column, row (or row, column) and grey level; float32
    strides: np.ndarray  # (d + 1,) int64: key of a vertex = sum(strides * coordinates) - origin
    origin: int
    cells: int  # keys lie below this
    rows_first: bool
    # Of floating point channels instead of tables: what values are divided by, and then multiplied by.
    scales: tuple[tuple[np.float32, np.float32], ...]

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
        """Number of features: 2 (Gaussian), or 2 and the channels (bilateral)."""
        return len(self.tables) + len(self.scales)

    @property
    def gain(self) -> float:
        """Scale of the sliced values that makes up for the blur."""
        return 1 / (1 + 2.0**-self.dimension)


def read_parameters(sxy: object, srgb: object, gauss_sxy: object, channels: int) -> LatticeParameters:
    """Return deviations as one number or as many as there are axes; raise unless they are above 0."""
    return LatticeParameters(
        _read_deviations(sxy, "sxy", 2, "two, (x, y)"),
        _read_deviations(srgb, "srgb", channels, f"one for each of {channels} channels"),
        _read_deviations(gauss_sxy, "gauss_sxy", 2, "two, (x, y)"),
    )


def _read_deviations(value: object, name: str, count: int, many: str) -> float | tuple[float, ...]:
    entries: Any = value.tolist() if isinstance(value, (Tensor, np.ndarray, np.generic)) else value
    if not isinstance(entries, (list, tuple)):
        check_positive(entries, name)
        return entries
    if len(entries) != count:
        raise ValueError(f"{name} must be a number or {many}, got {describe(value)}: pass one number for all")
    for index, entry in enumerate(entries):
        check_positive(entry, f"{name}[{index}]")
    return entries[0] if len(set(entries)) == 1 else tuple(entries)


def spread(deviation: float | tuple[float, ...], count: int) -> tuple[float, ...]:
    """As many deviations as there are axes."""
    return deviation if isinstance(deviation, tuple) else (deviation,) * count


def gaussian_geometry(height: int, width: int, sxy: float | tuple[float, ...]) -> Geometry:
    """Lattice of (x, y) / sxy."""
    return _geometry([np.arange(width), np.arange(height)], spread(sxy, 2), "gauss_sxy")


def bilateral_geometry(
    height: int,
    width: int,
    sxy: float | tuple[float, ...],
    srgb: float | tuple[float, ...],
    *,
    channels: int = 3,
    extents: Sequence[tuple[float, float]] = (),
) -> Geometry:
    """Lattice of (x, y) / sxy and channels / srgb.

    ``extents`` are the least and the largest value of each floating point channel, nothing for uint8 images.
    """
    columns, rows = np.arange(width), np.arange(height)
    x, y = spread(sxy, 2)
    positions, deviations = [columns, rows], (x, y)
    if rows_first := channels != 3:
        positions, deviations = [rows, columns], (y, x)
    levels = [] if extents else [np.arange(256)] * channels
    deviations += spread(srgb, channels)
    return _geometry([*positions, *levels], deviations, "sxy and srgb", extents, rows_first)


def _geometry(
    values: list[np.ndarray],
    deviations: tuple[float, ...],
    names: str,
    extents: Sequence[tuple[float, float]] = (),
    rows_first: bool = False,
) -> Geometry:
    """The lattice of features with a table of values, and of some that are known by their extents alone."""
    # The order of float32 operations is the reference's: another order moves pixels that lie on the
    # border of two simplices, and with them the result.
    d = len(values) + len(extents)
    stretch = np.float32(math.sqrt(2 / 3) * (d + 1))
    scales = [
        (np.float32(deviation), np.float32(1 / math.sqrt((i + 1) * (i + 2)) * float(stretch)))
        for i, deviation in enumerate(deviations)
    ]
    tables = tuple(
        value.astype(np.float32) / by * times for value, (by, times) in zip(values, scales, strict=False)
    )
    ends = [(0.0, float(table[-1])) for table in tables]
    for extent, (by, times) in zip(extents, scales[len(values) :], strict=True):
        low, high = (float(np.float32(end) / by * times) for end in extent)
        ends.append((min(low, 0.0), max(high, 0.0)))  # vertices of zeros may take part: see phantom_keys
    # Of each coordinate: the features from its own on, less a multiple of the one before.
    lows, highs = [low for low, _ in ends], [high for _, high in ends]
    lowest = [sum(lows)] + [sum(lows[j + 1 :]) - (j + 1) * highs[j] for j in range(d)]
    highest = [sum(highs)] + [sum(highs[j + 1 :]) - (j + 1) * lows[j] for j in range(d)]
    reach = max(*highest, *(-low for low in lowest)) / (d + 1)
    fewer = ", or fewer channels" if d > 5 else ""
    if not reach <= _LARGEST_COORDINATE:
        raise ValueError(
            f"{names} give lattice coordinates of {reach:.1e}, above {_LARGEST_COORDINATE:.1e}, where "
            f"float32 cannot tell them apart: pass a larger {names.split()[-1]}{fewer}"
        )
    # Rounding, the walk back to the plane, the simplex and the neighbours move a coordinate by one each.
    start = [math.floor(low / (d + 1)) - 4 for low in lowest]
    size = [math.ceil(high / (d + 1)) + 5 - first for high, first in zip(highest, start, strict=True)]
    strides = [math.prod(size[:i]) for i in range(d)]
    if math.prod(size[:d]) > _LARGEST_KEY:
        raise ValueError(
            f"{names} give a lattice of {float(math.prod(size[:d])):.1e} cells, above {_LARGEST_KEY:.1e}: "
            f"pass a larger {names.split()[-1]}{fewer}"
        )
    origin = sum(first * stride for first, stride in zip(start, strides, strict=False))
    return Geometry(
        tables,
        np.array([*strides, 0], dtype=np.int64),
        origin,
        math.prod(size[:d]),
        rows_first,
        tuple(scales[len(values) :]),
    )
