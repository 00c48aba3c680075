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
def _simplices(features, rest, rounded, rank, steps, shares, corners):
    """Find the simplices of a group of pixels from their scaled features.

    Leaves the coordinates of the remainder-0 vertices, divided by d + 1, in ``rounded``, the axis along
    which each further vertex lies from the one before in ``steps``, and the barycentric weights in
    ``shares``. ``rest`` and ``rank`` are working memory.
    """
    d1 = len(corners)
    dimension = d1 - 1
    tag = (0,) * 16
    zero, one = simd.fill(np.float32(0), tag), simd.fill(np.float32(1), tag)
    up, down = simd.fill(np.float32(d1), tag), simd.fill(np.float32(1) / np.float32(d1), tag)
    magic = simd.fill(np.float32(12582912), tag)  # 1.5 * 2**23: adding it rounds half to even
    sum_ = zero
    for j in range(dimension, 0, -1):
        part = simd.load(features, (j - 1) * _GROUP, tag)
        scale = simd.fill(np.float32(j), tag)
        simd.store(rest, j * _GROUP, simd.sub(sum_, simd.mul(scale, part)))
        sum_ = simd.add(sum_, part)
    simd.store(rest, 0, sum_)
    off = zero
    for i in range(d1):
        value = simd.load(rest, i * _GROUP, tag)
        near = simd.sub(simd.add(simd.mul(down, value), magic), magic)
        off = simd.add(off, near)
        simd.store(rounded, i * _GROUP, near)
        simd.store(rank, i * _GROUP, zero)
    for i in range(dimension):
        near = simd.mul(simd.load(rounded, i * _GROUP, tag), up)
        distance = simd.sub(simd.load(rest, i * _GROUP, tag), near)
        place = simd.load(rank, i * _GROUP, tag)
        for j in range(i + 1, d1):
            near = simd.mul(simd.load(rounded, j * _GROUP, tag), up)
            before = simd.less(distance, simd.sub(simd.load(rest, j * _GROUP, tag), near))
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
        far = simd.sub(simd.load(rest, i * _GROUP, tag), simd.mul(near, up))
        simd.store(rest, i * _GROUP, simd.mul(far, down))
    # Vertex r lies one step from vertex r - 1 along the axis of rank d + 1 - r.
    previous, first = zero, zero
    for place in range(d1):
        wanted = simd.fill(np.float32(place), tag)
        far, axis = zero, zero
        for i in range(d1):
            own = simd.load(rank, i * _GROUP, tag)
            far = simd.where_equal(own, wanted, simd.load(rest, i * _GROUP, tag), far)
            axis = simd.where_equal(own, wanted, simd.fill(np.float32(i), tag), axis)
        if place == 0:
            first = simd.sub(one, far)
        else:
            simd.store(steps, (d1 - place) * _GROUP, axis)
            simd.store(shares, (d1 - place) * _GROUP, simd.sub(previous, far))
        previous = far
    simd.store(shares, 0, simd.add(previous, first))


@compiled
def _embed_row(
    corners, y, image, columns, rows, levels, strides, origin,
    table, bits, id_bits, keys, cosets, used, last_key, last_vertex, count, offsets, weights, scratch,
):  # fmt: skip
    """Place the pixels of one row; return the number of vertices so far."""
    _, height, width = image.shape
    d1 = len(corners)
    features, rest = scratch[: 8 * _GROUP], scratch[8 * _GROUP : 16 * _GROUP]
    rounded, rank = scratch[16 * _GROUP : 24 * _GROUP], scratch[24 * _GROUP : 32 * _GROUP]
    steps, shares = scratch[32 * _GROUP : 40 * _GROUP], scratch[40 * _GROUP :]
    group_keys = np.empty(d1 * _GROUP, np.int64)
    id_mask = (np.int64(1) << id_bits) - 1
    for x0 in range(0, width, _GROUP):
        lanes = min(_GROUP, width - x0)
        for lane in range(lanes):
            simd.poke(features, lane, simd.peek(columns, x0 + lane))
            simd.poke(features, _GROUP + lane, rows[y])
        for c in range(d1 - 3):
            start = (c * height + y) * width + x0
            for lane in range(lanes):
                level = np.int64(simd.peek(image, start + lane))
                simd.poke(features, (2 + c) * _GROUP + lane, simd.peek(levels, c * 256 + level))
        _simplices(features, rest, rounded, rank, steps, shares, corners)
        for lane in range(lanes):
            key = -origin
            for i in range(d1):
                key += np.int64(np.int32(simd.peek(rounded, i * _GROUP + lane))) * simd.peek(strides, i)
            pixel = (y * width + x0 + lane) * d1
            for r in range(d1):
                if r > 0:
                    axis = np.int64(np.int32(simd.peek(steps, r * _GROUP + lane)))
                    key -= simd.peek(strides, axis)
                simd.poke(weights, pixel + r, simd.peek(shares, r * _GROUP + lane))
                simd.poke(group_keys, lane * d1 + r, key)
                simd.prefetch(table, _home(r, bits, key))
        for lane in range(lanes):
            pixel = (y * width + x0 + lane) * d1
            for r in range(d1):
                key = simd.peek(group_keys, lane * d1 + r)
                # Half of the vertices are the last pixel's, but which cannot be foreseen: with colours a
                # look-up is cheaper than a wrong guess.
                if d1 > 3 or key != simd.peek(last_key, r):
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
def embed(corners, image, columns, rows, levels, strides, origin, phantoms, bits, id_bits, offsets, weights):
    """Place every pixel in the lattice: vertex numbers and barycentric weights, both (N, d + 1) flat.

    Vertices are numbered by first touch in raster order; ``phantoms`` are keys of one more simplex, which
    exists without a pixel. Returns their keys and cosets, the table and
    the logarithm of its size per coset.
    """
    _, height, width = image.shape
    d1 = len(corners)
    scratch = np.zeros(48 * _GROUP, np.float32)
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
            corners, y, image, columns, rows, levels, strides, origin,
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
def link(corners, keys, cosets, table, bits, id_bits, strides):
    """Chain up neighbours: per axis, runs of linked vertices, the last of each run as ``~vertex``.

    Vertices without a neighbour on an axis keep their value there and appear in no chain. Returns the
    chains of all axes and the start of each.
    """
    d1 = len(corners)
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
def filter_ones(corners, offsets, weights, chains, starts, vertices, result):
    """Filter an image of ones, without the gain."""
    d1 = len(corners)
    tag = (0,)
    one, zero = simd.fill(np.float32(1), tag), simd.fill(np.float32(0), tag)
    values = np.zeros(vertices, np.float32)
    for pixel in range(result.size):
        simd.scatter(offsets, weights, pixel * d1, corners, values, 0, one)
    for axis in range(d1):
        blur(values, 0, chains, starts[axis], starts[axis + 1], tag)
    for pixel in range(result.size):
        sum_ = simd.gather(offsets, weights, pixel * d1, corners, values, 0, zero)
        simd.store(result, pixel, sum_)


@compiled
def normalise_weights(corners, weights, sums, gain):
    """Fold the symmetric normalisation into the barycentric weights of both splat and slice."""
    for pixel in range(sums.size):
        scale = np.float32(1) / np.sqrt(sums[pixel] * gain + np.float32(1e-20))
        for at in range(pixel * len(corners), (pixel + 1) * len(corners)):
            simd.poke(weights, at, scale * simd.peek(weights, at))


# --- mean field ---------------------------------------------------------------------------------------


@compiled
def pack_unary(logs, unary, hidden, start, stop):
    """Turn class-major log-probabilities into pixel-major ones.

    With a hidden class, the last one, they become differences to it.
    """
    classes, pixels = logs.shape
    row = unary.size // pixels
    kept = classes - len(hidden)
    # Tile by tile: planes of a power of two of pixels share their place in the cache.
    for tile in range(start, stop, _TILE):
        end = min(tile + _TILE, stop)
        for c in range(kept):
            for pixel in range(tile, end):
                shift = logs[kept, pixel] if len(hidden) else np.float32(0)
                simd.poke(unary, pixel * row + c, logs[c, pixel] - shift)
        for c in range(kept, row):
            for pixel in range(tile, end):
                simd.poke(unary, pixel * row + c, np.float32(-1e30))


@compiled
def _normalise(unary, totals, tile, buffer, last, pixels, slicing, hidden, blocks, tag):
    """Turn the messages of a tile into probabilities, in place; those of a hidden class go to ``last``."""
    chunks = len(blocks)
    row, step = chunks * len(tag), 16 * chunks
    wide = (0,) * 16
    zero, one = simd.fill(np.float32(0), wide), simd.fill(np.float32(1), wide)
    for start in range(0, pixels * row, step):
        rest = zero
        if slicing and len(hidden):
            # The hidden class's message is what the others leave of the sum.
            for at in range(start, start + step, 16):
                rest = simd.add(rest, simd.load(buffer, at, wide))
            whole = simd.spread(totals, tile + start // row, tag)
            rest = simd.sub(whole, simd.group_total(rest, tag))
        peak = rest if len(hidden) else simd.fill(np.float32(-1e38), wide)
        for at in range(start, start + step, 16):
            logit = simd.load(unary, tile * row + at, wide)
            if slicing:
                logit = simd.add(logit, simd.load(buffer, at, wide))
            simd.store(buffer, at, logit)
            peak = simd.maximum(peak, logit)
        peak = simd.group_largest(peak, tag)
        sum_ = zero
        for at in range(start, start + step, 16):
            part = simd.exp(simd.sub(simd.load(buffer, at, wide), peak))
            simd.store(buffer, at, part)
            sum_ = simd.add(sum_, part)
        sum_ = simd.group_total(sum_, tag)
        if len(hidden):
            rest = simd.exp(simd.sub(rest, peak))
            sum_ = simd.add(sum_, rest)
        inverse = simd.div(one, sum_)
        for at in range(start, start + step, 16):
            simd.store(buffer, at, simd.mul(inverse, simd.load(buffer, at, wide)))
        if len(hidden):
            simd.store(last, start // chunks, simd.mul(inverse, rest))


@compiled
def mean_field_pass(
    offsets5, weights5, values5, next5, gain5,
    offsets2, weights2, values2, next2, gain2,
    unary, totals, result, start, stop, slicing, splatting, hidden, blocks, tag,
):  # fmt: skip
    """One pass over pixels: slice both lattices, softmax, then splat into the next values or write out.

    With a hidden class, only the others are filtered: the probabilities of a pixel sum to one, and so
    their messages to ``totals``.
    """
    lanes, chunks = len(tag), len(blocks)
    row = lanes * chunks
    six, three = (0,) * 6, (0,) * 3
    size5, size2 = values5.size // chunks, values2.size // chunks
    zero = simd.fill(np.float32(0), tag)
    buffer = np.zeros(_TILE * row + 16, np.float32)
    last = np.zeros(_TILE * lanes + 16, np.float32)
    classes, count = result.shape
    for tile in range(start, stop, _TILE):
        pixels = min(_TILE, stop - tile)
        if slicing:
            for i in range(pixels):
                at5, at2 = (tile + i) * 6, (tile + i) * 3
                for chunk in range(chunks):
                    message = simd.gather(offsets5, weights5, at5, six, values5, chunk * size5, zero)
                    message = simd.gather(offsets2, weights2, at2, three, values2, chunk * size2, message)
                    simd.store(buffer, i * row + chunk * lanes, message)
        _normalise(unary, totals, tile, buffer, last, pixels, slicing, hidden, blocks, tag)
        if splatting:
            for i in range(pixels):
                at5, at2 = (tile + i) * 6, (tile + i) * 3
                for chunk in range(chunks):
                    value = simd.load(buffer, i * row + chunk * lanes, tag)
                    value5 = simd.mul(simd.fill(gain5, tag), value)
                    simd.scatter(offsets5, weights5, at5, six, next5, chunk * size5, value5)
                    value2 = simd.mul(simd.fill(gain2, tag), value)
                    simd.scatter(offsets2, weights2, at2, three, next2, chunk * size2, value2)
        else:
            kept = classes - len(hidden)
            for c in range(kept):
                for i in range(pixels):
                    simd.poke(result, c * count + tile + i, simd.peek(buffer, i * row + c))
            if len(hidden):
                for i in range(pixels):
                    simd.poke(result, kept * count + tile + i, simd.peek(last, i * lanes))
