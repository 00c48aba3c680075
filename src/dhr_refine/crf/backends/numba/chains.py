"""Linking the vertices of a lattice: the neighbours of each, and runs of neighbours on one axis."""

from __future__ import annotations

import numpy as np

from dhr_refine.compiled import simd
from dhr_refine.compiled.jit import compiled

from .tables import find, holds_other, home, key_at, number_at


@compiled
def follow(corners, coset, table, bits, id_bits, words, strides, following):
    """Find the neighbours of a coset's vertices on every axis: (vertices, d + 1), -1 where there is none."""
    d1 = len(corners)
    slot_mask = (np.int64(1) << bits) - 1
    target = 0 if coset == d1 - 1 else coset + 1
    first = np.int64(target) << bits
    beyond = strides.sum() if target == 0 else 0
    # In the order of the table: multiplicative hashing moves all neighbours on an axis by the same
    # distance, so the look-ups walk through the table, too.
    for slot in range(coset << bits, (coset + 1) << bits):
        vertex = number_at(table, slot, id_bits, words) - 1
        if vertex >= 0:
            own = key_at(table, slot, id_bits, words)
            for axis in range(d1):
                key = own + beyond - simd.peek(strides, axis)
                found = home(target, bits, key)
                if holds_other(table, found, key, id_bits, words):
                    further = first | ((found + 1) & slot_mask)
                    found = find(table, further, bits, key, id_bits, words)
                neighbour = number_at(table, found, id_bits, words) - 1
                simd.poke(following, vertex * d1 + axis, np.int32(neighbour))


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
