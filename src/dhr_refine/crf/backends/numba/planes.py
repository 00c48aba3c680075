"""Planes: lattices of positions whose vertices are cells of a grid, so that nothing has to be looked up."""

from __future__ import annotations

import numpy as np

from dhr_refine.compiled import simd
from dhr_refine.compiled.jit import compiled

from .simplices import place_tile, scratch_size
from .tiles import TILE, tile_count


@compiled
def embed_plane(
    corners, height, width, columns, rows, strides, origin, phantoms, row_bits, length,
    offsets, weights, bases, frontiers,
):  # fmt: skip
    """Place every pixel in a plane, whose cells are in rows of a length; as :func:`.vertices.embed`.

    A key is row << row_bits | column, where every second column belongs to the row. The last frontier, the
    number of cells, is given. Returns the cells that are no vertices, and where each row starts among them.
    """
    d1 = len(corners)
    scratch = np.zeros(scratch_size(corners), np.float32)
    keys = np.zeros(TILE * d1, np.int64)
    cells = frontiers[bases.size]
    taken = np.zeros(cells, np.uint8)
    none, colours = np.zeros(0, np.uint8), np.zeros((0, 256), np.float32)
    frontier = np.int64(0)
    for tile in range(tile_count(height, width)):
        first, pixels = place_tile(
            corners, tile, height, width, None, none, columns, rows, colours, strides, origin,
            weights, keys, scratch,
        )  # fmt: skip
        base = cells
        frontiers[tile] = frontier
        for at in range(pixels * d1):
            cell = _cell(simd.peek(keys, at), row_bits, length)
            simd.poke(keys, at, cell)
            simd.poke(taken, cell, np.uint8(1))
            base, frontier = min(base, cell), max(frontier, cell + 1)
        bases[tile] = base
        for at in range(pixels * d1):
            simd.poke(offsets, first + at, np.uint16(simd.peek(keys, at) - base))
    for key in phantoms:
        taken[_cell(key, row_bits, length)] = 1
    return _list_holes(taken, length)


@compiled
def _cell(key, row_bits, length):
    """Number of the cell with a key."""
    column = key & ((np.int64(1) << row_bits) - 1)
    return (key >> row_bits) * length + (column >> 1)


@compiled
def _list_holes(taken, length):
    """List the cells that are no vertices, and where each row starts among them."""
    holes = np.empty(taken.size, np.int32)
    hole_starts = np.zeros(taken.size // length + 1, np.int64)
    count = 0
    for row in range(taken.size // length):
        for cell in range(row * length, (row + 1) * length):
            simd.poke(holes, count, np.int32(cell))
            count += np.int64(simd.peek(taken, cell) == 0)
        hole_starts[row + 1] = count
    return holes[:count].copy(), hole_starts
