"""The iterations of the mean field: passes over the pixels, and the blur between them.

Where several threads work on one image, all run :func:`mean_field` at the same time and meet at a barrier.
"""

from __future__ import annotations

import numpy as np

from dhr_refine.compiled import simd
from dhr_refine.compiled.barrier import is_open, wait
from dhr_refine.compiled.jit import compiled, inlined

from .blur import (
    REACH,
    blur_chains,
    blur_plane,
    copy_around,
    merge_copies,
    plane_rows,
    update_copies,
)
from .packing import pack
from .passes import block_size, run_pass


@compiled
def mean_field(
    lattice5, cuts5, values5, stride5, gain5, lattice2, cuts2, values2, stride2, gain2,
    given, kind, unary, result, width, iterations, spans, thread, arrivals, blocks, tag,
):  # fmt: skip
    """One thread's part of the mean field of an image; all threads run this at the same time.

    Each splats its pixels into values of its own, which are then added up. ``given`` (K, N) are probabilities
    or energies, as ``kind`` says (see packing.py). ``values5`` and ``values2`` hold two sets of every
    thread's values, ``stride`` apart: one is read while the other is written.
    """
    threads = len(spans) - 1
    size5, size2 = block_size(lattice5.frontiers[-1], tag), block_size(lattice2.frontiers[-1], tag)
    _, length = plane_rows(lattice2, tag)
    around = np.zeros(2 * REACH * length if threads > 1 else 0, np.float32)
    copied = lattice5.copies.size + lattice2.copies.size > 0
    first, stop = spans[thread], spans[thread + 1]
    pack(given, kind, width, unary, first, stop, blocks, tag)
    meeting = 0
    for iteration in range(iterations + 1):
        if is_open(arrivals):  # another thread has failed, or the caller was interrupted
            return
        slicing, splatting = iteration > 0, iteration < iterations
        # The last thread's values are those of all.
        read = iteration % 2 * threads + threads - 1
        written = (iteration + 1) % 2 * threads
        run_pass(
            lattice5, values5[read * stride5 :], values5[(written + thread) * stride5 :], gain5,
            lattice2, values2[read * stride2 :], values2[(written + thread) * stride2 :], gain2,
            unary, result, width, first, stop, slicing, splatting, blocks, tag,
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
            meeting = _blur(
                lattice5, cuts5, values5, base5, lattice2, cuts2, values2, base2, around,
                thread, threads, arrivals, meeting, tag,
            )  # fmt: skip
            base5, base2 = base5 + size5, base2 + size2
        if copied:
            meeting += 1
            wait(arrivals, threads, meeting)


@inlined
def _blur(
    lattice5, cuts5, values5, base5, lattice2, cuts2, values2, base2, around,
    thread, threads, arrivals, meeting, tag,
):  # fmt: skip
    """One thread's part of the blur of one block of channels; returns the number of the last meeting.

    Where there are copies, other threads find them up to date after one more meeting.
    """
    rows, length = plane_rows(lattice2, tag)
    first_row, stop_row = rows * thread // threads, rows * (thread + 1) // threads
    if thread == 0:
        merge_copies(lattice5.copies, values5, base5, tag)
        merge_copies(lattice2.copies, values2, base2, tag)
    if lattice5.copies.size + lattice2.copies.size > 0:
        meeting += 1
        wait(arrivals, threads, meeting)
    if rows and threads > 1:
        copy_around(values2, base2, around, first_row, stop_row, rows, length)
        meeting += 1
        wait(arrivals, threads, meeting)
    if rows:
        blur_plane(lattice2, values2, base2, around, first_row, stop_row, tag)
    for axis in range(6):
        begin, end = cuts5[axis, thread], cuts5[axis, thread + 1]
        blur_chains(values5, base5, lattice5.chains, begin, end, tag)
        if not rows and axis < 3:
            begin, end = cuts2[axis, thread], cuts2[axis, thread + 1]
            blur_chains(values2, base2, lattice2.chains, begin, end, tag)
        meeting += 1
        wait(arrivals, threads, meeting)
    if thread == 0:
        update_copies(lattice5.copies, values5, base5, tag)
        update_copies(lattice2.copies, values2, base2, tag)
    return meeting


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
def _add_up(values, target, source, start, stop):
    """Add a range of values to another one, ``target`` and ``source`` being where the two begin."""
    wide = (0,) * 16
    whole = start + (stop - start) // 16 * 16
    for at in range(start, whole, 16):
        sum_ = simd.add(simd.load(values, target + at, wide), simd.load(values, source + at, wide))
        simd.store(values, target + at, sum_)
    for at in range(whole, stop):
        simd.poke(values, target + at, simd.peek(values, target + at) + simd.peek(values, source + at))
