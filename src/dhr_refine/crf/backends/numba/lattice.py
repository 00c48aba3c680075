"""Lattices of the numba backend: the arrays that compiled loops fill, and the order in which they run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...geometry import Geometry
from . import chains
from .memory import Scratch, one_block
from .normalise import filter_ones, normalise_weights
from .planes import embed_plane
from .threads import on_threads
from .tiles import TILE_ROWS, tile_count
from .vertices import embed

# Vertices that the pixels of a tile can tell apart, by 16 bits.
_WINDOW = 2**16
# A plane of more cells than this many per pixel, and some, holds mostly cells that are no vertices.
_PLANE_CELLS_PER_PIXEL, _PLANE_CELLS = 2, 2**14
_NONE = np.zeros(0, np.float32)


class Lattice(NamedTuple):
    """One kernel's lattice for one image of N pixels, as the compiled loops take it.

    Pixels know their vertices by 16 bits, counted from a base of the tile. A vertex whose number has fallen
    too far behind gets a copy with a new number: what is splatted into the copy is added to the original
    before the blur, and taken over from it afterwards.
    """

    corners: tuple[int, ...]  # d + 1 zeros: the number of a pixel's vertices as a type
    offsets: np.ndarray  # (N * (d + 1),) uint16: vertices of each pixel, less the base of its tile
    weights: np.ndarray  # (N * (d + 1),) float32: barycentric weights
    bases: np.ndarray  # (tiles,) int64: what the vertices of each tile are counted from
    frontiers: np.ndarray  # (tiles + 1,) int64: vertices up to which the tiles before touch any; last: all
    # Neighbours on each axis. In general, chains of vertices (see chain):
    chains: np.ndarray  # int32, one axis after the other, and one more entry
    starts: np.ndarray  # (d + 2,) int64: where each axis starts in ``chains``
    copies: np.ndarray  # (n, 2) int32: copy and original, which may be an older copy; the oldest first
    # Lattices of positions alone are planes instead, rows of cells some of which are no vertices:
    holes: np.ndarray  # int32: these cells
    hole_starts: np.ndarray  # (rows + 1,) int64: where each row starts in ``holes``; one entry: no plane


@dataclass(frozen=True)
class NumbaKernel:
    """One kernel's lattice for one image of N pixels, its weights times the symmetric normalisation."""

    lattice: Lattice
    size: tuple[int, int]  # height and width of the image
    gain: float
    scale: np.ndarray  # (N,) float32: this normalisation, pixels in the order of the tiles; empty: not kept

    @property
    def vertices(self) -> int:
        """Number of vertices, of cells where the lattice is a plane."""
        return int(self.lattice.frontiers[-1])

    @property
    def nbytes(self) -> int:
        """Memory of the arrays in bytes."""
        arrays = (value.nbytes for value in self.lattice if isinstance(value, np.ndarray))
        return sum(arrays) + self.scale.nbytes


def build_gaussian(geometry: Geometry, height: int, width: int, device: torch.device) -> NumbaKernel:
    """Build the lattice of positions."""
    (kernel,) = on_threads(lambda _, scratch: _build_gaussian(geometry, height, width, scratch), range(1), 1)
    return kernel


def _build_gaussian(geometry: Geometry, height: int, width: int, scratch: Scratch) -> NumbaKernel:
    columns, rows = geometry.tables
    # The row of a vertex less twice that of its pixel, and its column less 2/3 of that of its pixel, lie
    # within 3 and 2 of 0; one more cell on every side is no vertex.
    number = math.ceil(2 * float(rows[-1])) + 10
    length = -(-(math.ceil(2 / 3 * float(columns[-1])) // 2 + 6) // 16) * 16
    tall = math.ceil(2 * float(rows[min(height, TILE_ROWS) - 1])) + 8  # rows in reach of a tile
    if number * length > _PLANE_CELLS_PER_PIXEL * height * width + _PLANE_CELLS or tall * length > _WINDOW:
        return build(geometry, np.zeros((0, height, width), np.uint8), 1, scratch, keep_scale=True)
    bits = (2 * length).bit_length()
    strides = np.array([(1 << bits) + 1, (1 << bits) - 1, -2 << bits], dtype=np.int64)
    plane = geometry._replace(strides=strides, origin=(-4 << bits) - 4)
    corners = (0,) * 3
    weights, offsets, bases, frontiers = _kept(corners, height, width)
    frontiers[-1] = number * length
    holes = embed_plane(
        corners, height, width, columns, rows, plane.strides, plane.origin,
        plane.phantom_keys(height * width), bits, length, offsets, weights, bases, frontiers,
    )  # fmt: skip
    unlinked = np.zeros(0, np.int32), np.zeros(4, np.int64), np.zeros((0, 2), np.int32)
    lattice = Lattice(corners, offsets, weights, bases, frontiers, *unlinked, *holes)
    return _normalised(lattice, (height, width), geometry.gain, keep_scale=True)


def build_bilateral(geometry: Geometry, images: Tensor) -> list[NumbaKernel]:
    """Build the lattices of positions and colours, one per image."""
    threads = torch.get_num_threads()
    inner = 1 if len(images) >= threads else threads

    def build_one(image: np.ndarray, scratch: Scratch) -> NumbaKernel:
        return build(geometry, image, inner, scratch)

    return on_threads(build_one, images.numpy(), threads if inner == 1 else 1)


def build_features(geometry: Geometry, images: np.ndarray, threads: int) -> list[NumbaKernel]:
    """Build lattices that keep their normalisation.

    Of images (B, C, H, W) or, where the geometry has no tables, of features (B, d, H, W) of float32 in units
    of their deviations.
    """
    inner = 1 if len(images) >= threads else threads

    def build_one(own: np.ndarray, scratch: Scratch) -> NumbaKernel:
        return build(geometry, own, inner, scratch, keep_scale=True)

    return on_threads(build_one, images, threads if inner == 1 else 1)


def build(
    geometry: Geometry, image: np.ndarray, threads: int, scratch: Scratch, *, keep_scale: bool = False
) -> NumbaKernel:
    """Build the lattice of one image (C, H, W); the channels are those of the geometry, beside positions.

    Where the geometry has no tables, the channels are all there is: features. Floating point is float32.
    """
    height, width = image.shape[1:]
    pixels, corners = height * width, (0,) * (geometry.dimension + 1)
    id_bits = ((pixels + 1) * len(corners) + 1).bit_length()
    words = (0,) if id_bits + geometry.key_bits <= 63 else (0, 0)  # of a slot: a key and a number
    given = None
    tables = geometry.tables
    if not tables or geometry.rows_first or geometry.scales:
        given, image, tables = _features(geometry, image), image[:0].view(np.uint8), (_NONE, _NONE)
    columns, rows, *levels = tables
    colours = np.stack(levels) if levels else np.zeros((0, 256), np.float32)
    bits = scratch.table_bits or max(9, (pixels // 4).bit_length())
    # Large arrays are made here, not in compiled code: NumPy asks the system for large pages.
    weights, offsets, bases, frontiers = _kept(corners, height, width)
    (table,) = scratch.take("table", ((len(corners) << bits) * len(words), np.int64))
    table.fill(0)
    copies, table, bits = embed(
        corners, height, width, given, np.ravel(image), columns, rows, colours, geometry.strides,
        geometry.origin, geometry.phantom_keys(pixels), table, bits, id_bits, words, _WINDOW,
        offsets, weights, bases, frontiers,
    )  # fmt: skip
    scratch.table_bits = max(9, (4 * int(frontiers[-1]) // len(corners)).bit_length())
    (following,) = scratch.take("following", (int(frontiers[-1]) * len(corners), np.int32))
    following.reshape(-1, len(corners))[copies[:, 0]] = -1
    links = _link(corners, following, table, bits, id_bits, words, geometry.strides, threads)
    no_plane = np.zeros(0, np.int32), np.zeros(1, np.int64)
    lattice = Lattice(corners, offsets, weights, bases, frontiers, *links, copies, *no_plane)
    return _normalised(lattice, (height, width), geometry.gain, keep_scale=keep_scale)


def _features(geometry: Geometry, image: np.ndarray) -> np.ndarray:
    """Features (d, H, W) of an image (C, H, W) as the lattice takes them, flat; see :class:`Geometry`."""
    scaled = np.empty((geometry.dimension, *image.shape[1:]), np.float32)
    if geometry.tables:
        x, y = (1, 0) if geometry.rows_first else (0, 1)
        scaled[x], scaled[y] = geometry.tables[x], geometry.tables[y][:, None]
    channels = scaled[2:] if geometry.tables else scaled
    for number, table in enumerate(geometry.tables[2:]):
        channels[number] = table[image[number]]
    for number, (by, times) in enumerate(geometry.scales):
        np.divide(image[number], by, out=channels[number])
        channels[number] *= times
    return scaled.reshape(-1)


def _link(
    corners: tuple[int, ...],
    following: np.ndarray,
    table: np.ndarray,
    bits: int,
    id_bits: int,
    words: tuple[int, ...],
    strides: np.ndarray,
    threads: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Chain up neighbours; return the chains of all axes and the start of each."""

    def follow(coset: int, _: Scratch) -> None:
        chains.follow(corners, coset, table, bits, id_bits, words, strides, following)

    def chain(axis: int, _: Scratch) -> np.ndarray:
        return chains.chain(corners, axis, following)

    on_threads(follow, range(len(corners)), threads)
    runs = on_threads(chain, range(len(corners)), threads)
    # The blur looks one entry ahead.
    return np.concatenate([*runs, np.zeros(1, np.int32)]), np.cumsum([0, *map(len, runs)])


def _kept(corners: tuple[int, ...], height: int, width: int) -> list[np.ndarray]:
    """Weights, offsets, bases and frontiers of a lattice, to be filled, in one block."""
    each, tiles = height * width * len(corners), tile_count(height, width)
    parts = ((each, np.float32), (each, np.uint16), (tiles, np.int64), (tiles + 1, np.int64))
    return one_block(parts)


def _normalised(lattice: Lattice, size: tuple[int, int], gain: float, *, keep_scale: bool) -> NumbaKernel:
    """Fold the symmetric normalisation into the weights."""
    scale = np.empty(size[0] * size[1], np.float32)
    filter_ones(lattice, *size, scale)
    normalise_weights(lattice.corners, lattice.weights, scale, np.float32(gain))
    return NumbaKernel(lattice, size, gain, scale if keep_scale else scale[:0].copy())
