"""Symmetric normalisation of a lattice's weights, from an image of ones that is filtered once."""

from __future__ import annotations

import numpy as np

from dhr_refine.compiled import simd
from dhr_refine.compiled.jit import compiled

from .blur import blur_chains, blur_plane, merge_copies, update_copies
from .tiles import tile_box


@compiled
def filter_ones(lattice, height, width, result):
    """Filter an image of ones, without the gain; pixels in the order of the lattice."""
    d1 = len(lattice.corners)
    tag = (0,)
    one, zero = simd.fill(np.float32(1), tag), simd.fill(np.float32(0), tag)
    values = np.zeros(lattice.frontiers[-1] + 16, np.float32)
    corners, offsets, weights, bases = lattice[:4]
    for tile in range(bases.size):
        y0, tall, x0, wide = tile_box(tile, height, width)
        start, base = y0 * width + x0 * tall, bases[tile]
        for at in range(start * d1, (start + tall * wide) * d1, d1):
            simd.scatter(offsets, weights, at, corners, values, base, one)
    if lattice.hole_starts.size > 1:
        around = np.zeros(0, np.float32)
        blur_plane(lattice, values, 0, around, 0, lattice.hole_starts.size - 1, tag)
    else:
        merge_copies(lattice.copies, values, 0, tag)
        for axis in range(d1):
            blur_chains(values, 0, lattice.chains, lattice.starts[axis], lattice.starts[axis + 1], tag)
        update_copies(lattice.copies, values, 0, tag)
    for tile in range(bases.size):
        y0, tall, x0, wide = tile_box(tile, height, width)
        start, base = y0 * width + x0 * tall, bases[tile]
        for position in range(start, start + tall * wide):
            sum_ = simd.gather(
                offsets, weights, position * d1, corners, values, base, zero
            )  # fmt: skip
            simd.store(result, position, sum_)


@compiled
def normalise_weights(corners, weights, sums, gain):
    """Fold the symmetric normalisation into the barycentric weights of both splat and slice.

    ``sums``, of filtered ones, become that normalisation.
    """
    for pixel in range(sums.size):
        scale = np.float32(1) / np.sqrt(sums[pixel] * gain + np.float32(1e-20))
        sums[pixel] = scale
        for at in range(pixel * len(corners), (pixel + 1) * len(corners)):
            simd.poke(weights, at, scale * simd.peek(weights, at))
