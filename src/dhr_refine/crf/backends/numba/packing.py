"""What the passes over pixels read, tile by tile: logits, or values to filter.

Packed, they lie tile by tile; in a tile, blocks of as many classes as a vector has lanes follow each other,
and in them the pixels.
"""

from __future__ import annotations

import numpy as np

from dhr_refine.compiled import simd
from dhr_refine.compiled.jit import compiled

from ...unary import LARGEST_ENERGY, NOWHERE, SMALLEST
from .tiles import TILE, TILE_COLUMNS, tile_box, tile_count

_ACROSS = (0,) * TILE_COLUMNS
# What is packed: probabilities, whose logarithms are taken; energies, which are negated; values as they are.
PROBS, ENERGIES, VALUES = 0, 1, 2


@compiled
def _read(given, at, kind, tag):
    """Read numbers from a flat array, as what they are packed as."""
    numbers = simd.load(given, at, tag)
    if kind == VALUES:
        return numbers
    if kind == ENERGIES:
        least = simd.fill(np.float32(-LARGEST_ENERGY), tag)
        most = simd.fill(np.float32(LARGEST_ENERGY), tag)
        return simd.minimum(most, simd.maximum(least, simd.sub(simd.fill(np.float32(0), tag), numbers)))
    low, high = simd.fill(np.float32(SMALLEST), tag), simd.fill(np.float32(1), tag)
    return simd.log(simd.minimum(high, simd.maximum(low, numbers)))


@compiled
def _read_tile(given, kind, width, tile, c, result):
    """Read a class in a tile, row by row; for probabilities see unary.py."""
    pixels = given.shape[1]
    flat = given.reshape(given.size)
    y0, tall, x0, wide = tile_box(tile, pixels // width, width)
    if kind == PROBS and given[c, 0] < 0:
        result[:] = np.float32(NOWHERE)
        return
    for y in range(tall):
        pixel, at = c * pixels + (y0 + y) * width + x0, y * TILE_COLUMNS
        simd.prefetch(flat, pixel + pixels)  # the next class's
        if wide == TILE_COLUMNS:
            simd.store(result, at, _read(flat, pixel, kind, _ACROSS))
        else:
            for x in range(wide):
                simd.store(result, at + x, _read(flat, pixel + x, kind, (0,)))


@compiled
def pack(given, kind, width, packed, first, stop, blocks, tag):
    """Pack class-major numbers (K, N) of some tiles.

    Lanes beyond the classes are 0 for values; for logits they lie as far down as classes that take no part.
    """
    classes, pixels = given.shape
    lanes = len(tag)
    own = np.zeros(TILE, np.float32)
    for tile in range(first, stop):
        y0, tall, x0, wide = tile_box(tile, pixels // width, width)
        start = (y0 * width + x0 * tall) * lanes * len(blocks)
        for c in range(lanes * len(blocks)):
            if c < classes:
                _read_tile(given, kind, width, tile, c, own)
            elif c == classes:
                own[:] = np.float32(0) if kind == VALUES else np.float32(NOWHERE)
            for y in range(tall):
                at = start + (c // lanes * tall * wide + y) * lanes + c % lanes
                if wide == TILE_COLUMNS:
                    values = simd.load(own, y * TILE_COLUMNS, _ACROSS)
                    simd.store_every(packed, at, tall * lanes, values)
                else:
                    for x in range(wide):
                        simd.poke(packed, at + x * tall * lanes, own[y * TILE_COLUMNS + x])


@compiled
def unpack(packed, width, result, blocks, tag):
    """Write packed numbers class by class (K, N)."""
    classes, pixels = result.shape
    height, lanes = pixels // width, len(tag)
    for tile in range(tile_count(height, width)):
        y0, tall, x0, wide = tile_box(tile, height, width)
        start = (y0 * width + x0 * tall) * lanes * len(blocks)
        for c in range(classes):
            at = start + c // lanes * tall * wide * lanes + c % lanes
            write_out(packed, at, width, result, tile, c, tag)


@compiled
def write_out(packed, at, width, result, tile, c, tag):
    """Write a class in a tile, the first number of which is at ``at``, to the class-major result (K, N)."""
    pixels, lanes = result.shape[1], len(tag)
    flat = result.reshape(result.size)
    y0, tall, x0, wide = tile_box(tile, pixels // width, width)
    for y in range(tall):
        target = c * pixels + (y0 + y) * width + x0
        if wide == TILE_COLUMNS:
            simd.store(flat, target, simd.load_every(packed, at + y * lanes, tall * lanes, _ACROSS))
        else:
            for x in range(wide):
                simd.poke(flat, target + x, simd.peek(packed, at + (x * tall + y) * lanes))
