"""The dense CRF on a CPU, compiled by numba: no compiler to install, no GIL held.

A batch runs one image on a thread; a single image splits its pixels, each thread splatting into values of
its own. The number of threads is ``torch.get_num_threads()``. Inside a lattice, pixels are numbered
tile by tile (embedding.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from dhr_refine.compiled import barrier, simd

from ...geometry import Geometry
from . import embedding, filtering
from .embedding import Lattice

# Below this many pixels a second thread costs more than it saves.
_PIXELS_PER_THREAD = 2**14
# Vertices that the pixels of a tile can tell apart, by 16 bits.
_WINDOW = 2**16
# Bytes of a cache line, at which arrays start.
_LINE = 64
# Working memory of all threads up to this size is kept for later calls: fresh pages for 21 classes at
# 512 x 512 (150 MB) can take half as long as the call.
_SPARE_BYTES = 2**28
# A plane of more cells than this many per pixel, and some, holds mostly cells that are no vertices.
_PLANE_CELLS_PER_PIXEL, _PLANE_CELLS = 2, 2**14


@dataclass(frozen=True)
class NumbaKernel:
    """One kernel's lattice for one image of N pixels, its weights times the normalisation."""

    lattice: Lattice
    size: tuple[int, int]  # height and width of the image
    gain: float

    @property
    def vertices(self) -> int:
        """Number of vertices, of cells where the lattice is a plane."""
        return int(self.lattice.frontiers[-1])

    @cached_property
    def sums(self) -> np.ndarray:
        """The kernel applied to ones, without the gain, (N,): asked for by some numbers of classes only."""
        return _filter_ones(self.lattice, self.size)

    @property
    def nbytes(self) -> int:
        """Memory of the arrays in bytes."""
        return sum(value.nbytes for value in self.lattice if isinstance(value, np.ndarray))


def build_gaussian(geometry: Geometry, height: int, width: int, device: torch.device) -> NumbaKernel:
    """Build the lattice of positions."""
    columns, rows = geometry.tables
    # The row of a vertex less twice that of its pixel, and its column less 2/3 of that of its pixel, lie
    # within 3 and 2 of 0; one more cell on every side is no vertex.
    number = math.ceil(2 * float(rows[-1])) + 10
    length = -(-(math.ceil(2 / 3 * float(columns[-1])) // 2 + 6) // 16) * 16
    tall = math.ceil(2 * float(rows[min(height, embedding.TILE_ROWS) - 1])) + 8  # rows in reach of a tile
    if number * length > _PLANE_CELLS_PER_PIXEL * height * width + _PLANE_CELLS or tall * length > _WINDOW:
        with _Scratch.lend() as scratch:
            return _build(geometry, np.zeros((0, height, width), np.uint8), 1, scratch)
    bits = (2 * length).bit_length()
    strides = np.array([(1 << bits) + 1, (1 << bits) - 1, -2 << bits], dtype=np.int64)
    plane = geometry._replace(strides=strides, origin=(-4 << bits) - 4)
    corners = (0,) * 3
    weights, offsets, bases, frontiers = _kept(corners, height, width)
    frontiers[-1] = number * length
    holes = embedding.embed_plane(
        corners, height, width, columns, rows, plane.strides, plane.origin,
        plane.phantom_keys(height * width), bits, length, offsets, weights, bases, frontiers,
    )  # fmt: skip
    unlinked = np.zeros(0, np.int32), np.zeros(4, np.int64), np.zeros((0, 2), np.int32)
    lattice = Lattice(corners, offsets, weights, bases, frontiers, *unlinked, *holes)
    return _normalised(lattice, (height, width), geometry.gain)


def build_bilateral(geometry: Geometry, images: Tensor) -> list[NumbaKernel]:
    """Build the lattices of positions and colours, one per image."""
    threads = torch.get_num_threads()
    inner = 1 if len(images) >= threads else threads

    def build(image: np.ndarray, scratch: _Scratch) -> NumbaKernel:
        return _build(geometry, image, inner, scratch)

    return _on_threads(build, images.numpy(), threads if inner == 1 else 1)


def _build(geometry: Geometry, image: np.ndarray, threads: int, scratch: _Scratch) -> NumbaKernel:
    height, width = image.shape[1:]
    pixels, corners = height * width, (0,) * (geometry.dimension + 1)
    id_bits = ((pixels + 1) * len(corners) + 1).bit_length()
    if id_bits + geometry.key_bits > 63:
        raise ValueError(
            f"a lattice of 2**{geometry.key_bits} cells is too fine for an image of {pixels} pixels: "
            "pass larger sxy and srgb, or backend='torch'"
        )
    columns, rows, *levels = geometry.tables
    colours = np.stack(levels) if levels else np.zeros((0, 256), np.float32)
    bits = scratch.table_bits or max(9, (pixels // 4).bit_length())
    # Large arrays are made here, not in compiled code: NumPy asks the system for large pages.
    weights, offsets, bases, frontiers = _kept(corners, height, width)
    (table,) = scratch.take("table", (len(corners) << bits, np.int64))
    table.fill(0)
    copies, table, bits = embedding.embed(
        corners, height, width, image.reshape(-1), columns, rows, colours, geometry.strides, geometry.origin,
        geometry.phantom_keys(pixels), table, bits, id_bits, _WINDOW, offsets, weights, bases, frontiers,
    )  # fmt: skip
    scratch.table_bits = max(9, (4 * int(frontiers[-1]) // len(corners)).bit_length())
    (following,) = scratch.take("following", (int(frontiers[-1]) * len(corners), np.int32))
    following.reshape(-1, len(corners))[copies[:, 0]] = -1
    links = _link(corners, following, table, bits, id_bits, geometry.strides, threads)
    no_plane = np.zeros(0, np.int32), np.zeros(1, np.int64)
    lattice = Lattice(corners, offsets, weights, bases, frontiers, *links, copies, *no_plane)
    return _normalised(lattice, (height, width), geometry.gain)


def _link(
    corners: tuple[int, ...],
    following: np.ndarray,
    table: np.ndarray,
    bits: int,
    id_bits: int,
    strides: np.ndarray,
    threads: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Chain up neighbours; return the chains of all axes and the start of each."""

    def follow(coset: int, _: _Scratch) -> None:
        embedding.follow(corners, coset, table, bits, id_bits, strides, following)

    def chain(axis: int, _: _Scratch) -> np.ndarray:
        return embedding.chain(corners, axis, following)

    _on_threads(follow, range(len(corners)), threads)
    runs = _on_threads(chain, range(len(corners)), threads)
    # The blur looks one entry ahead.
    return np.concatenate([*runs, np.zeros(1, np.int32)]), np.cumsum([0, *map(len, runs)])


def _normalised(lattice: Lattice, size: tuple[int, int], gain: float) -> NumbaKernel:
    """Fold the symmetric normalisation into the weights."""
    sums = _filter_ones(lattice, size)
    filtering.normalise_weights(lattice.corners, lattice.weights, sums, np.float32(gain))
    return NumbaKernel(lattice, size, gain)


def _filter_ones(lattice: Lattice, size: tuple[int, int]) -> np.ndarray:
    sums = np.empty(size[0] * size[1], np.float32)
    filtering.filter_ones(lattice, *size, sums)
    return sums


def mean_field(
    bilateral: Sequence[NumbaKernel], gaussian: NumbaKernel, probs: Tensor, **options: Any
) -> Tensor:
    """Run mean field inference from probabilities (B, K, H, W) (see unary.py)."""
    return _infer(lambda index, scratch, threads: bilateral[index], gaussian, probs, **options)


def build_and_infer(
    geometry: Geometry, images: Tensor, gaussian: NumbaKernel, probs: Tensor, **options: Any
) -> Tensor:
    """Do so with lattices that are not kept: each is gone before the thread turns to the next image."""
    arrays = images.numpy()
    return _infer(
        lambda index, scratch, threads: _build(geometry, arrays[index], threads, scratch),
        gaussian,
        probs,
        **options,
    )


def _infer(
    find: Callable[[int, _Scratch, int], NumbaKernel],
    gaussian: NumbaKernel,
    probs: Tensor,
    *,
    iterations: int,
    compat: float,
    gauss_compat: float,
) -> Tensor:
    batch, classes, height, width = probs.shape
    given = np.ascontiguousarray(probs.resolve_neg().numpy()).reshape(batch, classes, -1)
    out = np.empty(given.shape, np.float32)  # by NumPy, which asks the system for large pages
    threads = torch.get_num_threads()
    inner = 1 if batch >= threads else max(1, min(threads, height * width // _PIXELS_PER_THREAD))

    def solve(index: int, scratch: _Scratch) -> None:
        _solve(
            (find(index, scratch, inner), gaussian),
            (compat, gauss_compat),
            given[index],
            out[index],
            scratch,
            iterations=iterations,
            threads=inner,
        )

    _on_threads(solve, range(batch), threads if inner == 1 else 1)
    return torch.from_numpy(out).view(probs.shape)


def _kept(corners: tuple[int, ...], height: int, width: int) -> list[np.ndarray]:
    """Weights, offsets, bases and frontiers of a lattice, to be filled, in one block."""
    each, tiles = height * width * len(corners), embedding.tile_count(height, width)
    parts = ((each, np.float32), (each, np.uint16), (tiles, np.int64), (tiles + 1, np.int64))
    return _carve(simd.aligned(_room(parts), _LINE), parts)


class _Scratch:
    """Working memory that one thread uses for one image after another: fresh pages are dear."""

    _spare: ClassVar[list[_Scratch]] = []

    def __init__(self) -> None:
        self._blocks: dict[str, np.ndarray] = {}
        # Logarithm of the slots that a coset's table of the image before should have had.
        self.table_bits: int | None = None

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return sum(block.nbytes for block in self._blocks.values())

    def take(self, name: str, *parts: tuple[int, type]) -> list[np.ndarray]:
        """Return flat arrays of given lengths and types, with anything in them, in one block of memory."""
        room = _room(parts)
        block = self._blocks.get(name)
        if block is None or block.size < room:
            block = self._blocks[name] = simd.aligned(room, _LINE)
        return _carve(block, parts)

    @classmethod
    @contextmanager
    def lend(cls) -> Iterator[_Scratch]:
        """Take what an earlier call has left, and leave it to later ones unless it would be too much."""
        try:
            scratch = cls._spare.pop()
        except IndexError:
            scratch = cls()
        yield scratch
        if sum(own.nbytes for own in [scratch, *cls._spare]) <= _SPARE_BYTES:
            cls._spare.append(scratch)


def _padded(size: int, kind: type) -> int:
    """Bytes of an array with room for a vector that starts in it and reaches beyond, in whole cache lines."""
    return -(-(size * np.dtype(kind).itemsize + 64) // _LINE) * _LINE


def _room(parts: Sequence[tuple[int, type]]) -> int:
    """Bytes of a block that :func:`_carve` can cut into these arrays."""
    return sum(_padded(*part) for part in parts)


def _carve(block: np.ndarray, parts: Sequence[tuple[int, type]]) -> list[np.ndarray]:
    """Cut a block of bytes, itself on a cache line, into arrays that are, so that no vector straddles two.

    In one block, because the system has large pages for large blocks only, and with small ones the machine
    spends a tenth of its time on looking up where they are.
    """
    at = 0
    arrays = []
    for size, kind in parts:
        arrays.append(block[at : at + size * np.dtype(kind).itemsize].view(kind))
        at += _padded(size, kind)
    return arrays


def _on_threads(
    function: Callable[[Any, _Scratch], Any], items: Sequence[Any] | np.ndarray, threads: int
) -> list[Any]:
    """Apply a function to items and the working memory of the thread that it runs on."""
    results: list[Any] = [None] * len(items)
    pending = iter(enumerate(items))

    def work(_: int) -> None:
        with _Scratch.lend() as scratch:
            for index, item in pending:  # one step at a time, whichever thread takes it
                results[index] = function(item, scratch)

    workers = min(threads, len(items))
    if workers <= 1:
        work(0)
    else:
        # A pool of its own for each call: one kept for later would not survive a fork.
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, range(workers)))
    return results


def _layout(channels: int) -> tuple[int, int]:
    """Lanes of a vector, and vectors, that hold a number of channels."""
    if channels <= 16:
        return next(lanes for lanes in (1, 2, 4, 8, 16) if lanes >= channels), 1
    lanes = 8 if channels <= 24 else 16
    return lanes, -(-channels // lanes)


def _solve(
    kernels: tuple[NumbaKernel, NumbaKernel],
    compats: tuple[float, float],
    probs: np.ndarray,
    result: np.ndarray,
    scratch: _Scratch,
    *,
    iterations: int,
    threads: int,
) -> None:
    """Fill the result of one image, both (K, N), on a number of threads."""
    classes, pixels = probs.shape
    # The last class stays hidden where the others just fill the vectors.
    hidden = int(_layout(classes - 1) < _layout(classes))
    lanes, chunks = _layout(classes - hidden)
    # Each thread's values start on a cache line.
    strides = [chunks * filtering.block_size(kernel.vertices, (0,) * lanes) for kernel in kernels]
    sizes = [pixels * hidden, pixels * lanes * chunks, *(2 * threads * part for part in strides)]
    totals, unary, *values = scratch.take("mean field", *((size, np.float32) for size in sizes))
    gains = [np.float32(kernel.gain * compat) for kernel, compat in zip(kernels, compats, strict=True)]
    if hidden:
        np.multiply(kernels[0].sums, gains[0], out=totals)
        totals += gains[1] * kernels[1].sums
    tiles = len(kernels[0].lattice.bases)
    spans = np.array([tiles * thread // threads for thread in range(threads + 1)])
    arguments: list[Any] = []
    for kernel, own, stride, gain in zip(kernels, values, strides, gains, strict=True):
        arguments += [kernel.lattice, _cut_chains(kernel.lattice, threads), own, stride, gain]
    arguments += [probs, unary, totals, result, kernels[0].size[1], iterations, spans]
    arrivals = barrier.make()

    def run(thread: int) -> None:
        try:
            filtering.mean_field(*arguments, thread, arrivals, (0,) * hidden, (0,) * chunks, (0,) * lanes)
        except BaseException:
            barrier.release(arrivals)  # for threads that wait for this one
            raise

    if threads == 1:
        run(0)
        return
    with ThreadPoolExecutor(threads - 1) as pool:
        try:
            others = [pool.submit(run, thread) for thread in range(1, threads)]
        except BaseException:
            barrier.release(arrivals)  # for threads that wait for one that could not start
            raise
        run(0)
        for other in others:
            other.result()


def _cut_chains(lattice: Lattice, threads: int) -> np.ndarray:
    """Share out each axis between threads, cutting only between chains: (d + 1, threads + 1)."""
    cuts = []
    for start, stop in zip(lattice.starts[:-1].tolist(), lattice.starts[1:].tolist(), strict=True):
        axis = [start]
        for thread in range(1, threads):
            at = max(start + (stop - start) * thread // threads, axis[-1])
            while start < at < stop and lattice.chains[at - 1] >= 0:
                at += 1
            axis.append(at)
        cuts.append([*axis, stop])
    return np.array(cuts)
