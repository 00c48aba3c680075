"""Mean field with any terms, of which solve.py has the usual pair, and filters of any lattice."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...geometry import Geometry
from ...terms import Normalization, Term, around
from . import solve
from .filtering import filter_block, mix, softmax
from .lattice import NumbaKernel, build
from .memory import Scratch
from .packing import ENERGIES, PROBS, VALUES, pack, unpack
from .passes import block_size
from .solve import layout
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

    def padded(self, gains: np.ndarray, kernel_gain: float) -> np.ndarray:
        """A gain for each lane."""
        each = np.zeros(self.lanes * self.chunks, np.float32)
        each[: np.size(gains) if np.size(gains) > 1 else None] = gains * kernel_gain
        return each


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
        target = out, field.padded(np.ones(1, np.float32), kernel.gain)
        _filter(kernel, normalization, field, 0, packed, target, scratch, backwards=backwards)
        field.unpack(out, result[index, first : first + _CHANNELS])

    on_threads(work, list(product(range(len(values)), range(0, values.shape[1], _CHANNELS))), threads)
    return result


def mean_field(
    bilateral: Sequence[NumbaKernel], gaussian: NumbaKernel, probs: Tensor, **options: Any
) -> Tensor:
    """Run mean field inference from probabilities (B, K, H, W) (see unary.py)."""
    if all(len(kernel.lattice.corners) == _RGB for kernel in bilateral):
        return solve.mean_field(bilateral, gaussian, probs, **options)
    return _infer(lambda index, scratch, threads: bilateral[index], gaussian, probs, **options)


def build_and_infer(
    geometry: Geometry, images: Tensor, gaussian: NumbaKernel, probs: Tensor, **options: Any
) -> Tensor:
    """Do so with lattices that are not kept: each is gone before the thread turns to the next image."""
    if geometry.dimension + 1 == _RGB:
        return solve.build_and_infer(geometry, images, gaussian, probs, **options)
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
    """Mean field of images whose bilateral kernel has another number of features than the usual one."""
    given = np.ascontiguousarray(probs.resolve_neg().numpy())
    given = given.reshape(*given.shape[:2], -1)
    threads = torch.get_num_threads()
    inner = 1 if len(given) >= threads else threads

    def run(index: int, scratch: Scratch) -> np.ndarray:
        kernel = find(index, scratch, inner)
        terms = Term(kernel, "symmetric", compat), Term(gaussian, "symmetric", gauss_compat)
        return _mean_field((given[index], PROBS), terms, iterations, None, inner)

    results = on_threads(run, range(len(given)), threads if inner == 1 else 1)
    return torch.from_numpy(np.stack(results)).view(probs.shape)


def mean_field_terms(
    energies: np.ndarray, terms: Sequence[Term], *, iterations: int, start: np.ndarray | None, threads: int
) -> np.ndarray:
    """Run mean field inference from the energies (K, N) of one image, or go on from ``start`` (K, N)."""
    pair = sorted(terms, key=lambda term: -len(term.kernel.lattice.corners))
    usual = [len(term.kernel.lattice.corners) for term in pair] == [_RGB, 3]
    if usual and start is None and all(term.plain for term in pair):
        kernels = pair[0].kernel, pair[1].kernel
        compats = float(pair[0].compat), float(pair[1].compat)
        return solve.solve_energies(kernels, compats, energies, iterations=iterations, threads=threads)
    return _mean_field((energies, ENERGIES), terms, iterations, start, threads)


def _mean_field(
    given: tuple[np.ndarray, int],
    terms: Sequence[Term],
    iterations: int,
    start: np.ndarray | None,
    threads: int,
) -> np.ndarray:
    """Mean field from what is given (K, N) (see packing.py)."""
    classes, pixels = given[0].shape
    size = terms[0].kernel.size if terms else (1, pixels)
    field = _Field.of(classes, size)
    result = np.empty((classes, pixels), np.float32)
    with Scratch.lend() as scratch:
        logits, total, probs, message = scratch.take("terms", *[field.part] * 4)
        field.pack(*given, logits)
        if start is None:
            softmax(logits, *size, probs, *field.tags)
        else:
            field.pack(start, VALUES, probs)
        for _ in range(iterations):
            np.copyto(total, logits)
            _add_messages(terms, field, probs, message, total, threads)
            softmax(total, *size, probs, *field.tags)
        field.unpack(probs, result)
    return result


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
        _add_messages(terms, field, packed, message, total, threads)
        field.unpack(total, result)
    return np.negative(result, out=result)


def _add_messages(
    terms: Sequence[Term],
    field: _Field,
    probs: np.ndarray,
    message: np.ndarray,
    total: np.ndarray,
    threads: int,
) -> None:
    """Add the messages of all terms to logits; ``message`` is working memory."""
    for term in terms:
        compat = np.asarray(term.compat, np.float32)
        gains = (compat, -compat, np.ones(1, np.float32))[compat.ndim]
        # A matrix needs the messages of all classes first.
        into = message if compat.ndim == 2 else total
        if compat.ndim == 2:
            message.fill(0)
        _filter_all(term, field, probs, (into, field.padded(gains, term.kernel.gain)), threads)
        if compat.ndim == 2:
            weights = np.zeros((field.lanes * field.chunks,) * 2, np.float32)
            weights[: len(compat), : len(compat)] = -compat.T
            mix(message, weights.reshape(-1), *field.size, total, field.chunks, field.tags[1])


def _filter_all(
    term: Term, field: _Field, probs: np.ndarray, target: tuple[np.ndarray, np.ndarray], threads: int
) -> None:
    """Filter all blocks of channels, each on a thread."""

    def work(chunk: int, scratch: Scratch) -> None:
        _filter(term.kernel, term.normalization, field, chunk, probs, target, scratch)

    on_threads(work, range(field.chunks), threads)


def _filter(
    kernel: NumbaKernel,
    normalization: Normalization,
    field: _Field,
    chunk: int,
    packed: np.ndarray,
    target: tuple[np.ndarray, np.ndarray],
    scratch: Scratch,
    *,
    backwards: bool = False,
) -> None:
    """Filter one block of channels, and add it to the target times the target's gains."""
    _, tag = field.tags
    (values,) = scratch.take("values", (block_size(kernel.vertices, tag) + 16, np.float32))
    before, after = (_power(kernel.scale, power) for power in around(normalization, backwards=backwards))
    out, gains = target
    filter_block(
        kernel.lattice,
        *field.size,
        packed,
        before,
        after,
        gains,
        backwards,
        values,
        out,
        chunk,
        field.chunks,
        tag,
    )


def _power(scale: np.ndarray, power: int) -> np.ndarray:
    return _ONES if power == 0 else scale if power == 1 else 1 / scale
