"""The blur of a lattice: along chains, or over a plane; and copies of vertices, which take no part in it."""

from __future__ import annotations

import numpy as np

from dhr_refine.compiled import simd
from dhr_refine.compiled.jit import compiled

# Rows of a plane that a row depends on, on either side.
REACH = 4


@compiled
def blur_chains(values, base, chains, start, stop, tag):
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
def plane_rows(lattice, tag):
    """Rows of a plane, 0 where the lattice is none, and values of a row."""
    rows = lattice.hole_starts.size - 1
    return rows, lattice.frontiers[-1] // max(rows, 1) * len(tag)


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
        return around, (row - first + REACH) * length
    if row >= stop:
        return around, (row - stop + REACH) * length
    return values, base + row * length


@compiled
def copy_around(values, base, around, first, stop, rows, length):
    """Keep the rows next to a band, which other threads are about to blur."""
    for i in range(2 * REACH):
        row = first - REACH + i if i < REACH else stop - REACH + i
        if 0 <= row < rows:
            for j in range(length):
                simd.poke(around, i * length + j, simd.peek(values, base + row * length + j))


@compiled
def blur_plane(lattice, values, base, around, first, stop, tag):
    """Blur the rows of a band along all three axes in place, in one sweep.

    With row and column of a vertex counted so that both are odd or both are even, its neighbours are
    (row -+ 1, column -+ 1), (row -+ 1, column +- 1) and (row +- 2, column). Only every second column of
    a row exists and is kept.
    """
    lanes = len(tag)
    rows, length = plane_rows(lattice, tag)
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
def merge_copies(copies, values, base, tag):
    """Add what was splatted into copies to their originals."""
    lanes = len(tag)
    for i in range(len(copies) - 1, -1, -1):
        copy, original = base + np.int64(copies[i, 0]) * lanes, base + np.int64(copies[i, 1]) * lanes
        sum_ = simd.add(simd.load(values, original, tag), simd.load(values, copy, tag))
        simd.store(values, original, sum_)


@compiled
def update_copies(copies, values, base, tag):
    """Give copies the values of their originals."""
    lanes = len(tag)
    for i in range(len(copies)):
        copy, original = base + np.int64(copies[i, 0]) * lanes, base + np.int64(copies[i, 1]) * lanes
        simd.store(values, copy, simd.load(values, original, tag))
