"""Where the arrays of the compiled loops lie: several in one block of memory, which is used again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import numpy as np

from dhr_refine.compiled.memory import aligned

# Bytes of a cache line, at which arrays start.
_LINE = 64
# Working memory of all threads up to this size is kept for later calls: fresh pages for 21 classes at
# 512 x 512 (150 MB) can take half as long as the call.
_SPARE_BYTES = 2**28


class Scratch:
    """Working memory that one thread uses for one image after another: fresh pages are dear."""

    _spare: ClassVar[list[Scratch]] = []

    def __init__(self) -> None:
        """Start with none."""
        self._blocks: dict[str, np.ndarray] = {}
        # Logarithm of the slots that a coset's table of the image before should have had.
        self.table_bits: int | None = None

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        return sum(block.nbytes for block in self._blocks.values())

    def take(self, name: str, *parts: tuple[int, type]) -> list[np.ndarray]:
        """Return flat arrays of given lengths and types, with anything in them, in one block of memory."""
        room = _room(parts)
        block = self._blocks.get(name)
        if block is None or block.size < room:
            block = self._blocks[name] = aligned(room, _LINE)
        return _carve(block, parts)

    @classmethod
    @contextmanager
    def lend(cls) -> Iterator[Scratch]:
        """Take what an earlier call has left, and leave it to later ones unless it would be too much."""
        try:
            scratch = cls._spare.pop()
        except IndexError:
            scratch = cls()
        yield scratch
        if sum(own.nbytes for own in [scratch, *cls._spare]) <= _SPARE_BYTES:
            cls._spare.append(scratch)


def one_block(parts: Sequence[tuple[int, type]]) -> list[np.ndarray]:
    """Return flat arrays of given lengths and types, with anything in them, in one block of fresh memory."""
    return _carve(aligned(_room(parts), _LINE), parts)


def _padded(size: int, kind: type) -> int:
    """Bytes of an array with room for a vector that starts in it and reaches beyond, in whole cache lines."""
    return -(-(size * np.dtype(kind).itemsize + 64) // _LINE) * _LINE


def _room(parts: Sequence[tuple[int, type]]) -> int:
    """Bytes of a block that :func:`_carve` can cut into these arrays."""
    return sum(_padded(*part) for part in parts)


def _carve(block: np.ndarray, parts: Sequence[tuple[int, type]]) -> list[np.ndarray]:
    """Cut a block of bytes, itself on a cache line, into arrays that are, so that no vector straddles two.

    In one block, because the system has large pages for large blocks only, and with small ones the machine
    spends a tenth of its time on looking up where they are.
    """
    at = 0
    arrays = []
    for size, kind in parts:
        arrays.append(block[at : at + size * np.dtype(kind).itemsize].view(kind))
        at += _padded(size, kind)
    return arrays
