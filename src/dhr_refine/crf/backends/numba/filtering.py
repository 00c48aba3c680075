"""Compiled loops of the numba dense CRF: filtering through a lattice, mean field inference.

All release the GIL; none uses fast-math. Where several threads work on one image, all run
:func:`mean_field` at the same time.
"""

from __future__ import annotations

import numpy as np

from dhr_refine.compiled import simd
from dhr_refine.compiled.barrier import wait
from dhr_refine.compiled.jit import compiled

from ...unary import NOWHERE, SMALLEST
from .embedding import TILE, TILE_COLUMNS, tile_box, tiles_across

_ACROSS = (0,) * TILE_COLUMNS
# Rows of a plane that a row depends on, on either side.
_REACH = 4
# Where a pass moves more bytes than this, data are asked for while the tile this far before is at work.
_CACHED, _AHEAD = 10 * 2**20, 2

# --- blur ---------------------------------------------------------------------------------------------


@compiled
def _blur_chains(values, base, chains, start, stop, tag):
    """Blur along one axis in place: every linked vertex adds half of both its neighbours."""
    if start == stop:
        return
    lanes = len(tag)
    half = np.float32(0.5)
    before = simd.fill(np.float32(0), tag)
    vertex = np.int64(simd.peek(chains, start))
    current = simd.load(values, base + vertex * lanes, tag)
    for position in range(start, stop):
        entry = np.int64(simd.peek(chains, position))
        end = entry >> 63  # -1 at the end of a chain, else 0
        vertex = entry ^ end
        entry = np.int64(simd.peek(chains, position + 1))
        after = simd.load(values, base + (entry ^ (entry >> 63)) * lanes, tag)
        keep = np.float32(1 + end)
        near = simd.axpy(keep, after, before)
        simd.store(values, base + vertex * lanes, simd.axpy(half, near, current))
        before = simd.mul(simd.fill(keep, tag), current)
        current = after


@compiled
def _blur_row(out, to, middle, at, before, at_before, after, at_after, length):
    """Add half of two rows to a third one."""
    wide = (0,) * 16
    half = np.float32(0.5)
    for i in range(0, length, 16):
        near = simd.add(simd.load(before, at_before + i, wide), simd.load(after, at_after + i, wide))
        simd.store(out, to + i, simd.axpy(half, near, simd.load(middle, at + i, wide)))


@compiled
def _clear_row(values, at, length):
    zero = simd.fill(np.float32(0), (0,) * 16)
    for i in range(at, at + length, 16):
        simd.store(values, i, zero)


@compiled
def _clear_holes(values, at, row, lattice, length, tag):
    """Clear the cells of a row that are no vertices: no value passes through them."""
    lanes = len(tag)
    zero = simd.fill(np.float32(0), tag)
    for i in range(lattice.hole_starts[row], lattice.hole_starts[row + 1]):
        cell = np.int64(simd.peek(lattice.holes, i))
        simd.store(values, at + cell * lanes - row * length, zero)


@compiled
def _plane_row(values, base, around, row, first, stop, length):
    """Array and place of a row as it was before the blur; those beyond first and stop lie in ``around``."""
    if row < first:
        return around, (row - first + _REACH) * length
    if row >= stop:
        return around, (row - stop + _REACH) * length
    return values, base + row * length


@compiled
def _copy_around(values, base, around, first, stop, rows, length):
    """Keep the rows next to a band, which other threads are about to blur."""
    for i in range(2 * _REACH):
        row = first - _REACH + i if i < _REACH else stop - _REACH + i
        if 0 <= row < rows:
            for j in range(length):
                simd.poke(around, i * length + j, simd.peek(values, base + row * length + j))


@compiled
def _blur_plane(lattice, values, base, around, first, stop, tag):
    """Blur the rows of a band along all three axes in place, in one sweep.

    With row and column of a vertex counted so that both are odd or both are even, its neighbours are
    (row -+ 1, column -+ 1), (row -+ 1, column +- 1) and (row +- 2, column). Only every second column of
    a row exists and is kept.
    """
    lanes = len(tag)
    rows = lattice.hole_starts.size - 1
    length = lattice.frontiers[-1] // rows * lanes
    slot = length + 32
    once, twice = np.zeros(4 * slot, np.float32), np.zeros(8 * slot, np.float32)
    for ahead in range(first - 3, stop + 3):
        # Along the first axis.
        row = ahead
        to = (row & 3) * slot + 16
        if 0 < row < rows - 1:
            middle, at = _plane_row(values, base, around, row, first, stop, length)
            before, at_before = _plane_row(values, base, around, row - 1, first, stop, length)
            after, at_after = _plane_row(values, base, around, row + 1, first, stop, length)
            odd = (row & 1) * lanes
            _blur_row(once, to, middle, at, before, at_before + odd - lanes, after, at_after + odd, length)
            _clear_holes(once, to, row, lattice, length, tag)
        else:
            _clear_row(once, to, length)
        # The second axis, one row behind.
        row = ahead - 1
        to = (row & 7) * slot + 16
        if row >= first - 2:
            if 0 < row < rows - 1:
                at_before, at, at_after = (
                    ((row - 1) & 3) * slot + 16, (row & 3) * slot + 16, ((row + 1) & 3) * slot + 16
                )  # fmt: skip
                odd = (row & 1) * lanes
                _blur_row(twice, to, once, at, once, at_before + odd, once, at_after + odd - lanes, length)
                _clear_holes(twice, to, row, lattice, length, tag)
            else:
                _clear_row(twice, to, length)
        # The third axis, two rows behind that.
        row = ahead - 3
        if row >= first:
            at_before, at, at_after = (
                ((row - 2) & 7) * slot + 16, (row & 7) * slot + 16, ((row + 2) & 7) * slot + 16
            )  # fmt: skip
            _blur_row(values, base + row * length, twice, at, twice, at_before, twice, at_after, length)


@compiled
def _merge_copies(copies, values, base, tag):
    """Add what was splatted into copies to their originals."""
    lanes = len(tag)
    for i in range(len(copies) - 1, -1, -1):
        copy, original = base + np.int64(copies[i, 0]) * lanes, base + np.int64(copies[i, 1]) * lanes
        sum_ = simd.add(simd.load(values, original, tag), simd.load(values, copy, tag))
        simd.store(values, original, sum_)


@compiled
def _update_copies(copies, values, base, tag):
    """Give copies the values of their originals."""
    lanes = len(tag)
    for i in range(len(copies)):
        copy, original = base + np.int64(copies[i, 0]) * lanes, base + np.int64(copies[i, 1]) * lanes
        simd.store(values, copy, simd.load(values, original, tag))


# --- normalisation ------------------------------------------------------------------------------------


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
        _blur_plane(lattice, values, 0, around, 0, lattice.hole_starts.size - 1, tag)
    else:
        _merge_copies(lattice.copies, values, 0, tag)
        for axis in range(d1):
            _blur_chains(values, 0, lattice.chains, lattice.starts[axis], lattice.starts[axis + 1], tag)
        _update_copies(lattice.copies, values, 0, tag)
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
    """Fold the symmetric normalisation into the barycentric weights of both splat and slice."""
    for pixel in range(sums.size):
        scale = np.float32(1) / np.sqrt(sums[pixel] * gain + np.float32(1e-20))
        for at in range(pixel * len(corners), (pixel + 1) * len(corners)):
            simd.poke(weights, at, scale * simd.peek(weights, at))


# --- mean field ---------------------------------------------------------------------------------------


@compiled
def _log_probs(probs, at, tag):
    """Logarithms of clipped probabilities, from a flat array."""
    low, high = simd.fill(np.float32(SMALLEST), tag), simd.fill(np.float32(1), tag)
    return simd.log(simd.minimum(high, simd.maximum(low, simd.load(probs, at, tag))))


@compiled
def _log_tile(probs, width, tile, c, result):
    """Take the logarithms of a class in a tile, row by row; see unary.py."""
    pixels = probs.shape[1]
    flat = probs.reshape(probs.size)
    y0, tall, x0, wide = tile_box(tile, pixels // width, width)
    if probs[c, 0] < 0:
        result[:] = np.float32(NOWHERE)
        return
    for y in range(tall):
        pixel, at = c * pixels + (y0 + y) * width + x0, y * TILE_COLUMNS
        simd.prefetch(flat, pixel + pixels)  # the next class's
        if wide == TILE_COLUMNS:
            simd.store(result, at, _log_probs(flat, pixel, _ACROSS))
        else:
            for x in range(wide):
                simd.store(result, at + x, _log_probs(flat, pixel + x, (0,)))


@compiled
def _pack_unary(probs, width, unary, first, stop, hidden, blocks, tag):
    """Turn class-major probabilities (K, N) into logarithms, tile by tile, as the passes read them.

    In a tile, blocks of ``len(tag)`` classes follow each other, and in them the pixels. With a hidden class,
    the last one, the logarithms become differences to it.
    """
    classes, pixels = probs.shape
    lanes = len(tag)
    kept = classes - len(hidden)
    shifts, logs = np.zeros(TILE, np.float32), np.zeros(TILE, np.float32)
    for tile in range(first, stop):
        y0, tall, x0, wide = tile_box(tile, pixels // width, width)
        start = (y0 * width + x0 * tall) * lanes * len(blocks)
        if len(hidden):
            _log_tile(probs, width, tile, kept, shifts)
        for c in range(lanes * len(blocks)):
            if c < kept:
                _log_tile(probs, width, tile, c, logs)
            elif c == kept:
                shifts[:], logs[:] = np.float32(0), np.float32(NOWHERE)
            for y in range(tall):
                values = simd.load(logs, y * TILE_COLUMNS, _ACROSS)
                values = simd.sub(values, simd.load(shifts, y * TILE_COLUMNS, _ACROSS))
                at = start + (c // lanes * tall * wide + y) * lanes + c % lanes
                if wide == TILE_COLUMNS:
                    simd.store_every(unary, at, tall * lanes, values)
                else:
                    for x in range(wide):
                        i = y * TILE_COLUMNS + x
                        simd.poke(unary, at + x * tall * lanes, logs[i] - shifts[i])


@compiled
def _normalise(unary, totals, tile, buffer, last, pixels, slicing, hidden, blocks, tag):
    """Turn the messages of a tile into probabilities, in place; those of a hidden class go to ``last``."""
    lanes = len(tag)
    wide = (0,) * 16
    zero, one = simd.fill(np.float32(0), wide), simd.fill(np.float32(1), wide)
    # Blocks of channels: those of the tile's unary terms, and those of the buffer.
    given, own = pixels * lanes, TILE * lanes
    for start in range(0, pixels * lanes, 16):
        rest = zero
        if slicing and len(hidden):
            # The hidden class's message is what the others leave of the sum.
            for chunk in range(len(blocks)):
                rest = simd.add(rest, simd.load(buffer, chunk * own + start, wide))
            whole = simd.spread(totals, tile + start // lanes, tag)
            rest = simd.sub(whole, simd.group_total(rest, tag))
        peak = rest if len(hidden) else simd.fill(np.float32(-1e38), wide)
        for chunk in range(len(blocks)):
            at = chunk * own + start
            logit = simd.load(unary, tile * lanes * len(blocks) + chunk * given + start, wide)
            if slicing:
                logit = simd.add(logit, simd.load(buffer, at, wide))
            simd.store(buffer, at, logit)
            peak = simd.maximum(peak, logit)
        peak = simd.group_largest(peak, tag)
        sum_ = zero
        for chunk in range(len(blocks)):
            at = chunk * own + start
            part = simd.exp(simd.sub(simd.load(buffer, at, wide), peak))
            simd.store(buffer, at, part)
            sum_ = simd.add(sum_, part)
        sum_ = simd.group_total(sum_, tag)
        if len(hidden):
            rest = simd.exp(simd.sub(rest, peak))
            sum_ = simd.add(sum_, rest)
        inverse = simd.div(one, sum_)
        for chunk in range(len(blocks)):
            at = chunk * own + start
            simd.store(buffer, at, simd.mul(inverse, simd.load(buffer, at, wide)))
        if len(hidden):
            simd.store(last, start, simd.mul(inverse, rest))


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


@compiled
def _add_up(values, target, source, start, stop):
    """Add a range of values to another one, ``target`` and ``source`` being where the two begin."""
    wide = (0,) * 16
    whole = start + (stop - start) // 16 * 16
    for at in range(start, whole, 16):
        sum_ = simd.add(simd.load(values, target + at, wide), simd.load(values, source + at, wide))
        simd.store(values, target + at, sum_)
    for at in range(whole, stop):
        simd.poke(values, target + at, simd.peek(values, target + at) + simd.peek(values, source + at))


@compiled
def _write_out(buffer, result, width, tile, c, at, tag):
    """Write the probabilities of a class in a tile, the first at ``at``, to the class-major result (K, N)."""
    pixels, lanes = result.shape[1], len(tag)
    flat = result.reshape(result.size)
    y0, tall, x0, wide = tile_box(tile, pixels // width, width)
    for y in range(tall):
        target = c * pixels + (y0 + y) * width + x0
        if wide == TILE_COLUMNS:
            simd.store(flat, target, simd.load_every(buffer, at + y * lanes, tall * lanes, _ACROSS))
        else:
            for x in range(wide):
                simd.poke(flat, target + x, simd.peek(buffer, at + (x * tall + y) * lanes))


@compiled
def _pass(
    lattice5, values5, next5, gain5, lattice2, values2, next2, gain2,
    unary, totals, result, width, first, stop, slicing, splatting, hidden, blocks, tag,
):  # fmt: skip
    """One pass over the pixels of some tiles: slice both lattices, softmax, then splat or write out.

    With a hidden class, only the others are filtered: the probabilities of a pixel sum to one, and so
    their messages to ``totals``.
    """
    lanes, chunks = len(tag), len(blocks)
    zero = simd.fill(np.float32(0), tag)
    buffer = np.zeros(chunks * TILE * lanes + 16, np.float32)
    last = np.zeros(TILE * lanes + 16, np.float32)
    height = result.shape[1] // width
    across = tiles_across(width)
    flat = result.reshape(result.size)
    size5, size2 = block_size(lattice5.frontiers[-1], tag), block_size(lattice2.frontiers[-1], tag)
    # Taken out of the tuples here: numba counts references to arrays where it reads them.
    corners5, offsets5, weights5, bases5, frontiers5 = lattice5[:5]
    corners2, offsets2, weights2, bases2, frontiers2 = lattice2[:5]
    cleared5, cleared2 = np.int64(0), np.int64(0)
    # Bytes: weights and offsets, unary terms, and the values read and written.
    far = (54 + 4 * lanes * chunks) * height * width + 8 * (size5 + size2) * chunks > _CACHED
    often = 3 if far else -1  # every fourth pixel, or the first of a tile
    for tile in range(first, stop):
        y0, tall, x0, wide = tile_box(tile, height, width)
        start, pixels = y0 * width + x0 * tall, tall * wide
        ahead = _AHEAD * pixels
        base5, base2 = bases5[tile] * lanes, bases2[tile] * lanes
        if not splatting:
            # Rows of the result lie too far apart for the machine to foresee where writing goes on.
            for c in range(result.shape[0]):
                for y in range(y0, y0 + tall):
                    simd.prefetch(flat, (c * height + y) * width + x0)
        if slicing:
            for i in range(pixels):
                at5, at2 = (start + i) * 6, (start + i) * 3
                for chunk in range(chunks):
                    message = simd.gather(
                        offsets5, weights5, at5, corners5,
                        values5, base5 + chunk * size5, zero,
                    )  # fmt: skip
                    message = simd.gather(
                        offsets2, weights2, at2, corners2,
                        values2, base2 + chunk * size2, message,
                    )  # fmt: skip
                    simd.store(buffer, (chunk * TILE + i) * lanes, message)
        _normalise(unary, totals, start, buffer, last, pixels, slicing, hidden, blocks, tag)
        if splatting:
            # Vertices are cleared when the first pixels touch them: they stay in the first cache until then.
            fresh5, fresh2 = frontiers5[tile + 1] * lanes, frontiers2[tile + 1] * lanes
            cleared5 = _clear(next5, size5, cleared5, fresh5, blocks)
            cleared2 = _clear(next2, size2, cleared2, fresh2, blocks)
            if far:
                # Vertices that the next tile is the first to touch, and a part of those of the tiles below:
                # the cells of a plane that lie in a row of tiles follow each other.
                below = (tile // across + 1) * across
                if tile + 1 < stop:
                    begin, end = frontiers5[tile + 1] * lanes, frontiers5[tile + 2] * lanes
                    _prefetch_range(values5, size5, begin, end, blocks)
                if below < stop:
                    part = (frontiers2[below + 1] - frontiers2[below]) // across + 1
                    begin = (frontiers2[below] + part * (tile % across)) * lanes
                    _prefetch_range(values2, size2, begin, begin + part * lanes, blocks)
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
        else:
            kept = result.shape[0] - len(hidden)
            for c in range(kept):
                _write_out(buffer, result, width, tile, c, c // lanes * TILE * lanes + c % lanes, tag)
            if len(hidden):
                _write_out(last, result, width, tile, kept, 0, tag)


@compiled
def _join_threads(lattice, values, begin, stride, spans, thread, blocks, tag):
    """Add one thread's share of all threads' values to those of the last thread, which has touched all."""
    threads, lanes = len(spans) - 1, len(tag)
    vertices = lattice.frontiers[-1]
    start, stop = vertices * thread // threads, vertices * (thread + 1) // threads
    target = begin + (threads - 1) * stride
    for other in range(threads - 1):
        touched = max(start, min(stop, lattice.frontiers[spans[other + 1]]))
        for chunk in range(len(blocks)):
            base = chunk * block_size(vertices, tag)
            source = begin + other * stride
            _add_up(values, target, source, base + start * lanes, base + touched * lanes)


@compiled
def mean_field(
    lattice5, cuts5, values5, stride5, gain5, lattice2, cuts2, values2, stride2, gain2,
    probs, unary, totals, result, width, iterations, spans, thread, arrivals, hidden, blocks, tag,
):  # fmt: skip
    """One thread's part of the mean field of an image; all threads run this at the same time.

    Each splats its pixels into values of its own, which are then added up. ``values5`` and ``values2`` hold
    two sets of every thread's values, ``stride`` apart: one is read while the other is written.
    """
    lanes, threads = len(tag), len(spans) - 1
    size5, size2 = block_size(lattice5.frontiers[-1], tag), block_size(lattice2.frontiers[-1], tag)
    rows = lattice2.hole_starts.size - 1  # 0 where the lattice of positions is no plane
    length = lattice2.frontiers[-1] // max(rows, 1) * lanes
    first_row, stop_row = rows * thread // threads, rows * (thread + 1) // threads
    around = np.zeros(2 * _REACH * length if threads > 1 else 0, np.float32)
    copied = lattice5.copies.size + lattice2.copies.size > 0
    first, stop = spans[thread], spans[thread + 1]
    _pack_unary(probs, width, unary, first, stop, hidden, blocks, tag)
    meeting = 0
    for iteration in range(iterations + 1):
        slicing, splatting = iteration > 0, iteration < iterations
        # The last thread's values are those of all.
        read = iteration % 2 * threads + threads - 1
        written = (iteration + 1) % 2 * threads
        _pass(
            lattice5, values5[read * stride5 :], values5[(written + thread) * stride5 :], gain5,
            lattice2, values2[read * stride2 :], values2[(written + thread) * stride2 :], gain2,
            unary, totals, result, width, first, stop, slicing, splatting, hidden, blocks, tag,
        )  # fmt: skip
        if not splatting:
            return
        if threads > 1:
            wait(arrivals, threads, meeting + 1)
            _join_threads(lattice5, values5, written * stride5, stride5, spans, thread, blocks, tag)
            _join_threads(lattice2, values2, written * stride2, stride2, spans, thread, blocks, tag)
            wait(arrivals, threads, meeting + 2)
            meeting += 2
        base5, base2 = (written + threads - 1) * stride5, (written + threads - 1) * stride2
        for _ in blocks:
            if thread == 0:
                _merge_copies(lattice5.copies, values5, base5, tag)
                _merge_copies(lattice2.copies, values2, base2, tag)
            if copied:
                meeting += 1
                wait(arrivals, threads, meeting)
            if rows and threads > 1:
                _copy_around(values2, base2, around, first_row, stop_row, rows, length)
                meeting += 1
                wait(arrivals, threads, meeting)
            if rows:
                _blur_plane(lattice2, values2, base2, around, first_row, stop_row, tag)
            for axis in range(6):
                begin, end = cuts5[axis, thread], cuts5[axis, thread + 1]
                _blur_chains(values5, base5, lattice5.chains, begin, end, tag)
                if not rows and axis < 3:
                    begin, end = cuts2[axis, thread], cuts2[axis, thread + 1]
                    _blur_chains(values2, base2, lattice2.chains, begin, end, tag)
                meeting += 1
                wait(arrivals, threads, meeting)
            if thread == 0:
                _update_copies(lattice5.copies, values5, base5, tag)
                _update_copies(lattice2.copies, values2, base2, tag)
            base5, base2 = base5 + size5, base2 + size2
        if copied:
            meeting += 1
            wait(arrivals, threads, meeting)
