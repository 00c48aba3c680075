"""One pass over the pixels of an image: from values at the vertices to probabilities, and back to vertices.

The arguments that end in 5 belong to the bilateral lattice, those in 2 to the one of positions.
"""

from __future__ import annotations

import numpy as np

from dhr_refine.compiled import simd
from dhr_refine.compiled.jit import compiled, inlined

from .packing import write_out
from .tiles import TILE, tile_box, tiles_across

# Where a pass moves more bytes than this, data are asked for while the tile this far before is at work.
_CACHED, _AHEAD = 10 * 2**20, 2
# Classes are summed as whole numbers up to this: the sum of K classes is off by at most K * K / 2**31 of
# itself, 3e-7 for 21 and 1.4e-5 for 171.
_LARGEST_SUM = 2**30


@compiled
def run_pass(
    lattice5, values5, next5, gain5, lattice2, values2, next2, gain2,
    unary, result, width, first, stop, slicing, splatting, blocks, tag,
):  # fmt: skip
    """One pass over the pixels of some tiles: slice both lattices, softmax, then splat or write out."""
    lanes, chunks = len(tag), len(blocks)
    buffer = np.zeros(chunks * TILE * lanes + 16, np.float32)
    height = result.shape[1] // width
    flat = result.reshape(result.size)
    size5, size2 = block_size(lattice5.frontiers[-1], tag), block_size(lattice2.frontiers[-1], tag)
    # Taken out of the tuples here: numba counts references to arrays where it reads them.
    corners5, offsets5, weights5, bases5, frontiers5 = lattice5[:5]
    corners2, offsets2, weights2, bases2, frontiers2 = lattice2[:5]
    cleared5, cleared2 = np.int64(0), np.int64(0)
    # Bytes: weights and offsets, unary terms, and the values read and written.
    far = (54 + 4 * lanes * chunks) * height * width + 8 * (size5 + size2) * chunks > _CACHED
    for tile in range(first, stop):
        y0, tall, x0, wide = tile_box(tile, height, width)
        start, pixels = y0 * width + x0 * tall, tall * wide
        base5, base2 = bases5[tile] * lanes, bases2[tile] * lanes
        if not splatting:
            # Rows of the result lie too far apart for the machine to foresee where writing goes on.
            for c in range(result.shape[0]):
                for y in range(y0, y0 + tall):
                    simd.prefetch(flat, (c * height + y) * width + x0)
        if slicing:
            _slice(
                corners5, offsets5, weights5, values5, base5, size5,
                corners2, offsets2, weights2, values2, base2, size2, start, pixels, buffer, blocks, tag,
            )  # fmt: skip
        softmax_tile(unary, start, buffer, pixels, slicing, blocks, tag)
        if splatting:
            # Vertices are cleared when the first pixels touch them: they stay in the first cache until then.
            fresh5, fresh2 = frontiers5[tile + 1] * lanes, frontiers2[tile + 1] * lanes
            cleared5 = _clear(next5, size5, cleared5, fresh5, blocks)
            cleared2 = _clear(next2, size2, cleared2, fresh2, blocks)
            if far:
                _prefetch_vertices(
                    frontiers5, values5, size5, frontiers2, values2, size2, width, tile, stop, blocks, tag
                )
            _splat(
                corners5, offsets5, weights5, next5, base5, size5, gain5,
                corners2, offsets2, weights2, next2, base2, size2, gain2,
                unary, start, pixels, far, buffer, blocks, tag,
            )  # fmt: skip
        else:
            for c in range(result.shape[0]):
                write_out(buffer, c // lanes * TILE * lanes + c % lanes, width, result, tile, c, tag)


@inlined
def _slice(
    corners5, offsets5, weights5, values5, base5, size5,
    corners2, offsets2, weights2, values2, base2, size2, start, pixels, buffer, blocks, tag,
):  # fmt: skip
    """Read the messages of a tile's pixels from the vertices of both lattices."""
    lanes = len(tag)
    zero = simd.fill(np.float32(0), tag)
    for i in range(pixels):
        at5, at2 = (start + i) * 6, (start + i) * 3
        for chunk in range(len(blocks)):
            message = simd.gather(
                offsets5, weights5, at5, corners5,
                values5, base5 + chunk * size5, zero,
            )  # fmt: skip
            message = simd.gather(
                offsets2, weights2, at2, corners2,
                values2, base2 + chunk * size2, message,
            )  # fmt: skip
            simd.store(buffer, (chunk * TILE + i) * lanes, message)


@inlined
def _splat(
    corners5, offsets5, weights5, next5, base5, size5, gain5,
    corners2, offsets2, weights2, next2, base2, size2, gain2,
    unary, start, pixels, far, buffer, blocks, tag,
):  # fmt: skip
    """Add the probabilities of a tile's pixels to the vertices of both lattices."""
    lanes, chunks = len(tag), len(blocks)
    ahead = _AHEAD * pixels
    often = 3 if far else -1  # every fourth pixel, or the first of a tile
    for i in range(pixels):
        at5, at2 = (start + i) * 6, (start + i) * 3
        if i & often == 0:
            # A pass reads these once. Asked for in this way, they leave the caches to the values at
            # the vertices, which the pixels touch in no order that a machine could foresee.
            simd.prefetch_once(weights5, at5 + ahead * 6)
            simd.prefetch_once(weights5, at5 + ahead * 6 + 16)
            simd.prefetch_once(offsets5, at5 + ahead * 6)
            simd.prefetch_once(weights2, at2 + ahead * 3)
            simd.prefetch_once(offsets2, at2 + ahead * 3)
            for chunk in range(chunks):
                at = ((start + ahead) * chunks + chunk * pixels + i) * lanes
                for line in range(0, 4 * lanes, 16):
                    simd.prefetch_once(unary, at + line)
        for chunk in range(chunks):
            value = simd.load(buffer, (chunk * TILE + i) * lanes, tag)
            simd.scatter(
                offsets5, weights5, at5, corners5,
                next5, base5 + chunk * size5, simd.mul(simd.fill(gain5, tag), value),
            )  # fmt: skip
            simd.scatter(
                offsets2, weights2, at2, corners2,
                next2, base2 + chunk * size2, simd.mul(simd.fill(gain2, tag), value),
            )  # fmt: skip


@inlined
def _prefetch_vertices(
    frontiers5, values5, size5, frontiers2, values2, size2, width, tile, stop, blocks, tag
):
    """Ask for vertices that the next tile is the first to touch, and a part of those of the tiles below.

    The cells of a plane that lie in a row of tiles follow each other.
    """
    lanes, across = len(tag), tiles_across(width)
    below = (tile // across + 1) * across
    if tile + 1 < stop:
        begin, end = frontiers5[tile + 1] * lanes, frontiers5[tile + 2] * lanes
        _prefetch_range(values5, size5, begin, end, blocks)
    if below < stop:
        part = (frontiers2[below + 1] - frontiers2[below]) // across + 1
        begin = (frontiers2[below] + part * (tile % across)) * lanes
        _prefetch_range(values2, size2, begin, begin + part * lanes, blocks)


@compiled
def softmax_tile(unary, tile, buffer, pixels, slicing, blocks, tag):
    """Turn the messages of a tile into probabilities, in place.

    Classes that change places keep their values to the last bit, as their sum is exact whatever the order.
    Mean field can amplify the least difference until a tie between classes is decided by their order.
    """
    lanes = len(tag)
    wide = (0,) * 16
    scale = np.float32(_LARGEST_SUM // (len(blocks) * lanes))
    half, unit = simd.fill(np.float32(0.5), wide), simd.fill(scale, wide)
    # Blocks of channels: those of the tile's unary terms, and those of the buffer.
    given, own = pixels * lanes, TILE * lanes
    for start in range(0, pixels * lanes, 16):
        peak = simd.fill(np.float32(-1e38), wide)
        for chunk in range(len(blocks)):
            at = chunk * own + start
            logit = simd.load(unary, tile * lanes * len(blocks) + chunk * given + start, wide)
            if slicing:
                logit = simd.add(logit, simd.load(buffer, at, wide))
            simd.store(buffer, at, logit)
            peak = simd.maximum(peak, logit)
        peak = simd.group_largest(peak, tag)
        sum_ = simd.whole(simd.fill(np.float32(0), wide))
        for chunk in range(len(blocks)):
            at = chunk * own + start
            part = simd.exp(simd.sub(simd.load(buffer, at, wide), peak))
            simd.store(buffer, at, part)
            sum_ = simd.add(sum_, simd.whole(simd.axpy(scale, part, half)))
        inverse = simd.div(unit, simd.unwhole(simd.group_total(sum_, tag)))
        for chunk in range(len(blocks)):
            at = chunk * own + start
            simd.store(buffer, at, simd.mul(inverse, simd.load(buffer, at, wide)))


@compiled
def block_size(vertices, tag):
    """Room for one block of channels of all vertices, in whole vectors of 16."""
    return -(-vertices * len(tag) // 16) * 16


@compiled
def _clear(values, size, start, stop, blocks):
    """Clear a range in every block of channels, up to a whole vector; return its end."""
    wide = (0,) * 16
    zero = simd.fill(np.float32(0), wide)
    stop = start + -(-(stop - start) // 16) * 16
    for chunk in range(len(blocks)):
        for at in range(start, stop, 16):
            simd.store(values, chunk * size + at, zero)
    return stop


@compiled
def _prefetch_range(values, size, start, stop, blocks):
    """Ask for a range in every block of channels before it is read."""
    for chunk in range(len(blocks)):
        for at in range(start, stop, 16):
            simd.prefetch(values, chunk * size + at)
