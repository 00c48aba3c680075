"""Geometry of the permutohedral lattice: what every implementation of the dense CRF shares.

A pixel's feature vector (position, and colour for the bilateral kernel; or any other) is placed in a
lattice of simplices (Adams et al., 2010). Filtering adds each pixel's values to the d + 1 vertices of its
simplex ("splat"), blurs along the d + 1 axes of the lattice, and reads the vertices back ("slice").

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

from ..checks import check_positive, describe, read_numbers

# A key and the number of a coset, of which there are six, share 63 bits (torch.py).
_LARGEST_KEY = 2**60
# Larger coordinates float32 can no longer round to whole numbers by adding 1.5 * 2**23.
_LARGEST_COORDINATE = 2**22
# Deviations beyond these are taken for these: as good as 0 and infinite, which float32 would make of them.
_LEAST, _MOST = 1e-30, 1e30


class LatticeParameters(NamedTuple):
    """Standard deviations of the two kernels; one number where all are equal."""

    sxy: float | tuple[float, ...]  # bilateral kernel, pixels: x, y; of volumes x, y, z
    srgb: float | tuple[float, ...]  # bilateral kernel, grey levels: by channel
    gauss_sxy: float | tuple[float, ...]  # Gaussian kernel, pixels: x, y; of volumes x, y, z


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
    zeros: bool  # whether vertices of features that are all zero lie among them
    rows_first: bool
    # Of floating point channels instead of tables: what values are divided by, and then multiplied by.
    scales: tuple[tuple[np.float32, np.float32], ...]

    def phantom_keys(self, pixels: int) -> np.ndarray:
        """Vertices that take part without a pixel of their own.

        The reference works on four pixels at a time and fills up the last group with zeros: where the
        number of pixels is no multiple of four, the simplex of the black pixel in the corner exists.
        """
        steps = self.strides[:0:-1] if pixels % 4 and self.zeros else self.strides[:0]
        return -self.origin - np.concatenate([np.zeros(min(len(steps), 1), np.int64), np.cumsum(steps)])

    @property
    def key_bits(self) -> int:
        """Bits of the largest key."""
        return self.cells.bit_length()

    @property
    def dimension(self) -> int:
        """Number of features: 2 (Gaussian), 2 and the channels (bilateral), or any number."""
        return len(self.tables) + len(self.scales)

    @property
    def gain(self) -> float:
        """Scale of the sliced values that makes up for the blur."""
        return 1 / (1 + 2.0**-self.dimension)


def read_parameters(
    sxy: object, srgb: object, gauss_sxy: object, channels: int, *, volumes: bool = False
) -> LatticeParameters:
    """Return deviations as one number or as many as there are axes; raise unless they are above 0."""
    axes = (3, "three, (x, y, z)") if volumes else (2, "two, (x, y)")
    return LatticeParameters(
        _read_deviations(sxy, "sxy", *axes),
        _read_deviations(srgb, "srgb", channels, f"one for each of {channels} channels"),
        _read_deviations(gauss_sxy, "gauss_sxy", *axes),
    )


def _read_deviations(value: Any, name: str, count: int, many: str) -> float | tuple[float, ...]:
    """Return one number where all are equal, else one for each axis; raise unless they are above 0."""
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        numbers = read_numbers(value, name, f"a number or {many}")
        if numbers.ndim > 1:
            raise ValueError(f"{name} must be a number or {many}, got {describe(value)}: pass one number")
        value = numbers.tolist()
    if not isinstance(value, (list, tuple)):
        check_positive(value, name)
        return value
    if len(value) != count:
        raise ValueError(f"{name} must be a number or {many}, got {describe(value)}: pass one number for all")
    for index, entry in enumerate(value):
        check_positive(entry, f"{name}[{index}]")
    entries = list(value)
    return entries[0] if len(set(entries)) == 1 else tuple(entries)


def spread(deviation: float | tuple[float, ...], count: int) -> tuple[float, ...]:
    """As many deviations as there are axes."""
    return deviation if isinstance(deviation, tuple) else (deviation,) * count


def gaussian_geometry(height: int, width: int, sxy: float | tuple[float, ...]) -> Geometry:
    """Lattice of (x, y) / sxy."""
    return _geometry([np.arange(width), np.arange(height)], {"gauss_sxy": spread(sxy, 2)})


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
    positions, own = [columns, rows], (x, y)
    if rows_first := channels != 3:
        positions, own = [rows, columns], (y, x)
    levels = [] if extents else [np.arange(256)] * channels
    deviations = {"sxy": own, "srgb": spread(srgb, channels)}
    return _geometry([*positions, *levels], deviations, extents, rows_first)


def volume_geometry(
    size: tuple[int, int, int],
    sxy: float | tuple[float, ...],
    srgb: float | tuple[float, ...] | None = None,
    *,
    extents: Sequence[tuple[float, float]] = (),
) -> Geometry:
    """Lattice of the (z, y, x) / sxy of volumes (D, H, W), and of channels / srgb if there is one.

    It has no tables: positions are features like the channels, of which ``extents`` are the least and the
    largest value of each. The order is that of the reference's ``create_pairwise_bilateral``.
    """
    positions = [(0.0, side - 1.0) for side in size]
    own = spread(sxy, 3)[::-1]
    if srgb is None:
        return _geometry([], {"gauss_sxy": own}, positions, rows_first=True)
    deviations = {"sxy": own, "srgb": spread(srgb, len(extents))}
    return _geometry([], deviations, [*positions, *extents], rows_first=True)


def feature_geometry(extents: Sequence[tuple[float, float]]) -> Geometry:
    """Lattice of features in units of their deviations, by the least and the largest value of each."""
    deviations = {"features": (1.0,) * len(extents)}
    start, size, _ = _enclose([], extents, _scales(deviations))
    if not _fits(start, size):
        raise ValueError(_explain_features(extents, size))
    return _geometry([], deviations, extents)


def _explain_features(extents: Sequence[tuple[float, float]], size: list[int]) -> str:
    """Say by how much features must be smaller, if that would help."""
    span = max(high - low for low, high in extents)
    said = (
        f"the lattice of {len(extents)} features that span up to {span:.3g} deviations has "
        f"{math.prod(map(float, size[:-1])):.1e} cells, above {_LARGEST_KEY:.1e}, or coordinates above "
        f"{_LARGEST_COORDINATE:.1e}: "
    )
    scales = _scales({"features": (1.0,) * len(extents)})
    if _fits(*_box([], [(low - (low + high) / 2, high - (low + high) / 2) for low, high in extents], scales)):
        # Distances are all that counts.
        return f"{said}they lie far from 0, subtract the mean of each"
    factor = 1.0
    while factor < _MOST:
        factor *= 2
        smaller = [(low / factor, high / factor) for low, high in extents]
        if _fits(*_enclose([], smaller, scales)[:2]):
            return f"{said}pass larger standard deviations, e.g. features / {factor:g}"
    return f"{said}pass fewer features"


def _geometry(
    values: list[np.ndarray],
    deviations: dict[str, tuple[float, ...]],
    extents: Sequence[tuple[float, float]] = (),
    rows_first: bool = False,
) -> Geometry:
    """The lattice of features with a table of values, and of some that are known by their extents alone.

    ``deviations`` are those of the features in their order, by the name of the argument.
    """
    scales = _scales(deviations)
    start, size, zeros = _enclose(values, extents, scales)
    d = len(scales)
    if not _fits(start, size):
        raise ValueError(
            f"the lattice of {_describe(deviations, rows_first)} has {math.prod(map(float, size[:d])):.1e} "
            f"cells and coordinates up to {_reach(start, size):.1e}, above {_LARGEST_KEY:.1e} cells or "
            f"{_LARGEST_COORDINATE:.1e}: pass {_mend(values, extents, deviations, rows_first)}"
        )
    strides = [math.prod(size[:i]) for i in range(d)]
    origin = sum(first * stride for first, stride in zip(start, strides, strict=False))
    return Geometry(
        tuple(_scaled(value, scale) for value, scale in zip(values, scales, strict=False)),
        np.array([*strides, 0], dtype=np.int64),
        origin,
        math.prod(size[:d]),
        zeros,
        rows_first,
        tuple(scales[len(values) :]),
    )


def _scales(deviations: dict[str, tuple[float, ...]]) -> list[tuple[np.float32, np.float32]]:
    """What each feature is divided by, and then multiplied by to make the lattice's simplices regular."""
    flat = [deviation for own in deviations.values() for deviation in own]
    stretch = np.float32(math.sqrt(2 / 3) * (len(flat) + 1))
    return [
        (
            np.float32(min(max(deviation, _LEAST), _MOST)),
            np.float32(1 / math.sqrt((i + 1) * (i + 2)) * float(stretch)),
        )
        for i, deviation in enumerate(flat)
    ]


def _scaled(values: np.ndarray, scale: tuple[np.float32, np.float32]) -> np.ndarray:
    # The order of float32 operations is the reference's: another order moves pixels that lie on the
    # border of two simplices, and with them the result.
    return values.astype(np.float32) / scale[0] * scale[1]


def _enclose(
    values: list[np.ndarray],
    extents: Sequence[tuple[float, float]],
    scales: list[tuple[np.float32, np.float32]],
) -> tuple[list[int], list[int], bool]:
    """The box of all vertices, and whether it holds those of zeros, which may take part: see phantom_keys.

    Where the lattice fits only without them, they are left out if no pixel's vertex is a neighbour of one.
    """
    start, size = _box(values, extents, scales)
    if not _fits(start, size):
        own, number = _box(values, extents, scales, zeros=False)
        # Their coordinates, over d + 1, are 0 or -1; the box has room for the neighbours of all others.
        away = any(first > 0 or first + count < 0 for first, count in zip(own, number, strict=True))
        # So near that float32 tells quarters of the lattice apart, and the origin is no larger than keys.
        far = _reach(own, number)
        near = far * len(own) <= _LARGEST_COORDINATE and far * math.prod(number[:-1]) <= _LARGEST_KEY
        if away and near:
            return own, number, False
    return start, size, True


def _box(
    values: list[np.ndarray],
    extents: Sequence[tuple[float, float]],
    scales: list[tuple[np.float32, np.float32]],
    *,
    zeros: bool = True,
) -> tuple[list[int], list[int]]:
    """Least coordinate of a vertex on each of the d + 1 axes, and how many from there, over d + 1.

    ``zeros``: of features that are all zero as well.
    """
    d = len(scales)
    ends = [np.asarray(value[[0, -1]]) for value in values]
    ends += [np.array([min(low, 0.0), max(high, 0.0)] if zeros else [low, high]) for low, high in extents]
    with np.errstate(over="ignore"):
        scaled = [
            _scaled(end, scale).clip(-1e38, 1e38).tolist() for end, scale in zip(ends, scales, strict=True)
        ]
    # Of each coordinate: the features from its own on, less a multiple of the one before.
    lows, highs = zip(*scaled, strict=True)
    lowest = [sum(lows)] + [sum(lows[j + 1 :]) - (j + 1) * highs[j] for j in range(d)]
    highest = [sum(highs)] + [sum(highs[j + 1 :]) - (j + 1) * lows[j] for j in range(d)]
    # Rounding, the walk back to the plane, the simplex and the neighbours move a coordinate by one each.
    start = [math.floor(low / (d + 1)) - 4 for low in lowest]
    return start, [math.ceil(high / (d + 1)) + 5 - first for high, first in zip(highest, start, strict=True)]


def _reach(start: list[int], size: list[int]) -> int:
    """Largest coordinate of either sign."""
    return max(max(-first, first + count) for first, count in zip(start, size, strict=True))


def _fits(start: list[int], size: list[int]) -> bool:
    """Whether float32 holds each coordinate exactly, and one number all but the last together."""
    return _reach(start, size) <= _LARGEST_COORDINATE and math.prod(size[:-1]) <= _LARGEST_KEY


def _mend(
    values: list[np.ndarray],
    extents: Sequence[tuple[float, float]],
    deviations: dict[str, tuple[float, ...]],
    rows_first: bool,
) -> str:
    """What makes a lattice which fits: colours counted from 0, where that is enough.

    Else the deviations smallest for their features are doubled until then.
    """
    spans = [(0.0, high - low) for low, high in extents]
    if "srgb" in deviations and _fits(*_enclose(values, spans, _scales(deviations))[:2]):
        axes = ", ".join(map(str, range(-len(deviations["sxy"]), 0)))
        least = f"images.amin(({axes}), keepdim=True)"
        return f"images - {least}, they lie far from 0 and only differences count"
    lengths = [float(len(value)) for value in values]
    lengths += [max(high, 0.0) - min(low, 0.0) for low, high in extents]
    larger = {name: tuple(max(one, _LEAST) for one in own) for name, own in deviations.items()}
    while not _fits(*_enclose(values, extents, _scales(larger))[:2]):
        if min(map(min, larger.values())) > _MOST:
            return "fewer channels"  # each takes a few cells, whatever its deviation
        rest = iter(lengths)
        cells = {name: max(next(rest) / one for one in own) for name, own in larger.items()}
        finest = max(cells, key=cells.__getitem__)
        if max(larger[finest]) > _MOST:
            finest = min(larger, key=lambda name: min(larger[name]))
        larger[finest] = tuple(float(f"{2 * one:.2g}") for one in larger[finest])  # as it is printed
    return f"larger ones, e.g. {_describe(larger, rows_first)}"


def _describe(deviations: dict[str, tuple[float, ...]], rows_first: bool) -> str:
    """Deviations as a caller would pass them: one number where all are equal, x before y."""
    texts = []
    for name, own in deviations.items():
        ordered = own[::-1] if rows_first and name.endswith("sxy") else own
        many = f"({', '.join(f'{one:g}' for one in ordered)})"
        texts.append(f"{name}={f'{own[0]:g}' if len(set(own)) == 1 else many}")
    return " and ".join(texts)
