"""Mean field of one image with the usual pair of kernels: one of five features, one of two.

The image splits its pixels between threads, each of which splats into values of its own.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from . import iterations as loops
from .lattice import Lattice, NumbaKernel
from .memory import Scratch
from .passes import block_size
from .threads import together

# Below this many pixels a second thread costs more than it saves.
_PIXELS_PER_THREAD = 2**14


def useful_threads(threads: int, pixels: int) -> int:
    """How many of these threads are worth starting for one image."""
    return max(1, min(threads, pixels // _PIXELS_PER_THREAD))


def solve_pair(
    kernels: tuple[NumbaKernel, NumbaKernel],
    compats: tuple[float, float],
    given: tuple[np.ndarray, int],
    result: np.ndarray,
    scratch: Scratch,
    *,
    iterations: int,
    threads: int,
) -> None:
    """Fill the result from what is given (see packing.py), both (K, N); the kernel of five features first."""
    classes, pixels = result.shape
    lanes, chunks = layout(classes)
    # Each thread's values start on a cache line.
    strides = [chunks * block_size(kernel.vertices, (0,) * lanes) for kernel in kernels]
    sizes = [pixels * lanes * chunks, *(2 * threads * part for part in strides)]
    unary, *values = scratch.take("mean field", *((size, np.float32) for size in sizes))
    gains = [np.float32(kernel.gain * compat) for kernel, compat in zip(kernels, compats, strict=True)]
    tiles = len(kernels[0].lattice.bases)
    spans = np.array([tiles * thread // threads for thread in range(threads + 1)])
    arguments: list[Any] = []
    for kernel, own, stride, gain in zip(kernels, values, strides, gains, strict=True):
        arguments += [kernel.lattice, _cut_chains(kernel.lattice, threads), own, stride, gain]
    arguments += [*given, unary, result, kernels[0].size[1], iterations, spans]

    def work(thread: int, arrivals: np.ndarray) -> None:
        loops.mean_field(*arguments, thread, arrivals, (0,) * chunks, (0,) * lanes)

    together(work, threads)


def layout(channels: int) -> tuple[int, int]:
    """Lanes of a vector, and vectors, that hold a number of channels; some lanes may be left over."""
    if channels <= 16:
        return next(lanes for lanes in (1, 2, 4, 8, 16) if lanes >= channels), 1
    lanes = 8 if channels <= 24 else 16
    return lanes, -(-channels // lanes)


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
