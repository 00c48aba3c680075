"""One filter at a time: values splatted, blurred and sliced, for lattices of any features and any terms.

Values are packed as packing.py says. A block of channels is filtered on its own, so that threads which take
different blocks never meet.
"""

from __future__ import annotations

import numpy as np

from dhr_refine.compiled import simd
from dhr_refine.compiled.jit import compiled

from .blur import blur_chains, blur_plane, merge_copies, update_copies
from .passes import softmax_tile
from .tiles import TILE, tile_box, tile_count


@compiled
def filter_block(
    lattice, height, width, packed, before, after, gains, backwards, values, result, chunk, chunks, tag
):  # fmt: skip
    """Filter one block of channels out of ``chunks``, and add it to the result, times each channel's gain.

    Pixels are weighted ``before`` the filter and ``after`` it; arrays without entries stand for ones. With
    ``backwards``, the axes are blurred in the opposite order: the transpose. ``values`` is working memory.
    """
    lanes = len(tag)
    values[:] = np.float32(0)
    _splat(lattice, height, width, packed, before, values, chunk, chunks, tag)
    if lattice.hole_starts.size > 1:
        around = np.zeros(0, np.float32)
        blur_plane(lattice, values, 0, around, 0, lattice.hole_starts.size - 1, tag)
    else:
        merge_copies(lattice.copies, values, 0, tag)
        axes = len(lattice.corners)
        for number in range(axes):
            axis = axes - 1 - number if backwards else number
            blur_chains(values, 0, lattice.chains, lattice.starts[axis], lattice.starts[axis + 1], tag)
        update_copies(lattice.copies, values, 0, tag)
    gain = simd.load(gains, chunk * lanes, tag)
    _slice(lattice, height, width, values, after, gain, result, chunk, chunks, tag)


@compiled
def _splat(lattice, height, width, packed, before, values, chunk, chunks, tag):
    """Add a block of the pixels' values to their vertices."""
    corners, offsets, weights, bases = lattice[:4]
    d1, lanes = len(corners), len(tag)
    for tile in range(bases.size):
        y0, tall, x0, wide = tile_box(tile, height, width)
        start, pixels, base = y0 * width + x0 * tall, tall * wide, bases[tile] * lanes
        own = (start * chunks + chunk * pixels) * lanes
        for i in range(pixels):
            value = simd.load(packed, own + i * lanes, tag)
            if before.size:
                value = simd.mul(simd.fill(simd.peek(before, start + i), tag), value)
            simd.scatter(offsets, weights, (start + i) * d1, corners, values, base, value)


@compiled
def _slice(lattice, height, width, values, after, gain, result, chunk, chunks, tag):
    """Read a block of the pixels' values from their vertices."""
    corners, offsets, weights, bases = lattice[:4]
    d1, lanes = len(corners), len(tag)
    zero = simd.fill(np.float32(0), tag)
    for tile in range(bases.size):
        y0, tall, x0, wide = tile_box(tile, height, width)
        start, pixels, base = y0 * width + x0 * tall, tall * wide, bases[tile] * lanes
        own = (start * chunks + chunk * pixels) * lanes
        for i in range(pixels):
            value = simd.gather(offsets, weights, (start + i) * d1, corners, values, base, zero)
            if after.size:
                value = simd.mul(simd.fill(simd.peek(after, start + i), tag), value)
            at = own + i * lanes
            simd.store(result, at, simd.add(simd.load(result, at, tag), simd.mul(gain, value)))


@compiled
def mix(message, matrix, height, width, result, chunks, tag):
    """Add the messages of all classes to each class, weighted by a matrix (classes of both, in whole blocks).

    ``matrix`` is flat, the classes that send after one another.
    """
    lanes = len(tag)
    for tile in range(tile_count(height, width)):
        y0, tall, x0, wide = tile_box(tile, height, width)
        start, pixels = (y0 * width + x0 * tall) * lanes * chunks, tall * wide
        for i in range(pixels):
            for chunk in range(chunks):
                at = start + (chunk * pixels + i) * lanes
                sum_ = simd.load(result, at, tag)
                for sender in range(lanes * chunks):
                    sent = start + (sender // lanes * pixels + i) * lanes + sender % lanes
                    row = simd.load(matrix, (sender * chunks + chunk) * lanes, tag)
                    sum_ = simd.axpy(simd.peek(message, sent), row, sum_)
                simd.store(result, at, sum_)


@compiled
def softmax(logits, height, width, probs, blocks, tag):
    """Turn packed logits into packed probabilities."""
    lanes, chunks = len(tag), len(blocks)
    buffer = np.zeros(chunks * TILE * lanes + 16, np.float32)
    for tile in range(tile_count(height, width)):
        y0, tall, x0, wide = tile_box(tile, height, width)
        start, pixels = y0 * width + x0 * tall, tall * wide
        softmax_tile(logits, start, buffer, pixels, False, blocks, tag)
        for chunk in range(chunks):
            own = (start * chunks + chunk * pixels) * lanes
            for j in range(pixels * lanes):
                simd.poke(probs, own + j, simd.peek(buffer, chunk * TILE * lanes + j))
