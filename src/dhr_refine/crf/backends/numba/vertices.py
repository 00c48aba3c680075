"""Numbering the vertices that the pixels of an image touch, each by its first touch."""

from __future__ import annotations

import numpy as np

from dhr_refine.compiled import simd
from dhr_refine.compiled.jit import compiled

from .simplices import place_tile, scratch_size
from .tables import find, grow, home, number_at, put
from .tiles import TILE, tile_count

_AHEAD = 16  # pixels whose slots are asked for before they are looked up


@compiled
def embed(
    corners, height, width, given, image, columns, rows, levels, strides, origin, phantoms, table, bits,
    id_bits, words, window, offsets, weights, bases, frontiers,
):  # fmt: skip
    """Place every pixel in the lattice: fill all of :class:`Lattice` up to the frontiers.

    ``phantoms`` are keys of one more simplex, which exists without a pixel. A tile can tell ``window``
    vertices apart. ``table`` holds 2**bits empty slots for each coset. Returns the copies, the table in use
    at the end and the logarithm of its size per coset.
    """
    d1 = len(corners)
    scratch = np.zeros(scratch_size(corners), np.float32)
    keys = np.zeros(TILE * d1, np.int64)
    used = np.zeros(d1, np.int64)
    count, copied = np.int64(0), np.int64(0)
    copies = np.empty((16, 2), np.int32)
    copied_keys, copied_cosets = np.empty(16, np.int64), np.empty(16, np.int64)
    for tile in range(tile_count(height, width)):
        # At most half full after this tile.
        while used.max() + TILE + 1 > np.int64(1) << (bits - 1):
            table = grow(table, d1, bits, id_bits, words)
            bits += 1
        first, pixels = place_tile(
            corners, tile, height, width, given, image, columns, rows, levels, strides, origin,
            weights, keys, scratch,
        )  # fmt: skip
        # Each of the tile's corners may add a number.
        base = max(np.int64(0), count + TILE * d1 - window)
        bases[tile], frontiers[tile] = base, count
        if copied + TILE * d1 > len(copies):
            copies = _enlarge(copies, TILE * d1)
            copied_keys, copied_cosets = _enlarge(copied_keys, TILE * d1), _enlarge(copied_cosets, TILE * d1)
        count, copied = _number_tile(
            corners, keys, first, pixels, base, count, table, bits, id_bits, words, used,
            copies, copied_keys, copied_cosets, copied, offsets,
        )  # fmt: skip
    for r in range(phantoms.size):
        key = phantoms[r]
        slot = find(table, home(r, bits, key), bits, key, id_bits, words)
        if number_at(table, slot, id_bits, words) == 0:
            count += 1
            put(table, slot, key, count, id_bits, words)
    frontiers[bases.size] = count
    # Neighbours are those of the originals.
    for i in range(copied - 1, -1, -1):
        key = copied_keys[i]
        slot = find(table, home(copied_cosets[i], bits, key), bits, key, id_bits, words)
        put(table, slot, key, np.int64(copies[i, 1] + 1), id_bits, words)
    return copies[:copied].copy(), table, bits


@compiled
def _number_tile(
    corners, keys, first, pixels, base, count, table, bits, id_bits, words, used,
    copies, copied_keys, copied_cosets, copied, offsets,
):  # fmt: skip
    """Number the vertices of a tile, and those again that lie before its base; return both counts."""
    d1 = len(corners)
    for ahead in range(0, pixels + _AHEAD):
        if ahead < pixels:
            for r in range(d1):
                simd.prefetch(table, home(r, bits, simd.peek(keys, ahead * d1 + r)) * len(words))
        if ahead >= _AHEAD:
            at = (ahead - _AHEAD) * d1
            for r in range(d1):
                key = simd.peek(keys, at + r)
                slot = find(table, home(r, bits, key), bits, key, id_bits, words)
                known = number_at(table, slot, id_bits, words)
                if known <= base:
                    if known > 0:
                        copies[copied, 0], copies[copied, 1] = count, known - 1
                        copied_keys[copied], copied_cosets[copied] = key, r
                        copied += 1
                    else:
                        used[r] += 1
                    count += 1
                    known = count
                    put(table, slot, key, count, id_bits, words)
                simd.poke(offsets, first + at + r, np.uint16(known - 1 - base))
    return count, copied


@compiled
def _enlarge(array, room):
    """Copy an array to one of twice its length, and some."""
    larger = np.empty((2 * len(array) + room, *array.shape[1:]), array.dtype)
    larger[: len(array)] = array
    return larger
