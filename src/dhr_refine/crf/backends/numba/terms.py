"""Mean field with any terms, of which solve.py has the usual pair, and filters of any lattice.

The number of threads is ``torch.get_num_threads()``, or what the caller says.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...geometry import Geometry
from ...terms import Normalization, Term, around
from .filtering import filter_block, mix, softmax
from .lattice import NumbaKernel, build
from .memory import Scratch
from .packing import ENERGIES, PROBS, VALUES, pack, unpack
from .passes import block_size
from .solve import layout, solve_pair, useful_threads
from .threads import on_threads
from .tiles import tile_count

_ONES = np.zeros(0, np.float32)
# Vertices of a pixel with five features, position and three channels.
_RGB = 6
# Channels of one filter: those of a vector.
_CHANNELS = 16
# Shorter vectors would save little, and each length is compiled for every number of features.
_LANES = 4


class _Field(NamedTuple):
    """How the channels of all pixels of an image are packed."""

    size: tuple[int, int]
    lanes: int
    chunks: int

    @classmethod
    def of(cls, channels: int, size: tuple[int, int]) -> _Field:
        lanes, chunks = layout(channels)
        return cls(size, max(lanes, _LANES), chunks)

    @property
    def part(self) -> tuple[int, type]:
        """Length and type of a packed array: the loops read up to a vector beyond its end."""
        return self.size[0] * self.size[1] * self.lanes * self.chunks + 16, np.float32

    @property
    def tags(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Number of blocks, and of lanes, as types."""
        return (0,) * self.chunks, (0,) * self.lanes

    def pack(self, given: np.ndarray, kind: int, packed: np.ndarray) -> None:
        pack(given, kind, self.size[1], packed, 0, tile_count(*self.size), *self.tags)

    def unpack(self, packed: np.ndarray, result: np.ndarray) -> None:
        unpack(packed, self.size[1], result, *self.tags)


class _Ready(NamedTuple):
    """A filter as the compiled loops take it, and what follows it."""

    kernel: NumbaKernel
    before: np.ndarray  # (N,) weights of the pixels before and after the filter; empty: ones
    after: np.ndarray
    gains: np.ndarray  # of each lane
    matrix: np.ndarray | None  # of all pairs of lanes, flat; None where no classes mix
    backwards: bool

    @classmethod
    def of(cls, term: Term, field: _Field, *, backwards: bool = False) -> _Ready:
        """``backwards`` is the transpose of the filter; messages are what is subtracted from energies."""
        kernel, compat = term.kernel, np.asarray(term.compat, np.float32)
        lanes = field.lanes * field.chunks
        gains, matrix = np.zeros(lanes, np.float32), None
        if compat.ndim == 0:
            gains[:] = compat * kernel.gain
        elif compat.ndim == 1:
            gains[: len(compat)] = -compat * kernel.gain
        else:
            gains[:] = kernel.gain
            mixed = np.zeros((lanes, lanes), np.float32)
            mixed[: len(compat), : len(compat)] = -compat.T
            matrix = mixed.reshape(-1)
        powers = around(term.normalization, backwards=backwards)
        before, after = (_power(kernel.scale, power) for power in powers)
        return cls(kernel, before, after, gains, matrix, backwards)

    def filter(
        self, field: _Field, chunk: int, packed: np.ndarray, out: np.ndarray, scratch: Scratch
    ) -> None:
        """Filter one block of channels, and add it to what is there."""
        _, tag = field.tags
        (values,) = scratch.take("values", (block_size(self.kernel.vertices, tag) + 16, np.float32))
        filter_block(
            self.kernel.lattice, *field.size, packed, self.before, self.after, self.gains, self.backwards,
            values, out, chunk, field.chunks, tag,
        )  # fmt: skip


def _power(scale: np.ndarray, power: int) -> np.ndarray:
    return _ONES if power == 0 else scale if power == 1 else 1 / scale


def filter_values(
    kernels: Sequence[NumbaKernel],
    values: np.ndarray,
    normalization: Normalization,
    *,
    backwards: bool,
    threads: int,
) -> np.ndarray:
    """Filter values (B, C, N); ``backwards`` is the transpose of the filter."""
    result = np.empty(values.shape, np.float32)

    def work(job: tuple[int, int], scratch: Scratch) -> None:
        index, first = job
        kernel = kernels[index]
        own = np.ascontiguousarray(values[index, first : first + _CHANNELS])
        field = _Field.of(len(own), kernel.size)
        packed, out = scratch.take("filter", field.part, field.part)
        field.pack(own, VALUES, packed)
        out.fill(0)
        ready = _Ready.of(Term(kernel, normalization, 1.0), field, backwards=backwards)
        ready.filter(field, 0, packed, out, scratch)
        field.unpack(out, result[index, first : first + _CHANNELS])

    on_threads(work, list(product(range(len(values)), range(0, values.shape[1], _CHANNELS))), threads)
    return result


def mean_field(
    bilateral: Sequence[NumbaKernel], gaussian: NumbaKernel, probs: Tensor, **options: Any
) -> Tensor:
    """Run mean field inference from probabilities (B, K, H, W) (see unary.py)."""
    return _infer(lambda index, scratch, threads: bilateral[index], gaussian, probs, **options)


def build_and_infer(
    geometry: Geometry, images: Tensor, gaussian: NumbaKernel, probs: Tensor, **options: Any
) -> Tensor:
    """Do so with lattices that are not kept: each is gone before the thread turns to the next image."""
    arrays = images.numpy()
    return _infer(
        lambda index, scratch, threads: build(geometry, arrays[index], threads, scratch),
        gaussian,
        probs,
        **options,
    )


def _infer(
    find: Callable[[int, Scratch, int], NumbaKernel],
    gaussian: NumbaKernel,
    probs: Tensor,
    *,
    iterations: int,
    compat: float,
    gauss_compat: float,
) -> Tensor:
    """Mean field of a batch: one image on a thread, or several threads inside one image."""
    batch, classes, height, width = probs.shape
    given = np.ascontiguousarray(probs.resolve_neg().numpy()).reshape(batch, classes, -1)
    out = np.empty(given.shape, np.float32)  # by NumPy, which asks the system for large pages
    threads = torch.get_num_threads()
    inner = 1 if batch >= threads else useful_threads(threads, height * width)

    def run(index: int, scratch: Scratch) -> None:
        kernel = find(index, scratch, inner)
        terms = Term(kernel, "symmetric", compat), Term(gaussian, "symmetric", gauss_compat)
        _solve((given[index], PROBS), terms, out[index], scratch, iterations=iterations, threads=inner)

    on_threads(run, range(batch), threads if inner == 1 else 1)
    return torch.from_numpy(out).view(probs.shape)


def mean_field_terms(
    energies: np.ndarray, terms: Sequence[Term], *, iterations: int, start: np.ndarray | None, threads: int
) -> np.ndarray:
    """Run mean field inference from the energies (K, N) of one image, or go on from ``start`` (K, N)."""
    result = np.empty(energies.shape, np.float32)
    with Scratch.lend() as scratch:
        _solve(
            (energies, ENERGIES),
            terms,
            result,
            scratch,
            iterations=iterations,
            threads=threads,
            start=start,
        )
    return result


def _solve(
    given: tuple[np.ndarray, int],
    terms: Sequence[Term],
    result: np.ndarray,
    scratch: Scratch,
    *,
    iterations: int,
    threads: int,
    start: np.ndarray | None = None,
) -> None:
    """Fill the result of one image from what is given (see packing.py), both (K, N)."""
    pair = sorted(terms, key=lambda term: -len(term.kernel.lattice.corners))
    usual = [len(term.kernel.lattice.corners) for term in pair] == [_RGB, 3]
    if usual and start is None and all(term.plain for term in pair):
        solve_pair(
            (pair[0].kernel, pair[1].kernel),
            (float(pair[0].compat), float(pair[1].compat)),
            given,
            result,
            scratch,
            iterations=iterations,
            threads=useful_threads(threads, result.shape[1]),
        )
        return
    size = terms[0].kernel.size if terms else (1, result.shape[1])
    field = _Field.of(len(result), size)
    ready = [_Ready.of(term, field) for term in terms]
    logits, total, probs, message = scratch.take("terms", *[field.part] * 4)
    field.pack(*given, logits)
    if start is None:
        softmax(logits, *size, probs, *field.tags)
    else:
        field.pack(start, VALUES, probs)
    for _ in range(iterations):
        np.copyto(total, logits)
        _add_messages(ready, field, probs, message, total, threads)
        softmax(total, *size, probs, *field.tags)
    field.unpack(probs, result)


def pairwise(probs: np.ndarray, terms: Sequence[Term], *, threads: int) -> np.ndarray:
    """Energies (K, N) that the terms add for probabilities (K, N)."""
    result = np.zeros(probs.shape, np.float32)
    if not terms:
        return result
    field = _Field.of(len(probs), terms[0].kernel.size)
    with Scratch.lend() as scratch:
        total, packed, message = scratch.take("terms", *[field.part] * 3)
        field.pack(probs, VALUES, packed)
        total.fill(0)
        _add_messages([_Ready.of(term, field) for term in terms], field, packed, message, total, threads)
        field.unpack(total, result)
    return np.negative(result, out=result)


def _add_messages(
    terms: Sequence[_Ready],
    field: _Field,
    probs: np.ndarray,
    message: np.ndarray,
    total: np.ndarray,
    threads: int,
) -> None:
    """Add the messages of all terms to logits; ``message`` is working memory."""
    for term in terms:
        # A matrix needs the messages of all classes first.
        into = total if term.matrix is None else message
        if into is message:
            message.fill(0)

        def work(chunk: int, scratch: Scratch, own: _Ready = term, to: np.ndarray = into) -> None:
            own.filter(field, chunk, probs, to, scratch)

        on_threads(work, range(field.chunks), threads)
        if term.matrix is not None:
            mix(message, term.matrix, *field.size, total, field.chunks, field.tags[1])
