"""Compiled loops of the numba dense CRF. All release the GIL; none uses fast-math."""

from __future__ import annotations

import numpy as np

from . import _simd as simd
from ._simd import compiled

_GROUP = 16  # pixels embedded together
_TILE = 128  # pixels of one step of the mean field: their values stay in the first cache
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # multiplicative hashing

# --- building a lattice -------------------------------------------------------------------------------
#
# Each coset (vertices of one remainder) has an open-addressing table of its own. A slot holds
# key << id_bits | vertex + 1, or 0.


@compiled
def _home(coset, bits, key):
    """Return the slot where the search for a key starts."""
    return (coset << bits) + np.int64((np.uint64(key) * _GOLDEN) >> np.uint64(64 - bits))


@compiled
def _slot(table, home, bits, key, id_bits):
    """Return the slot that holds ``key``, or the empty one where it belongs."""
    mask = (1 << bits) - 1
    slot = home
    entry = simd.peek(table, slot)
    while entry != 0 and (entry >> id_bits) != key:
        slot = (slot & ~mask) | ((slot + 1) & mask)
        entry = simd.peek(table, slot)
    return slot


@compiled
def _grow(table, cosets, bits, id_bits):
    """Double every coset's table."""
    larger = np.zeros(cosets << (bits + 1), np.int64)
    for old in range(cosets << bits):
        entry = table[old]
        if entry != 0:
            key = entry >> id_bits
            home = _home(old >> bits, bits + 1, key)
            larger[_slot(larger, home, bits + 1, key, id_bits)] = entry
    return larger


@compiled
def _simplices(features, elevated, rounded, rank, dimension):
    """Find the simplices of a group of pixels from their scaled features.

    Leaves the coordinates of the remainder-0 vertices, divided by d + 1, in ``rounded``, the order of the
    coordinates by distance in ``rank`` and the distances, divided by d + 1, in ``elevated``.
    """
    d1 = dimension + 1
    tag = (0,) * 16
    zero, one = simd.fill(np.float32(0), tag), simd.fill(np.float32(1), tag)
    up, down = simd.fill(np.float32(d1), tag), simd.fill(np.float32(1) / np.float32(d1), tag)
    magic = simd.fill(np.float32(12582912), tag)  # 1.5 * 2**23: adding it rounds half to even
    sum_ = zero
    for j in range(dimension, 0, -1):
        part = simd.load(features, (j - 1) * _GROUP, tag)
        scale = simd.fill(np.float32(j), tag)
        simd.store(elevated, j * _GROUP, simd.sub(sum_, simd.mul(scale, part)))
        sum_ = simd.add(sum_, part)
    simd.store(elevated, 0, sum_)
    off = zero
    for i in range(d1):
        value = simd.load(elevated, i * _GROUP, tag)
        near = simd.sub(simd.add(simd.mul(down, value), magic), magic)
        off = simd.add(off, near)
        simd.store(rounded, i * _GROUP, near)
        simd.store(rank, i * _GROUP, zero)
    for i in range(dimension):
        near = simd.mul(simd.load(rounded, i * _GROUP, tag), up)
        distance = simd.sub(simd.load(elevated, i * _GROUP, tag), near)
        place = simd.load(rank, i * _GROUP, tag)
        for j in range(i + 1, d1):
            near = simd.mul(simd.load(rounded, j * _GROUP, tag), up)
            before = simd.less(distance, simd.sub(simd.load(elevated, j * _GROUP, tag), near))
            place = simd.add(place, before)
            other = simd.load(rank, j * _GROUP, tag)
            simd.store(rank, j * _GROUP, simd.add(other, simd.sub(one, before)))
        simd.store(rank, i * _GROUP, place)
    for i in range(d1):
        # Back to the plane where the sum of the rounded coordinates is zero.
        place = simd.add(simd.load(rank, i * _GROUP, tag), off)
        shift = simd.sub(simd.less(place, zero), simd.sub(one, simd.less(place, up)))
        near = simd.add(simd.load(rounded, i * _GROUP, tag), shift)
        simd.store(rank, i * _GROUP, simd.add(place, simd.mul(shift, up)))
        simd.store(rounded, i * _GROUP, near)
        rest = simd.sub(simd.load(elevated, i * _GROUP, tag), simd.mul(near, up))
        simd.store(elevated, i * _GROUP, simd.mul(rest, down))


@compiled
def _embed_row(
    y, image, columns, rows, levels, strides, origin,
    table, bits, id_bits, keys, cosets, used, last_key, last_vertex, count, offsets, weights, scratch,
):  # fmt: skip
    """Place the pixels of one row; return the number of vertices so far."""
    channels, _, width = image.shape
    d = channels + 2
    d1 = d + 1
    features, elevated = scratch[: d * _GROUP], scratch[8 * _GROUP : 16 * _GROUP]
    rounded, rank = scratch[16 * _GROUP : 24 * _GROUP], scratch[24 * _GROUP : 32 * _GROUP]
    sorted_rest = scratch[32 * _GROUP :]
    sorted_stride = np.empty(d1, np.int64)
    group_keys = np.empty(d1 * _GROUP, np.int64)
    id_mask = (np.int64(1) << id_bits) - 1
    for x0 in range(0, width, _GROUP):
        lanes = min(_GROUP, width - x0)
        for lane in range(lanes):
            features[lane] = columns[x0 + lane]
            features[_GROUP + lane] = rows[y]
        for c in range(channels):
            for lane in range(lanes):
                features[(2 + c) * _GROUP + lane] = levels[c, image[c, y, x0 + lane]]
        _simplices(features, elevated, rounded, rank, d)
        for lane in range(lanes):
            key = -origin
            for i in range(d1):
                order = np.int64(np.int32(simd.peek(rank, i * _GROUP + lane)))
                simd.poke(sorted_rest, order, simd.peek(elevated, i * _GROUP + lane))
                stride = simd.peek(strides, i)
                simd.poke(sorted_stride, order, stride)
                key += np.int64(np.int32(simd.peek(rounded, i * _GROUP + lane))) * stride
            pixel = (y * width + x0 + lane) * d1
            first = np.float32(1) - simd.peek(sorted_rest, 0)
            simd.poke(weights, pixel, simd.peek(sorted_rest, d) + first)
            simd.poke(group_keys, lane * d1, key)
            simd.prefetch(table, _home(0, bits, key))
            for r in range(1, d1):
                share = simd.peek(sorted_rest, d - r) - simd.peek(sorted_rest, d1 - r)
                simd.poke(weights, pixel + r, share)
                key -= simd.peek(sorted_stride, d1 - r)
                simd.poke(group_keys, lane * d1 + r, key)
                simd.prefetch(table, _home(r, bits, key))
        for lane in range(lanes):
            pixel = (y * width + x0 + lane) * d1
            for r in range(d1):
                key = simd.peek(group_keys, lane * d1 + r)
                if key != simd.peek(last_key, r):
                    slot = _slot(table, _home(r, bits, key), bits, key, id_bits)
                    entry = simd.peek(table, slot)
                    if entry == 0:
                        simd.poke(keys, count, key)
                        simd.poke(cosets, count, np.uint8(r))
                        count += 1
                        entry = (key << id_bits) | count
                        simd.poke(table, slot, entry)
                        used[r] += 1
                    simd.poke(last_key, r, key)
                    simd.poke(last_vertex, r, np.int32((entry & id_mask) - 1))
                simd.poke(offsets, pixel + r, simd.peek(last_vertex, r))
    return count


@compiled
def embed(image, columns, rows, levels, strides, origin, phantoms, bits, id_bits, offsets, weights):
    """Place every pixel in the lattice: vertex numbers and barycentric weights, both (N, d + 1) flat.

    Vertices are numbered by first touch in raster order; ``phantoms`` are keys of one more simplex, which
    exists without a pixel. Returns their keys and cosets, the table and
    the logarithm of its size per coset.
    """
    channels, height, width = image.shape
    d1 = channels + 3
    scratch = np.zeros(33 * _GROUP, np.float32)
    last_key = np.full(d1, -1, np.int64)
    last_vertex = np.zeros(d1, np.int32)
    used = np.zeros(d1, np.int64)
    table = np.zeros(d1 << bits, np.int64)
    keys = np.empty(d1 * (height * width + 1), np.int64)
    cosets = np.empty(d1 * (height * width + 1), np.uint8)
    count = 0
    for y in range(height):
        # At most half full after this row.
        while used.max() + width + 1 > np.int64(1) << (bits - 1):
            table = _grow(table, d1, bits, id_bits)
            bits += 1
        count = _embed_row(
            y, image, columns, rows, levels, strides, origin,
            table, bits, id_bits, keys, cosets, used, last_key, last_vertex, count, offsets, weights, scratch,
        )  # fmt: skip
    for r in range(phantoms.size):
        key = phantoms[r]
        slot = _slot(table, _home(r, bits, key), bits, key, id_bits)
        if table[slot] == 0:
            keys[count], cosets[count] = key, r
            count += 1
            table[slot] = (key << id_bits) | count
    return keys[:count].copy(), cosets[:count].copy(), table, bits


@compiled
def link(keys, cosets, table, bits, id_bits, strides):
    """Chain up neighbours: per axis, runs of linked vertices, the last of each run as ``~vertex``.

    Vertices without a neighbour on an axis keep their value there and appear in no chain. Returns the
    chains of all axes and the start of each.
    """
    d1 = strides.size
    count = keys.size
    id_mask = (np.int64(1) << id_bits) - 1
    whole = strides.sum()
    following = np.empty(d1 * count, np.int32)
    linked = np.zeros(d1 * count, np.uint8)
    ahead = 8
    for vertex in range(-ahead, count):
        soon = vertex + ahead
        if soon < count:
            coset = np.int64(simd.peek(cosets, soon))
            target = 0 if coset == d1 - 1 else coset + 1
            key = simd.peek(keys, soon) + (whole if target == 0 else 0)
            for axis in range(d1):
                simd.prefetch(table, _home(target, bits, key - simd.peek(strides, axis)))
        if vertex >= 0:
            coset = np.int64(simd.peek(cosets, vertex))
            target = 0 if coset == d1 - 1 else coset + 1
            base = simd.peek(keys, vertex) + (whole if target == 0 else 0)
            for axis in range(d1):
                key = base - simd.peek(strides, axis)
                slot = _slot(table, _home(target, bits, key), bits, key, id_bits)
                neighbour = (simd.peek(table, slot) & id_mask) - 1
                simd.poke(following, axis * count + vertex, np.int32(neighbour))
                if neighbour >= 0:
                    simd.poke(linked, axis * count + neighbour, np.uint8(1))
    chains = np.empty(d1 * count + 1, np.int32)
    starts = np.zeros(d1 + 1, np.int64)
    length = 0
    for axis in range(d1):
        base = axis * count
        for vertex in range(count):
            if simd.peek(linked, base + vertex) == 0 and simd.peek(following, base + vertex) >= 0:
                current = np.int64(vertex)
                after = np.int64(simd.peek(following, base + current))
                while after >= 0:
                    simd.poke(chains, length, np.int32(current))
                    length += 1
                    current = after
                    after = np.int64(simd.peek(following, base + current))
                simd.poke(chains, length, np.int32(~current))
                length += 1
        starts[axis + 1] = length
    chains[length] = 0  # the blur looks one entry ahead
    return chains[: length + 1].copy(), starts


# --- filtering ----------------------------------------------------------------------------------------


@compiled
def blur(values, base, chains, start, stop, tag):
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
def blur_axes(values, chunks, chains, starts, tag):
    """Blur along all axes in place, one block of channels after the other."""
    size = values.size // chunks
    for chunk in range(chunks):
        for axis in range(starts.size - 1):
            blur(values, chunk * size, chains, starts[axis], starts[axis + 1], tag)


@compiled
def add_up(values, size, start, stop):
    """Add the threads' blocks of ``size`` values to the first block, over a range; all multiples of 16."""
    tag = (0,) * 16
    for at in range(start, stop, 16):
        sum_ = simd.load(values, at, tag)
        for other in range(at + size, values.size, size):
            sum_ = simd.add(sum_, simd.load(values, other, tag))
        simd.store(values, at, sum_)


@compiled
def filter_ones(offsets, weights, scale, chains, starts, count, result):
    """Filter the one-channel image ``scale`` into ``result``, without the gain."""
    d1 = starts.size - 1
    tag = (0,)
    values = np.zeros(count, np.float32)
    for pixel in range(scale.size):
        value = simd.peek(scale, pixel)
        for at in range(pixel * d1, (pixel + 1) * d1):
            vertex = np.int64(simd.peek(offsets, at))
            old = simd.load(values, vertex, tag)
            simd.store(
                values, vertex, simd.axpy(value * simd.peek(weights, at), simd.fill(np.float32(1), tag), old)
            )
    for axis in range(d1):
        blur(values, 0, chains, starts[axis], starts[axis + 1], tag)
    for pixel in range(scale.size):
        sum_ = np.float32(0)
        for at in range(pixel * d1, (pixel + 1) * d1):
            sum_ += simd.peek(weights, at) * simd.peek(values, np.int64(simd.peek(offsets, at)))
        result[pixel] = sum_


@compiled
def scale_weights(weights, scale, d1):
    """Fold a factor per pixel into the barycentric weights."""
    for pixel in range(scale.size):
        for at in range(pixel * d1, (pixel + 1) * d1):
            weights[at] *= scale[pixel]


# --- mean field ---------------------------------------------------------------------------------------


@compiled
def pack_unary(logs, unary, start, stop):
    """Turn class-major log-probabilities into pixel-major differences to the last class."""
    classes, pixels = logs.shape
    row = unary.size // pixels
    # Tile by tile: planes of a power of two of pixels share their place in the cache.
    for tile in range(start, stop, _TILE):
        end = min(tile + _TILE, stop)
        for c in range(classes - 1):
            for pixel in range(tile, end):
                simd.poke(unary, pixel * row + c, logs[c, pixel] - logs[classes - 1, pixel])
        for c in range(classes - 1, row):
            for pixel in range(tile, end):
                simd.poke(unary, pixel * row + c, np.float32(-1e30))


@compiled
def mean_field_pass(
    offsets5, weights5, values5, next5, sums5, gain5,
    offsets2, weights2, values2, next2, sums2, gain2,
    unary, result, start, stop, slicing, splatting, blocks, tag,
):  # fmt: skip
    """One pass over pixels: slice both lattices, softmax, then splat into the next values or write out.

    Only the first K - 1 classes are kept, relative to the last one: its message follows from the
    filtered ones (``sums``), because the probabilities of a pixel sum to one.
    """
    lanes, chunks = len(tag), len(blocks)
    row = lanes * chunks
    wide = (0,) * 16
    size5, size2 = values5.size // chunks, values2.size // chunks
    zero = simd.fill(np.float32(0), tag)
    buffer = np.zeros(_TILE * row + 16, np.float32)
    last, sums = np.zeros(_TILE + 16, np.float32), np.ones(_TILE + 16, np.float32)
    classes = result.shape[0]
    for tile in range(start, stop, _TILE):
        pixels = min(_TILE, stop - tile)
        for i in range(pixels):
            at5, at2 = (tile + i) * 6, (tile + i) * 3
            peak, message_sum = np.float32(-1e30), np.float32(0)
            for chunk in range(chunks):
                logit = simd.load(unary, (tile + i) * row + chunk * lanes, tag)
                if slicing:
                    message, second = zero, zero
                    for k in range(6):
                        vertex = np.int64(simd.peek(offsets5, at5 + k))
                        value = simd.load(values5, chunk * size5 + vertex * lanes, tag)
                        message = simd.axpy(simd.peek(weights5, at5 + k), value, message)
                    for k in range(3):
                        vertex = np.int64(simd.peek(offsets2, at2 + k))
                        value = simd.load(values2, chunk * size2 + vertex * lanes, tag)
                        second = simd.axpy(simd.peek(weights2, at2 + k), value, second)
                    message = simd.axpy(gain2, second, simd.mul(simd.fill(gain5, tag), message))
                    message_sum += simd.total(message)
                    logit = simd.add(logit, message)
                peak = max(peak, simd.largest(logit))
                simd.store(buffer, i * row + chunk * lanes, logit)
            shift = np.float32(0)  # the logit of the last class
            if slicing:
                shift = gain5 * simd.peek(sums5, tile + i) + gain2 * simd.peek(sums2, tile + i) - message_sum
            peak = max(peak, shift)
            simd.poke(last, i, shift - peak)
            for chunk in range(0, row, lanes):
                at = i * row + chunk
                simd.store(buffer, at, simd.sub(simd.load(buffer, at, tag), simd.fill(peak, tag)))
        for at in range(0, pixels * row, 16):
            simd.store(buffer, at, simd.exp(simd.load(buffer, at, wide)))
        for at in range(0, pixels, 16):
            simd.store(last, at, simd.exp(simd.load(last, at, wide)))
        for i in range(pixels):
            sum_ = simd.peek(last, i)
            for chunk in range(0, row, lanes):
                sum_ += simd.total(simd.load(buffer, i * row + chunk, tag))
            simd.poke(sums, i, sum_)
        for at in range(0, pixels, 16):
            inverses = simd.div(simd.fill(np.float32(1), wide), simd.load(sums, at, wide))
            simd.store(sums, at, inverses)
        if splatting:
            for i in range(pixels):
                at5, at2 = (tile + i) * 6, (tile + i) * 3
                inverse = simd.fill(simd.peek(sums, i), tag)
                for chunk in range(chunks):
                    value = simd.mul(inverse, simd.load(buffer, i * row + chunk * lanes, tag))
                    for k in range(6):
                        at = chunk * size5 + np.int64(simd.peek(offsets5, at5 + k)) * lanes
                        old = simd.load(next5, at, tag)
                        simd.store(next5, at, simd.axpy(simd.peek(weights5, at5 + k), value, old))
                    for k in range(3):
                        at = chunk * size2 + np.int64(simd.peek(offsets2, at2 + k)) * lanes
                        old = simd.load(next2, at, tag)
                        simd.store(next2, at, simd.axpy(simd.peek(weights2, at2 + k), value, old))
        else:
            for i in range(pixels):
                result[classes - 1, tile + i] = simd.peek(last, i) * simd.peek(sums, i)
            for c in range(classes - 1):
                for i in range(pixels):
                    result[c, tile + i] = simd.peek(buffer, i * row + c) * simd.peek(sums, i)
