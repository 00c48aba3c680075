"""Compiled loops that build the lattices of the numba dense CRF. All release the GIL; none uses fast-math.

Pixels are numbered tile by tile, and column by column inside a tile: a vertex is then touched by pixels that
follow each other closely.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dhr_refine.compiled import simd
from dhr_refine.compiled.jit import compiled

_GROUP = 16  # pixels embedded together
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # multiplicative hashing
# Rows and columns of a tile: its values stay in the first cache during one step of the mean field.
TILE_ROWS, TILE_COLUMNS = 8, 16
TILE = TILE_ROWS * TILE_COLUMNS


class Lattice(NamedTuple):
    """One kernel's lattice for one image of N pixels, as the compiled loops take it.

    Pixels know their vertices by 16 bits, counted from a base of the tile. A vertex whose number has fallen
    too far behind gets a copy with a new number: what is splatted into the copy is added to the original
    before the blur, and taken over from it afterwards.
    """

    corners: tuple[int, ...]  # d + 1 zeros: the number of a pixel's vertices as a type
    offsets: np.ndarray  # (N * (d + 1),) uint16: vertices of each pixel, less the base of its tile
    weights: np.ndarray  # (N * (d + 1),) float32: barycentric weights
    bases: np.ndarray  # (tiles,) int64: what the vertices of each tile are counted from
    frontiers: np.ndarray  # (tiles + 1,) int64: vertices up to which the tiles before touch any; last: all
    # Neighbours on each axis. In general, chains of vertices (see chain):
    chains: np.ndarray  # int32, one axis after the other, and one more entry
    starts: np.ndarray  # (d + 2,) int64: where each axis starts in ``chains``
    copies: np.ndarray  # (n, 2) int32: copy and original, which may be an older copy; the oldest first
    # Lattices of positions alone are planes instead, rows of cells some of which are no vertices:
    holes: np.ndarray  # int32: these cells
    hole_starts: np.ndarray  # (rows + 1,) int64: where each row starts in ``holes``; one entry: no plane


@compiled
def tiles_across(width):
    """Number of tiles in a row of them."""
    return -(-width // TILE_COLUMNS)


@compiled
def tile_box(tile, height, width):
    """First row, number of rows, first column and number of columns of a tile."""
    across = tiles_across(width)
    y, x = tile // across * TILE_ROWS, tile % across * TILE_COLUMNS
    return y, min(TILE_ROWS, height - y), x, min(TILE_COLUMNS, width - x)


@compiled
def tile_count(height, width):
    """Number of tiles of an image."""
    return -(-height // TILE_ROWS) * tiles_across(width)


# --- placing pixels -----------------------------------------------------------------------------------


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
def _place_tile(
    corners, tile, height, width, image, columns, rows, levels, strides, origin, weights, keys, scratch
):
    """Find the vertices of a tile's pixels: their keys (pixels, d + 1) and their weights."""
    d1 = len(corners)
    features, rest = scratch[: 8 * _GROUP], scratch[8 * _GROUP : 16 * _GROUP]
    rounded, rank = scratch[16 * _GROUP : 24 * _GROUP], scratch[24 * _GROUP : 32 * _GROUP]
    steps, shares = scratch[32 * _GROUP : 40 * _GROUP], scratch[40 * _GROUP :]
    y0, tall, x0, wide = tile_box(tile, height, width)
    first = (y0 * width + x0 * tall) * d1
    places = np.empty(_GROUP, np.int64)
    x, y = x0, y0
    for start in range(0, tall * wide, _GROUP):
        lanes = min(_GROUP, tall * wide - start)
        for lane in range(lanes):
            simd.poke(features, lane, simd.peek(columns, x))
            simd.poke(features, _GROUP + lane, simd.peek(rows, y))
            simd.poke(places, lane, y * width + x)
            y += 1
            if y == y0 + tall:
                x, y = x + 1, y0
        for c in range(d1 - 3):
            for lane in range(lanes):
                level = np.int64(simd.peek(image, c * height * width + simd.peek(places, lane)))
                simd.poke(features, (2 + c) * _GROUP + lane, simd.peek(levels, c * 256 + level))
        _simplices(features, rest, rounded, rank, steps, shares, corners)
        for lane in range(lanes):
            key = -origin
            for i in range(d1):
                key += np.int64(np.int32(simd.peek(rounded, i * _GROUP + lane))) * simd.peek(strides, i)
            at = (start + lane) * d1
            for r in range(d1):
                if r > 0:
                    axis = np.int64(np.int32(simd.peek(steps, r * _GROUP + lane)))
                    key -= simd.peek(strides, axis)
                simd.poke(weights, first + at + r, simd.peek(shares, r * _GROUP + lane))
                simd.poke(keys, at + r, key)
    return first, tall * wide


# --- lattices in general ------------------------------------------------------------------------------
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
def embed(
    corners, height, width, image, columns, rows, levels, strides, origin, phantoms, table, bits, id_bits,
    window, offsets, weights, bases, frontiers,
):  # fmt: skip
    """Place every pixel in the lattice: fill all of :class:`Lattice` up to the frontiers.

    Vertices are numbered by first touch; ``phantoms`` are keys of one more simplex, which exists without a
    pixel. A tile can tell ``window`` vertices apart. ``table`` holds zeros, 2**bits for each coset. Returns
    the copies, the table in use at the end and the logarithm of its size per coset.
    """
    d1 = len(corners)
    scratch = np.zeros(48 * _GROUP, np.float32)
    keys = np.zeros(TILE * d1, np.int64)
    used = np.zeros(d1, np.int64)
    id_mask = (np.int64(1) << id_bits) - 1
    count, copied = np.int64(0), np.int64(0)
    copies = np.empty((16, 2), np.int32)
    copied_keys, copied_cosets = np.empty(16, np.int64), np.empty(16, np.int64)
    for tile in range(tile_count(height, width)):
        # At most half full after this tile.
        while used.max() + TILE + 1 > np.int64(1) << (bits - 1):
            table = _grow(table, d1, bits, id_bits)
            bits += 1
        first, pixels = _place_tile(
            corners,
            tile,
            height,
            width,
            image,
            columns,
            rows,
            levels,
            strides,
            origin,
            weights,
            keys,
            scratch,
        )
        # Each of the tile's corners may add a number.
        base = max(np.int64(0), count + TILE * d1 - window)
        bases[tile], frontiers[tile] = base, count
        if copied + TILE * d1 > len(copies):
            copies = _enlarge(copies, TILE * d1)
            copied_keys, copied_cosets = _enlarge(copied_keys, TILE * d1), _enlarge(copied_cosets, TILE * d1)
        for ahead in range(0, pixels + _GROUP):
            if ahead < pixels:
                for r in range(d1):
                    simd.prefetch(table, _home(r, bits, simd.peek(keys, ahead * d1 + r)))
            if ahead >= _GROUP:
                at = (ahead - _GROUP) * d1
                for r in range(d1):
                    key = simd.peek(keys, at + r)
                    slot = _slot(table, _home(r, bits, key), bits, key, id_bits)
                    entry = simd.peek(table, slot)
                    known = entry & id_mask
                    if known <= base:
                        if known > 0:
                            copies[copied, 0], copies[copied, 1] = count, known - 1
                            copied_keys[copied], copied_cosets[copied] = key, r
                            copied += 1
                        else:
                            used[r] += 1
                        count += 1
                        known = count
                        simd.poke(table, slot, (key << id_bits) | count)
                    simd.poke(offsets, first + at + r, np.uint16(known - 1 - base))
    for r in range(phantoms.size):
        key = phantoms[r]
        slot = _slot(table, _home(r, bits, key), bits, key, id_bits)
        if table[slot] == 0:
            count += 1
            table[slot] = (key << id_bits) | count
    frontiers[bases.size] = count
    # Neighbours are those of the originals.
    for i in range(copied - 1, -1, -1):
        key = copied_keys[i]
        slot = _slot(table, _home(copied_cosets[i], bits, key), bits, key, id_bits)
        table[slot] = (key << id_bits) | np.int64(copies[i, 1] + 1)
    return copies[:copied].copy(), table, bits


@compiled
def _enlarge(array, room):
    """Copy an array to one of twice its length, and some."""
    larger = np.empty((2 * len(array) + room, *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger


@compiled
def follow(corners, coset, table, bits, id_bits, strides, following):
    """Find the neighbours of a coset's vertices on every axis: (vertices, d + 1), -1 where there is none."""
    d1 = len(corners)
    id_mask = (np.int64(1) << id_bits) - 1
    slot_mask = (np.int64(1) << bits) - 1
    target = 0 if coset == d1 - 1 else coset + 1
    first = np.int64(target) << bits
    beyond = strides.sum() if target == 0 else 0
    # In the order of the table: multiplicative hashing moves all neighbours on an axis by the same
    # distance, so the look-ups walk through the table, too.
    for slot in range(coset << bits, (coset + 1) << bits):
        entry = simd.peek(table, slot)
        if entry != 0:
            vertex = (entry & id_mask) - 1
            for axis in range(d1):
                key = (entry >> id_bits) + beyond - simd.peek(strides, axis)
                home = _home(target, bits, key)
                found = simd.peek(table, home)
                if found != 0 and (found >> id_bits) != key:
                    further = first | ((home + 1) & slot_mask)
                    found = simd.peek(table, _slot(table, further, bits, key, id_bits))
                simd.poke(following, vertex * d1 + axis, np.int32((found & id_mask) - 1))


@compiled
def chain(corners, axis, following):
    """Chain up neighbours on one axis: runs of linked vertices, the last of each run as ``~vertex``.

    Vertices without a neighbour keep their value on this axis and appear in no chain.
    """
    d1 = len(corners)
    count = following.size // d1
    after = np.empty(count, np.int32)
    preceded = np.zeros(count + 1, np.uint8)  # the first for all that no vertex follows
    for vertex in range(count):
        neighbour = simd.peek(following, vertex * d1 + axis)
        simd.poke(after, vertex, neighbour)
        simd.poke(preceded, np.int64(neighbour) + 1, np.uint8(1))
    heads = np.empty(count + 1, np.int32)
    found = 0
    for vertex in range(count):  # without a branch: which vertices start a chain cannot be foreseen
        simd.poke(heads, found, np.int32(vertex))
        alone = np.int64(simd.peek(preceded, vertex + 1) == 0)
        found += alone & np.int64(simd.peek(after, vertex) >= 0)
    chains = np.empty(count, np.int32)
    length = 0
    for i in range(found):
        vertex = np.int64(simd.peek(heads, i))
        neighbour = np.int64(simd.peek(after, vertex))
        while neighbour >= 0:
            simd.poke(chains, length, np.int32(vertex))
            length += 1
            vertex = neighbour
            neighbour = np.int64(simd.peek(after, vertex))
        simd.poke(chains, length, np.int32(~vertex))
        length += 1
    return chains[:length]


# --- planes -------------------------------------------------------------------------------------------


@compiled
def embed_plane(
    corners, height, width, columns, rows, strides, origin, phantoms, row_bits, length,
    offsets, weights, bases, frontiers,
):  # fmt: skip
    """Place every pixel in a plane, whose cells are in rows of a length; as :func:`embed`.

    A key is row << row_bits | column, where every second column belongs to the row. The last frontier, the
    number of cells, is given. Returns the cells that are no vertices, and where each row starts among them.
    """
    d1 = len(corners)
    scratch = np.zeros(48 * _GROUP, np.float32)
    keys = np.zeros(TILE * d1, np.int64)
    cells = frontiers[bases.size]
    taken = np.zeros(cells, np.uint8)
    column_mask = (np.int64(1) << row_bits) - 1
    none, colours = np.zeros(0, np.uint8), np.zeros((0, 256), np.float32)
    frontier = np.int64(0)
    for tile in range(tile_count(height, width)):
        first, pixels = _place_tile(
            corners,
            tile,
            height,
            width,
            none,
            columns,
            rows,
            colours,
            strides,
            origin,
            weights,
            keys,
            scratch,
        )
        base = cells
        frontiers[tile] = frontier
        for at in range(pixels * d1):
            key = simd.peek(keys, at)
            cell = (key >> row_bits) * length + ((key & column_mask) >> 1)
            simd.poke(keys, at, cell)
            simd.poke(taken, cell, np.uint8(1))
            base, frontier = min(base, cell), max(frontier, cell + 1)
        bases[tile] = base
        for at in range(pixels * d1):
            simd.poke(offsets, first + at, np.uint16(simd.peek(keys, at) - base))
    for key in phantoms:
        taken[(key >> row_bits) * length + ((key & column_mask) >> 1)] = 1
    holes = np.empty(cells, np.int32)
    hole_starts = np.zeros(cells // length + 1, np.int64)
    count = 0
    for row in range(cells // length):
        for cell in range(row * length, (row + 1) * length):
            simd.poke(holes, count, np.int32(cell))
            count += np.int64(simd.peek(taken, cell) == 0)
        hole_starts[row + 1] = count
    return holes[:count].copy(), hole_starts
