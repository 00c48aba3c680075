"""Mean field of the numba backend with one kernel of five features and one of two, on a number of threads.

A batch runs one image on a thread; a single image splits its pixels, each thread splatting into values of
its own. The number of threads is ``torch.get_num_threads()``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...geometry import Geometry
from . import iterations as loops
from .lattice import Lattice, NumbaKernel, build
from .memory import Scratch
from .packing import ENERGIES, PROBS
from .passes import block_size
from .threads import on_threads, together

# Below this many pixels a second thread costs more than it saves.
_PIXELS_PER_THREAD = 2**14


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
        lambda index, scratch, threads: build(geometry, arrays[index], threads, scratch),
        gaussian,
        probs,
        **options,
    )


def _infer(
    find: Callable[[int, Scratch, int], NumbaKernel],
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
    inner = 1 if batch >= threads else _useful(threads, height * width)

    def solve(index: int, scratch: Scratch) -> None:
        _solve(
            (find(index, scratch, inner), gaussian),
            (compat, gauss_compat),
            (given[index], PROBS),
            out[index],
            scratch,
            iterations=iterations,
            threads=inner,
        )

    on_threads(solve, range(batch), threads if inner == 1 else 1)
    return torch.from_numpy(out).view(probs.shape)


def solve_energies(
    kernels: tuple[NumbaKernel, NumbaKernel],
    compats: tuple[float, float],
    energies: np.ndarray,
    *,
    iterations: int,
    threads: int,
) -> np.ndarray:
    """Run mean field inference from the energies (K, N) of one image; the kernel of five features first."""
    out = np.empty(energies.shape, np.float32)
    threads = _useful(threads, energies.shape[1])
    with Scratch.lend() as scratch:
        _solve(
            kernels,
            compats,
            (energies, ENERGIES),
            out,
            scratch,
            iterations=iterations,
            threads=threads,
        )
    return out


def _useful(threads: int, pixels: int) -> int:
    """How many of these threads are worth starting for one image."""
    return max(1, min(threads, pixels // _PIXELS_PER_THREAD))


def _solve(
    kernels: tuple[NumbaKernel, NumbaKernel],
    compats: tuple[float, float],
    given: tuple[np.ndarray, int],
    result: np.ndarray,
    scratch: Scratch,
    *,
    iterations: int,
    threads: int,
) -> None:
    """Fill the result of one image from what is given (see packing.py), both (K, N), on some threads."""
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
