"""Compiled lean Newton solver of the transport problems, for float32 on the CPU.

The torch loop of transport.py spends most of its time on launching small operations and on memory; here a
batch is solved in one call, and exponentials are taken once per score. Same algorithm, same results to
rounding, for problems whose kernel exp(score / reg) float32 can hold.
"""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from . import _simd as simd
from ._simd import compiled

_LANES = (0,) * 16
_TILE = 256  # pixels whose shares stay in the first-level cache; summed in float32, tiles in float64
_PAGES = 1 << 22  # bytes from which NumPy asks for huge pages, which are ten times cheaper to touch first


def solve_images(
    scores: Tensor,
    sharpness: float,
    middle: float,
    pixels: Tensor | None,
    classes: Tensor,
    sample: Tensor | None,
    *,
    tol: float,
    sample_tol: float,
    max_iter: int,
    max_step: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Potentials (B, K), shares (B, K, N), residual (B,) and passes (B,) of a batch, one image a thread.

    ``middle`` lies half-way between the smallest and the largest score. ``sample`` holds the pixel indices of
    the first solve, None for none. A residual above ``tol`` says that an image is not finished. The shares of
    an image without a class are zero.
    """
    batch, count, size = scores.shape
    source = np.ascontiguousarray(scores.numpy())
    masses = classes.double().numpy()
    weights = np.zeros((batch, 0), np.float32) if pixels is None else np.ascontiguousarray(pixels.numpy())
    index = np.zeros(0, np.int64) if sample is None else sample.numpy()
    shares = np.empty((batch, count, size), np.float32)
    potentials = np.empty((batch, count))
    residual, passes = np.empty(batch), np.empty(batch, np.int64)
    # The kernel is a power of two: that of the middle score is 1.
    slope = np.float32(sharpness * math.log2(math.e))
    offset = np.float32(-middle * sharpness * math.log2(math.e))

    def run(begin: int, end: int) -> None:
        _solve_range(
            begin,
            end,
            source,
            slope,
            offset,
            weights,
            masses,
            index,
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
    if workers > 1:
        with ThreadPoolExecutor(workers) as pool:
            edges = [batch * i // workers for i in range(workers + 1)]
            list(pool.map(run, edges[:-1], edges[1:]))
    else:
        run(0, batch)
    return (
        torch.from_numpy(potentials).float(),
        torch.from_numpy(shares),
        torch.from_numpy(residual).float(),
        torch.from_numpy(passes),
    )


def extent(scores: Tensor) -> tuple[float, float]:
    """Smallest and largest score, NaN where one is NaN or infinite."""
    return _extent(np.ascontiguousarray(scores.numpy()).reshape(-1))


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
    weights,
    masses,
    sample,
    shares,
    potentials,
    residual,
    passes,
    tol,
    sample_tol,
    max_iter,
    max_step,
):
    """Solve the images from ``begin`` to ``end``."""
    count = masses.shape[1]
    few = sample.size
    part, part_shares = np.empty(count * few, np.float32), np.empty(count * few, np.float32)
    part_weights = np.empty(few if weights.size else 0, np.float32)
    m, factors = np.empty(count), np.empty(count, np.float32)
    moments, matrix = np.empty((count, count)), np.empty((count, count + 1))
    for b in range(begin, end):
        g = potentials[b]
        own, own_weights = scores[b].reshape(-1), weights[b]
        own_shares = shares[b].reshape(-1)
        own_masses = masses[b]
        active = _start(g, own_masses)
        if active == 0:
            own_shares[:] = 0
            residual[b], passes[b] = 0.0, 0
            continue
        if few:
            _gather(own, own_weights, sample, part, part_weights)
            _factors(g, own_masses, factors)
            for number in range(max_iter):
                _pass(part, slope, offset, number == 0, factors, part_weights, part_shares, m)
                _moments(part_shares, part_weights, moments)
                if _residual(m, own_masses) <= sample_tol:
                    break
                _step(g, m, own_masses, moments, matrix, max_step, factors)
        _factors(g, own_masses, factors)
        for number in range(max_iter):
            _pass(own, slope, offset, number == 0, factors, own_weights, own_shares, m)
            residual[b], passes[b] = _residual(m, own_masses), number + 1
            if residual[b] <= tol or number + 1 == max_iter:
                break
            if not few:
                _moments(own_shares, own_weights, moments)
            _step(g, m, own_masses, moments, matrix, max_step, factors)


@compiled
def _start(g, masses):
    """First potentials, the log masses; returns how many classes take part."""
    active = 0
    for k in range(masses.size):
        # A class without a part gets a potential that no score can make up for.
        g[k] = np.log(masses[k]) if masses[k] > 0 else -1e30
        if masses[k] > 0:
            active += 1
    if active == 0:
        g[:] = 0.0
    return active


@compiled
def _factors(g, masses, factors):
    """What the kernel of each class is multiplied by; the largest is 1."""
    high = -1e300
    for k in range(g.size):
        high = max(high, g[k])
    for k in range(g.size):
        factors[k] = np.exp(g[k] - high) if masses[k] > 0 else 0.0


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
def _residual(m, masses):
    worst = 0.0
    for k in range(m.size):
        if masses[k] > 0:
            error = abs(m[k] - masses[k]) / masses[k]
            if not error < np.inf:
                return np.inf  # NaN would pass for finished
            worst = max(worst, error)
    return worst


@compiled
def _step(g, m, masses, moments, matrix, max_step, factors):
    """One Newton step on the log residual: (diag(row sums) - A + r r^T) d = m log(b / m).

    Moves the potentials and leaves in ``factors`` what that multiplies the kernel by.
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
        matrix[i, i] += matrix[i, count] + 1e-9 if masses[i] > 0 else 1.0
    for i in range(count):
        matrix[i, count] = m[i] * np.log(masses[i] / max(m[i], 1e-30)) if masses[i] > 0 else 0.0
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


@compiled
def _pass(scores, slope, offset, first, factors, weights, shares, m):
    """Bring the shares of all pixels to new potentials, and sum them per class (m).

    The first pass makes the kernel from the scores and multiplies it by the factors; every other multiplies
    the shares of the pass before, in place. Then each pixel is brought to sum 1.
    """
    count = m.size
    size = shares.size // count
    tag = _LANES
    lanes = len(tag)
    zero, one = simd.fill(np.float32(0), tag), simd.fill(np.float32(1), tag)
    shift = simd.fill(offset, tag)
    sums, parts = np.empty(_TILE, np.float32), np.empty(count * _TILE, np.float32)
    whole = size - size % lanes
    m[:] = 0.0
    for tile in range(0, whole, _TILE):
        end = min(tile + _TILE, whole) - tile
        for at in range(0, end, lanes):
            simd.store(sums, at, zero)
        for k in range(count):
            base, factor = k * size + tile, simd.fill(factors[k], tag)
            if first:
                for at in range(0, end, lanes):
                    value = simd.exp2(simd.axpy(slope, simd.load(scores, base + at, tag), shift))
                    value = simd.mul(value, factor)
                    simd.store(parts, k * _TILE + at, value)
                    simd.store(sums, at, simd.add(value, simd.load(sums, at, tag)))
            else:
                for at in range(0, end, lanes):
                    value = simd.mul(simd.load(shares, base + at, tag), factor)
                    simd.store(parts, k * _TILE + at, value)
                    simd.store(sums, at, simd.add(value, simd.load(sums, at, tag)))
        for at in range(0, end, lanes):
            simd.store(sums, at, simd.div(one, simd.load(sums, at, tag)))
        for k in range(count):
            base = k * size + tile
            carried = zero
            for at in range(0, end, lanes):
                value = simd.mul(simd.load(parts, k * _TILE + at, tag), simd.load(sums, at, tag))
                simd.store(shares, base + at, value)
                if weights.size:
                    value = simd.mul(value, simd.load(weights, tile + at, tag))
                carried = simd.add(carried, value)
            m[k] += simd.total(carried)
    for at in range(whole, size):
        total = np.float32(0)
        for k in range(count):
            value = np.exp2(scores[k * size + at] * slope + offset) if first else shares[k * size + at]
            shares[k * size + at] = value * factors[k]
            total += shares[k * size + at]
        for k in range(count):
            shares[k * size + at] /= total
            m[k] += shares[k * size + at] * (weights[at] if weights.size else np.float32(1))
    if not weights.size:
        for k in range(count):
            m[k] /= size


@compiled
def _moments(shares, weights, moments):
    """Sum the products of the shares per pair of classes; they only steer the step."""
    count = moments.shape[0]
    size = shares.size // count
    tag = _LANES
    lanes = len(tag)
    whole = size - size % lanes
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
            moments[k, j] = moments[j, k] = total if weights.size else total / size
