"""Compiled lean Newton solver of the transport problems, for float32 on the CPU.

The torch loop of transport.py spends most of its time on launching small operations and on memory; here a
batch is solved in one call, and exponentials are taken once per score. Same algorithm, same results to
rounding, for problems whose kernel exp(score / reg) float32 can hold.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import torch
from numba.core import cgutils, types
from torch import Tensor

from ..compiled import simd
from ..compiled.jit import compiled
from ..compiled.memory import aligned
from ..compiled.threads import for_each
from .problem import LEAST_ASKED

_LANES = (0,) * 16
_TILE = 256  # pixels whose shares stay in the first-level cache; summed in float32, tiles in float64
_UNROLLED = 8  # most classes whose sums stay in registers
_LARGE_PAGE = 2**21  # bytes


def solve_images(
    scores: Tensor,
    sharpness: float,
    slack: float,
    pixels: Tensor | None,
    classes: Tensor,
    sample: Tensor | None,
    *,
    middle: float,
    scale: float,
    tol: float,
    sample_tol: float,
    max_iter: int,
    max_step: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, bool]:
    """Potentials (B, K), shares (B, K, N), residual (B,), passes (B,) of a batch; whether all are finished.

    ``middle`` lies half-way between the smallest and the largest score. ``sample`` holds the pixel indices of
    the first solve, None for none. The shares come times ``scale``. A residual above ``tol`` says that an
    image is not finished. One without a class gets zeros throughout. The images are spread over threads.
    """
    batch, count, size = scores.shape
    # The kernel is a power of two: that of the middle score is 1.
    slope = sharpness * math.log2(math.e)
    shares, potentials = _empty((batch, count, size)), np.empty((batch, count), np.float32)
    residual, passes = np.empty(batch, np.float32), np.empty(batch, np.int64)
    arguments = (
        _array(scores),
        np.float32(slope),
        np.float32(-middle * slope),
        float(slack),
        np.zeros((batch, 0), np.float32) if pixels is None else _array(pixels),
        _array(classes),
        np.zeros(0, np.int64) if sample is None else sample.numpy(),
        np.float32(scale),
        shares,
        potentials,
        residual,
        passes,
        tol,
        sample_tol,
        max_iter,
        max_step,
    )
    workers = min(torch.get_num_threads(), batch)
    spans = [(batch * i // workers, batch * (i + 1) // workers) for i in range(workers)]
    finished = all(for_each(lambda span, _: _solve_range(*span, *arguments), spans, workers))
    found = [torch.from_numpy(array) for array in (potentials, shares, residual, passes)]
    return found[0], found[1], found[2], found[3], finished


def _empty(shape: tuple[int, ...]) -> np.ndarray:
    """An array with anything in it, from the start of a large page on where it fills some.

    NumPy asks the system for large pages, but gets them between their boundaries only; small fresh ones can
    take as long as the solve.
    """
    size = 4 * math.prod(shape)
    if size < 2 * _LARGE_PAGE:
        return np.empty(shape, np.float32)
    return aligned(size, _LARGE_PAGE).view(np.float32).reshape(shape)


def _array(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.detach().resolve_neg().numpy(), np.float32)


def extent(scores: Tensor) -> tuple[float, float]:
    """Smallest and largest score, NaN where one is NaN or infinite."""
    return _extent(_array(scores).reshape(-1))


@compiled
def _extent(scores):
    tag = _LANES
    lanes = len(tag)
    zero, nothing = np.float32(0), simd.fill(np.float32(0), tag)
    low, high = simd.fill(np.float32(np.inf), tag), simd.fill(np.float32(-np.inf), tag)
    odd = nothing  # 0 * NaN and 0 * infinity are NaN and stay so; a maximum would forget them
    whole = scores.size - scores.size % (4 * lanes)
    # Four at a time, or each operation would wait for the one before.
    for at in range(0, whole, 4 * lanes):
        a, b = simd.load(scores, at, tag), simd.load(scores, at + lanes, tag)
        c, d = simd.load(scores, at + 2 * lanes, tag), simd.load(scores, at + 3 * lanes, tag)
        high = simd.maximum(high, simd.maximum(simd.maximum(a, b), simd.maximum(c, d)))
        low = simd.minimum(low, simd.minimum(simd.minimum(a, b), simd.minimum(c, d)))
        mixed = simd.axpy(zero, a, simd.axpy(zero, b, simd.axpy(zero, c, simd.mul(d, nothing))))
        odd = simd.add(odd, mixed)
    ends = np.empty(2 * lanes, np.float32)
    simd.store(ends, 0, low)
    simd.store(ends, lanes, high)
    smallest, largest, strange = np.inf, -np.inf, simd.total(odd)
    for i in range(lanes):
        smallest, largest = min(smallest, ends[i]), max(largest, ends[lanes + i])
    for at in range(whole, scores.size):
        smallest, largest = min(smallest, scores[at]), max(largest, scores[at])
        strange += scores[at] * zero
    return (smallest, largest) if strange == 0 else (np.nan, np.nan)


@compiled
def _solve_range(
    begin,
    end,
    scores,
    slope,
    offset,
    slack,
    weights,
    masses,
    sample,
    scale,
    shares,
    potentials,
    residual,
    passes,
    tol,
    sample_tol,
    max_iter,
    max_step,
):
    """Solve the images from ``begin`` to ``end``; tells whether all of them are finished."""
    count = masses.shape[1]
    few = sample.size
    part, part_shares = np.empty(count * few, np.float32), np.empty(count * few, np.float32)
    part_weights = np.empty(few if weights.size else 0, np.float32)
    g, m, asked, factors = np.empty(count), np.empty(count), np.empty(count), np.empty(count, np.float32)
    moments, matrix = np.empty((count, count)), np.empty((count, count + 1))
    one = np.float32(1)
    finished = True
    for b in range(begin, end):
        own, own_weights, own_masses = scores[b].reshape(-1), weights[b], masses[b]
        own_shares = shares[b].reshape(-1)
        if not _start(g, own_masses, slack, asked):
            own_shares[:] = 0
            potentials[b], residual[b], passes[b] = 0, 0, 0
            continue
        if few:
            _gather(own, own_weights, sample, part, part_weights)
            _factors(g, factors)
            for number in range(max_iter):
                _pass(part, slope, offset, number == 0, factors, part_weights, one, part_shares, m)
                _moments(part_shares, part_weights, one, moments)
                if _residual(m, asked, slack) <= sample_tol:
                    break
                _step(g, m, own_masses, slack, asked, moments, matrix, max_step, factors)
        _factors(g, factors)
        error = np.inf
        for number in range(max_iter):
            _pass(own, slope, offset, number == 0, factors, own_weights, scale, own_shares, m)
            error, passes[b] = _residual(m, asked, slack), number + 1
            if error <= tol or number + 1 == max_iter:
                break
            if not few:
                _moments(own_shares, own_weights, scale, moments)
            _step(g, m, own_masses, slack, asked, moments, matrix, max_step, factors)
        residual[b] = error
        finished &= error <= tol
        for k in range(count):
            potentials[b, k] = g[k]
    return finished


@compiled
def _start(g, masses, slack, asked):
    """First potentials, the log masses, and what they ask for; tells whether any class takes part."""
    active = False
    for k in range(masses.size):
        # A class without a part gets a potential that no score can make up for.
        g[k] = np.log(masses[k]) / (1 + slack) if masses[k] > 0 else -1e30
        active |= masses[k] > 0
        asked[k] = masses[k]
    if active and slack > 0:
        _ask(g, masses, slack, asked)
    return active


@compiled
def _ask(g, masses, slack, asked):
    """What a relaxed problem asks of each class at potentials ``g``: b exp(-slack g), to sum 1."""
    high = -np.inf
    for k in range(g.size):
        if masses[k] > 0:
            asked[k] = np.log(masses[k]) - slack * g[k]
            high = max(high, asked[k])
    total = 0.0
    for k in range(g.size):
        # Below what an exponential can hold a class still takes part.
        asked[k] = max(np.exp(asked[k] - high), 1e-300) if masses[k] > 0 else 0.0
        total += asked[k]
    for k in range(g.size):
        asked[k] /= total


@compiled
def _factors(g, factors):
    """What the kernel of each class is multiplied by; the largest is 1."""
    high = g.max()
    for k in range(g.size):
        factors[k] = np.exp(g[k] - high)


@compiled
def _gather(scores, weights, sample, part, part_weights):
    """Copy the sampled pixels; a sample that holds no valid pixel falls back to uniform weights."""
    few = sample.size
    count = part.size // few
    size = scores.size // count
    for k in range(count):
        for i in range(few):
            simd.poke(part, k * few + i, simd.peek(scores, k * size + simd.peek(sample, i)))
    total = 0.0
    for i in range(part_weights.size):
        part_weights[i] = weights[sample[i]]
        total += part_weights[i]
    for i in range(part_weights.size):
        part_weights[i] = part_weights[i] / total if total > 0 else 1.0 / few


@compiled
def _residual(m, asked, slack):
    worst = 0.0
    least = LEAST_ASKED if slack > 0 else 0.0
    for k in range(m.size):
        if asked[k] > 0:
            error = abs(m[k] - asked[k]) / max(asked[k], least)
            if not error < np.inf:
                return np.inf  # NaN would pass for finished
            worst = max(worst, error)
    return worst


@compiled
def _step(g, m, masses, slack, asked, moments, matrix, max_step, factors):
    """One Newton step on the log residual: ((1 + slack) diag(r) - A + r r^T) d = m log(asked / m).

    ``r`` are the row sums of A. Moves the potentials and what they ask for, and leaves in ``factors`` what
    that multiplies the kernel by. With slack the right side is r log(asked / m): where A is that of a sample,
    which may hardly know a class, a step by m / r too long would never end.
    """
    count = m.size
    for i in range(count):
        total = 0.0
        for j in range(count):
            total += moments[i, j]
        matrix[i, count] = total
    for i in range(count):
        for j in range(i + 1):
            both = masses[i] > 0 and masses[j] > 0
            matrix[i, j] = matrix[i, count] * matrix[j, count] - moments[i, j] if both else 0.0
            matrix[j, i] = matrix[i, j]
        matrix[i, i] += (1 + slack) * matrix[i, count] + 1e-9 if masses[i] > 0 else 1.0
    for i in range(count):
        weight = matrix[i, count] if slack > 0 else m[i]
        matrix[i, count] = weight * np.log(asked[i] / max(m[i], 1e-30)) if masses[i] > 0 else 0.0
    # Elimination with row exchange; the matrix is small and symmetric positive definite in exact numbers.
    for i in range(count):
        best = i
        for r in range(i + 1, count):
            if abs(matrix[r, i]) > abs(matrix[best, i]):
                best = r
        if best != i:
            for c in range(count + 1):
                matrix[i, c], matrix[best, c] = matrix[best, c], matrix[i, c]
        if matrix[i, i] == 0.0:
            factors[:] = 1.0
            return
        for r in range(i + 1, count):
            factor = matrix[r, i] / matrix[i, i]
            for c in range(i, count + 1):
                matrix[r, c] -= factor * matrix[i, c]
    for i in range(count - 1, -1, -1):
        value = matrix[i, count]
        for j in range(i + 1, count):
            value -= matrix[i, j] * matrix[j, count]
        matrix[i, count] = value / matrix[i, i]
    for i in range(count):
        step = min(max(matrix[i, count], -max_step), max_step) if masses[i] > 0 else 0.0
        g[i] += step
        factors[i] = np.exp(step)
    if slack > 0:
        _ask(g, masses, slack, asked)


def _sweep(name: str, first: bool) -> Any:
    """:func:`_pass` on some pixels, for one of few classes: a loop whose sums stay in registers for each.

    ``sums`` gets the sum of each class, in lanes; ``weights[at * step]`` weighs the pixels in it.
    """

    def typed(
        _typing: Any,
        scores: Any,
        slope: Any,
        offset: Any,
        factors: Any,
        weights: Any,
        step: Any,
        scale: Any,
        shares: Any,
        begin: Any,
        end: Any,
        sums: Any,
    ) -> Any:
        lanes = len(_LANES)
        wide = simd.VectorType(lanes).llvm

        def emit(context: Any, builder: Any, args: Any, count: int) -> None:
            scores_, slope_, offset_, factors_, weights_, step_, scale_, shares_, begin_, end_, sums_ = args

            def place(kind: Any, array: Any, index: Any) -> Any:
                return simd.vector_pointer_to(context, builder, kind, array, index, lanes)

            def read(kind: Any, array: Any, index: Any) -> Any:
                value = builder.load(place(kind, array, index))
                value.align = 4
                return value

            def splat(value: Any) -> Any:
                return simd.splat(builder, value, lanes)

            fma = simd.fmuladd(builder, lanes)
            number = begin_.type
            size = cgutils.create_struct_proxy(shares)(context, builder, value=shares_).nitems
            size = builder.udiv(size, number(count))
            slopes, offsets, scales = splat(slope_), splat(offset_), splat(scale_)
            multipliers = [
                splat(builder.load(simd.pointer_to(context, builder, factors, factors_, number(k))))
                for k in range(count)
            ]
            carried = [cgutils.alloca_once(builder, wide) for _ in range(count)]
            for slot in carried:
                builder.store(simd.constant(0.0, lanes), slot)
            with cgutils.for_range_slice(builder, begin_, end_, number(lanes)) as (at, _):
                rows = [builder.add(at, builder.mul(size, number(k))) for k in range(count)]
                values = []
                for row, multiplier in zip(rows, multipliers):
                    if first:
                        value = builder.call(fma, [read(scores, scores_, row), slopes, offsets])
                        value = simd.power_of_two(builder, value)
                    else:
                        value = read(shares, shares_, row)
                    values.append(builder.fmul(value, multiplier))
                total = functools.reduce(builder.fadd, values)
                inverse = builder.fdiv(scales, total)
                weight = read(weights, weights_, builder.mul(at, step_))
                for row, value, slot in zip(rows, values, carried):
                    value = builder.fmul(value, inverse)
                    builder.store(value, place(shares, shares_, row)).align = 4
                    builder.store(builder.call(fma, [value, weight, builder.load(slot)]), slot)
            for k, slot in enumerate(carried):
                builder.store(builder.load(slot), place(sums, sums_, number(k * lanes))).align = 4

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            size = cgutils.create_struct_proxy(factors)(context, builder, value=args[3]).nitems
            done = builder.append_basic_block("done")
            switch = builder.switch(size, done)
            for count in range(1, _UNROLLED + 1):
                block = builder.append_basic_block(f"classes{count}")
                switch.add_case(size.type(count), block)
                builder.position_at_end(block)
                emit(context, builder, args, count)
                builder.branch(done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        real = types.float32
        return types.void(
            scores, real, real, factors, weights, types.intp, real, shares, types.intp, types.intp, sums
        ), generate

    typed.__name__ = name
    return simd.intrinsic(typed)


_begin_few, _go_on_few = _sweep("_begin_few", True), _sweep("_go_on_few", False)


@compiled
def _pass(scores, slope, offset, first, factors, weights, scale, shares, m):
    """Bring the shares of all pixels to new potentials, and sum them per class (m).

    The first pass makes the kernel from the scores and multiplies it by the factors; every other multiplies
    the shares of the pass before, in place. Then each pixel is brought to the sum ``scale``.
    """
    count = m.size
    size = shares.size // count
    tag = _LANES
    lanes = len(tag)
    zero = simd.fill(np.float32(0), tag)
    shift, scales = simd.fill(offset, tag), simd.fill(scale, tag)
    few = count <= _UNROLLED
    carried = np.empty(count * lanes, np.float32)
    sums = np.empty(_TILE, np.float32)
    parts = np.empty(0 if few else count * _TILE, np.float32)
    heavy, step = (weights, 1) if weights.size else (np.ones(lanes, np.float32), 0)
    whole = size - size % lanes
    m[:] = 0.0
    for tile in range(0, whole, _TILE):
        stop = min(tile + _TILE, whole)
        if few and first:
            _begin_few(scores, slope, offset, factors, heavy, step, scale, shares, tile, stop, carried)
        elif few:
            _go_on_few(scores, slope, offset, factors, heavy, step, scale, shares, tile, stop, carried)
        else:
            for at in range(0, stop - tile, lanes):
                simd.store(sums, at, zero)
            for k in range(count):
                base, factor = k * size + tile, simd.fill(factors[k], tag)
                for at in range(0, stop - tile, lanes):
                    if first:
                        value = simd.exp2(simd.axpy(slope, simd.load(scores, base + at, tag), shift))
                    else:
                        value = simd.load(shares, base + at, tag)
                    value = simd.mul(value, factor)
                    simd.store(parts, k * _TILE + at, value)
                    simd.store(sums, at, simd.add(value, simd.load(sums, at, tag)))
            for at in range(0, stop - tile, lanes):
                simd.store(sums, at, simd.div(scales, simd.load(sums, at, tag)))
            for k in range(count):
                base = k * size + tile
                sum_ = zero
                for at in range(0, stop - tile, lanes):
                    value = simd.mul(simd.load(parts, k * _TILE + at, tag), simd.load(sums, at, tag))
                    simd.store(shares, base + at, value)
                    sum_ = simd.add(sum_, simd.mul(value, simd.load(heavy, (tile + at) * step, tag)))
                simd.store(carried, k * lanes, sum_)
        for k in range(count):
            m[k] += simd.total(simd.load(carried, k * lanes, tag))
    for at in range(whole, size):
        total = np.float32(0)
        for k in range(count):
            value_ = np.exp2(scores[k * size + at] * slope + offset) if first else shares[k * size + at]
            shares[k * size + at] = value_ * factors[k]
            total += shares[k * size + at]
        for k in range(count):
            shares[k * size + at] *= scale / total
            m[k] += shares[k * size + at] * heavy[at * step]
    for k in range(count):
        m[k] /= scale if weights.size else scale * size


@compiled
def _moments(shares, weights, scale, moments):
    """Sum the products of the shares per pair of classes; they only steer the step."""
    count = moments.shape[0]
    size = shares.size // count
    tag = _LANES
    lanes = len(tag)
    whole = size - size % lanes
    norm = np.float64(scale) ** 2 * (1 if weights.size else size)
    for k in range(count):
        for j in range(k + 1):
            sums = simd.fill(np.float32(0), tag)
            for at in range(0, whole, lanes):
                value = simd.load(shares, k * size + at, tag)
                if weights.size:
                    value = simd.mul(value, simd.load(weights, at, tag))
                sums = simd.add(sums, simd.mul(value, simd.load(shares, j * size + at, tag)))
            total = np.float64(simd.total(sums))
            for at in range(whole, size):
                value_ = shares[k * size + at] * shares[j * size + at]
                total += value_ * weights[at] if weights.size else value_
            moments[k, j] = moments[j, k] = total / norm
