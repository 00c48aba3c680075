"""The dense CRF on a CPU, compiled by numba: no compiler to install, no GIL held.

A batch runs one image on a thread; a single image splits its pixels, each thread splatting into values of
its own. The number of threads is ``torch.get_num_threads()``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from . import _crf_kernels as kernels
from ._permutohedral import Geometry

# Below this many pixels a second thread costs more than it saves.
_PIXELS_PER_THREAD = 2**14


@dataclass(frozen=True)
class NumbaKernel:
    """One kernel's lattice for one image of N pixels."""

    offsets: np.ndarray  # (N * (d + 1),) uint16 or int32: vertices of each pixel
    weights: np.ndarray  # (N * (d + 1),) float32: barycentric weights times the normalisation
    chains: np.ndarray  # int32: neighbouring vertices along each axis
    starts: np.ndarray  # (d + 2,): where each axis starts in ``chains``
    vertices: int
    gain: float

    @property
    def corners(self) -> tuple[int, ...]:
        """A tag of d + 1 zeros."""
        return (0,) * (len(self.starts) - 1)

    @cached_property
    def sums(self) -> np.ndarray:
        """The kernel applied to ones, without the gain, (N,): asked for by some numbers of classes only."""
        sums = np.empty(len(self.weights) // len(self.corners), np.float32)
        kernels.filter_ones(
            self.corners, self.offsets, self.weights, self.chains, self.starts, self.vertices, sums
        )
        return sums

    @property
    def nbytes(self) -> int:
        """Memory of the arrays in bytes."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))


def build_gaussian(geometry: Geometry, height: int, width: int, device: torch.device) -> NumbaKernel:
    """Build the lattice of positions."""
    return _build(geometry, np.zeros((0, height, width), np.uint8))


def build_bilateral(geometry: Geometry, images: Tensor) -> list[NumbaKernel]:
    """Build the lattices of positions and colours, one per image."""
    arrays = [image.contiguous().numpy() for image in images]
    return _on_threads(lambda array: _build(geometry, array), arrays, torch.get_num_threads())


def _build(geometry: Geometry, image: np.ndarray) -> NumbaKernel:
    pixels, corners = image.shape[1] * image.shape[2], (0,) * (geometry.dimension + 1)
    id_bits = ((pixels + 1) * len(corners) + 1).bit_length()
    if id_bits + geometry.key_bits > 63:
        raise ValueError(
            f"a lattice of 2**{geometry.key_bits} cells is too fine for an image of {pixels} pixels: "
            "pass larger sxy and srgb, or backend='torch'"
        )
    offsets = np.empty(pixels * len(corners), np.int32)
    weights = np.empty(pixels * len(corners), np.float32)
    columns, rows, *levels = geometry.tables
    colours = np.stack(levels) if levels else np.zeros((0, 256), np.float32)
    start_bits = max(6, (pixels // 4).bit_length())
    keys, cosets, table, bits = kernels.embed(
        corners,
        image,
        columns,
        rows,
        colours,
        geometry.strides,
        geometry.origin,
        geometry.phantom_keys(pixels),
        start_bits,
        id_bits,
        offsets,
        weights,
    )
    vertices = len(keys)
    chains, starts = kernels.link(corners, keys, cosets, table, bits, id_bits, geometry.strides)
    del table
    if vertices <= 2**16:  # half the memory to read in every iteration
        offsets = offsets.astype(np.uint16)
    sums = np.empty(pixels, np.float32)
    kernels.filter_ones(corners, offsets, weights, chains, starts, vertices, sums)
    kernels.normalise_weights(corners, weights, sums, np.float32(geometry.gain))
    return NumbaKernel(offsets, weights, chains, starts, vertices, geometry.gain)


def mean_field(
    bilateral: Sequence[NumbaKernel],
    gaussian: NumbaKernel,
    logs: Tensor,
    *,
    iterations: int,
    compat: float,
    gauss_compat: float,
) -> Tensor:
    """Run mean field inference from log-probabilities (B, K, H, W); the result has the same shape."""
    batch, classes = logs.shape[:2]
    result = torch.empty(logs.shape, dtype=torch.float32)
    energy, out = logs.reshape(batch, classes, -1).numpy(), result.view(batch, classes, -1).numpy()
    threads = torch.get_num_threads()

    def solve(index: int, inner: int) -> None:
        _MeanField(
            (bilateral[index], gaussian), (compat, gauss_compat), energy[index], out[index], inner
        ).run(iterations)

    if batch >= threads:
        _on_threads(lambda index: solve(index, 1), range(batch), threads)
    else:
        inner = max(1, min(threads, out.shape[-1] // _PIXELS_PER_THREAD))
        for index in range(batch):
            solve(index, inner)
    return result


def _on_threads(function: Callable[[Any], Any], items: Sequence[Any], threads: int) -> list[Any]:
    if threads == 1 or len(items) == 1:
        return [function(item) for item in items]
    # A pool of its own for each call: one kept for later would not survive a fork.
    with ThreadPoolExecutor(min(threads, len(items))) as pool:
        return list(pool.map(function, items))


def _aligned(size: int) -> np.ndarray:
    """Return zeros that start on a cache line, so that no vector straddles two.

    A vector that starts in the array may reach beyond its end.
    """
    array = np.zeros(size + 32, np.float32)
    start = -array.ctypes.data % 64 // 4
    return array[start : start + size]


def _layout(channels: int) -> tuple[int, int]:
    """Lanes of a vector, and vectors, that hold a number of channels."""
    lanes = next(lanes for lanes in (1, 2, 4, 8, 16) if lanes >= channels or lanes == 16)
    return lanes, -(-channels // lanes)


class _MeanField:
    """The mean field of one image: its working memory and the order of its steps."""

    def __init__(
        self,
        lattices: tuple[NumbaKernel, NumbaKernel],
        compats: tuple[float, float],
        logs: np.ndarray,
        result: np.ndarray,
        threads: int,
    ) -> None:
        classes, pixels = logs.shape
        # The last class stays hidden where the others just fill the vectors.
        hidden = int(_layout(classes - 1) < _layout(classes))
        lanes, chunks = _layout(classes - hidden)
        self.tag, self.blocks, self.hidden = (0,) * lanes, (0,) * chunks, (0,) * hidden
        self.chunks, row = chunks, lanes * chunks
        self.lattices, self.result, self.threads = lattices, result, threads
        self.gains = [
            np.float32(lattice.gain * compat) for lattice, compat in zip(lattices, compats, strict=True)
        ]
        self.totals = _aligned(pixels * hidden)
        if hidden:
            for gain, lattice in zip(self.gains, lattices, strict=True):
                self.totals += gain * lattice.sums
        self.unary = _aligned(pixels * row)
        self.spans = [(pixels * t // threads, pixels * (t + 1) // threads) for t in range(threads)]
        self.sizes = [lattice.vertices * row for lattice in lattices]
        # Each thread's values start on a cache line.
        strides = [-(-size // 16) * 16 for size in self.sizes]
        self.values, self.sums = (
            [_aligned(threads * stride).reshape(threads, stride) for stride in strides] for _ in range(2)
        )
        kernels.pack_unary(logs, self.unary, self.hidden, 0, pixels)
        self.cuts = [_cut_chains(lattice, threads) for lattice in lattices] if threads > 1 else []

    def run(self, iterations: int) -> None:
        """Fill ``result``."""
        if self.threads == 1:
            self._iterate(iterations, lambda step: step(0))
            return
        with ThreadPoolExecutor(self.threads - 1) as pool:

            def on_all(step: Callable[[int], None]) -> None:
                others = [pool.submit(step, thread) for thread in range(1, self.threads)]
                step(0)
                for other in others:
                    other.result()

            self._iterate(iterations, on_all)

    def _iterate(self, iterations: int, on_all: Callable[[Callable[[int], None]], None]) -> None:
        for iteration in range(iterations):
            on_all(partial(self._pass, iteration > 0, True))
            self.values, self.sums = self.sums, self.values
            self._blur(on_all)
        on_all(partial(self._pass, iterations > 0, False))

    def _pass(self, slicing: bool, splatting: bool, thread: int) -> None:
        (bilateral, gaussian), start_stop = self.lattices, self.spans[thread]
        values5, values2 = (values[0, :size] for values, size in zip(self.values, self.sizes, strict=True))
        sums5, sums2 = (sums[thread, :size] for sums, size in zip(self.sums, self.sizes, strict=True))
        if splatting:
            sums5.fill(0)
            sums2.fill(0)
        kernels.mean_field_pass(
            bilateral.offsets, bilateral.weights, values5, sums5, self.gains[0],
            gaussian.offsets, gaussian.weights, values2, sums2, self.gains[1],
            self.unary, self.totals, self.result, *start_stop, slicing, splatting,
            self.hidden, self.blocks, self.tag,
        )  # fmt: skip

    def _blur(self, on_all: Callable[[Callable[[int], None]], None]) -> None:
        values = [values[0, :size] for values, size in zip(self.values, self.sizes, strict=True)]
        if self.threads == 1:
            for lattice, value in zip(self.lattices, values, strict=True):
                kernels.blur_axes(value, self.chunks, lattice.chains, lattice.starts, self.tag)
            return

        def add_up(thread: int) -> None:
            for parts in self.values:
                lines = parts.shape[1] // 16
                first, stop = (lines * t // self.threads * 16 for t in (thread, thread + 1))
                kernels.add_up(parts.reshape(-1), parts.shape[1], first, stop)

        def blur(axis: int, thread: int) -> None:
            for lattice, value, cuts in zip(self.lattices, values, self.cuts, strict=True):
                if axis < len(cuts):
                    first, stop = cuts[axis][thread : thread + 2]
                    for chunk in range(self.chunks):
                        start = chunk * (value.size // self.chunks)
                        kernels.blur(value, start, lattice.chains, first, stop, self.tag)

        on_all(add_up)
        for axis in range(max(map(len, self.cuts))):
            on_all(partial(blur, axis))


def _cut_chains(lattice: NumbaKernel, threads: int) -> list[list[int]]:
    """Share out each axis between threads, cutting only between chains."""
    cuts = []
    for start, stop in zip(lattice.starts[:-1].tolist(), lattice.starts[1:].tolist(), strict=True):
        axis = [start]
        for thread in range(1, threads):
            at = max(start + (stop - start) * thread // threads, axis[-1])
            while start < at < stop and lattice.chains[at - 1] >= 0:
                at += 1
            axis.append(at)
        cuts.append([*axis, stop])
    return cuts
