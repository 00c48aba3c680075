"""Hash tables of vertices: open addressing, one table for each coset (vertices of one remainder).

A slot holds key << id_bits | vertex + 1, or 0.
"""

from __future__ import annotations

import numpy as np

from dhr_refine.compiled import simd
from dhr_refine.compiled.jit import compiled

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # multiplicative hashing


@compiled
def home(coset, bits, key):
    """Return the slot where the search for a key starts."""
    return (coset << bits) + np.int64((np.uint64(key) * _GOLDEN) >> np.uint64(64 - bits))


@compiled
def find(table, start, bits, key, id_bits):
    """Return the slot that holds ``key``, or the empty one where it belongs; ``start`` is its home."""
    mask = (1 << bits) - 1
    slot = start
    entry = simd.peek(table, slot)
    while entry != 0 and (entry >> id_bits) != key:
        slot = (slot & ~mask) | ((slot + 1) & mask)
        entry = simd.peek(table, slot)
    return slot


@compiled
def grow(table, cosets, bits, id_bits):
    """Double every coset's table."""
    larger = np.zeros(cosets << (bits + 1), np.int64)
    for old in range(cosets << bits):
        entry = table[old]
        if entry != 0:
            key = entry >> id_bits
            start = home(old >> bits, bits + 1, key)
            larger[find(larger, start, bits + 1, key, id_bits)] = entry
    return larger
