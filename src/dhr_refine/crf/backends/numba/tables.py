"""Hash tables of vertices: open addressing, one table for each coset (vertices of one remainder).

A slot holds a key and the number of its vertex, from 1 on, or zeros: key << id_bits | number in one word or,
where that is too short for both, the number and the key in two. ``words`` says which, as so many zeros.
"""

from __future__ import annotations

import numpy as np

from dhr_refine.compiled import simd
from dhr_refine.compiled.jit import compiled, inlined

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # multiplicative hashing


@compiled
def home(coset, bits, key):
    """Return the slot where the search for a key starts."""
    return (coset << bits) + np.int64((np.uint64(key) * _GOLDEN) >> np.uint64(64 - bits))


@inlined
def number_at(table, slot, id_bits, words):
    """Return the number in a slot, 0 where it is empty."""
    first = simd.peek(table, slot * len(words))
    return first & ((np.int64(1) << id_bits) - 1) if len(words) == 1 else first


@inlined
def key_at(table, slot, id_bits, words):
    """Return the key in a slot that is not empty."""
    last = simd.peek(table, (slot + 1) * len(words) - 1)
    return last >> id_bits if len(words) == 1 else last


@inlined
def put(table, slot, key, number, id_bits, words):
    """Fill a slot."""
    simd.poke(table, slot * len(words), key << id_bits | number if len(words) == 1 else number)
    if len(words) == 2:
        simd.poke(table, slot * 2 + 1, key)


@inlined
def holds_other(table, slot, key, id_bits, words):
    """Whether a slot is taken by another key."""
    return simd.peek(table, slot * len(words)) != 0 and key_at(table, slot, id_bits, words) != key


@compiled
def find(table, start, bits, key, id_bits, words):
    """Return the slot that holds ``key``, or the empty one where it belongs; ``start`` is its home."""
    mask = (1 << bits) - 1
    slot = start
    while holds_other(table, slot, key, id_bits, words):
        slot = (slot & ~mask) | ((slot + 1) & mask)
    return slot


@compiled
def grow(table, cosets, bits, id_bits, words):
    """Double every coset's table."""
    larger = np.zeros((cosets << (bits + 1)) * len(words), np.int64)
    for old in range(cosets << bits):
        number = number_at(table, old, id_bits, words)
        if number != 0:
            key = key_at(table, old, id_bits, words)
            slot = find(larger, home(old >> bits, bits + 1, key), bits + 1, key, id_bits, words)
            put(larger, slot, key, number, id_bits, words)
    return larger
