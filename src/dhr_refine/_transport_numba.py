"""Compiled lean Newton solver of the transport problems, for float32 on the CPU.

The torch loop of transport.py spends most of its time on launching small operations and on memory; here an
image is solved in one call that reads its scores once per pass. Same algorithm, same results to rounding.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

from . import _simd as simd
from ._simd import compiled

_LANES = (0,) * 16
_TILE = 1024  # pixels summed in float32 before they join the float64 sums


def solve_images(
    scores: Tensor,
    sharpness: float,
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

    ``sample`` holds the pixel indices of the first solve, None for none. A residual above ``tol`` says that
    an image is not finished.
    """
    batch, count, size = scores.shape
    source = np.ascontiguousarray(scores.numpy())
    masses = classes.double().numpy()
    weights = np.zeros((batch, 0), np.float32) if pixels is None else np.ascontiguousarray(pixels.numpy())
    index = np.zeros(0, np.int64) if sample is None else sample.numpy()
    shares = torch.empty(batch, count, size)
    target = shares.numpy()
    potentials = np.zeros((batch, count))
    residual, passes = np.zeros(batch), np.zeros(batch, np.int64)

    def run(b: int) -> None:
        residual[b], passes[b] = _solve_image(
            source[b].reshape(-1),
            np.float32(sharpness),
            weights[b],
            masses[b],
            index,
            target[b].reshape(-1),
            potentials[b],
            tol,
            sample_tol,
            max_iter,
            max_step,
        )

    workers = min(torch.get_num_threads(), batch)
    if workers > 1:
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(run, range(batch)))
    else:
        for b in range(batch):
            run(b)
    return (
        torch.from_numpy(potentials).float(),
        shares,
        torch.from_numpy(residual).float(),
        torch.from_numpy(passes),
    )


@compiled
def _solve_image(
    scores, sharpness, weights, masses, sample, shares, potentials, tol, sample_tol, max_iter, max_step
):
    """Solve one image; returns the residual and the passes over all pixels."""
    count = masses.size
    active = 0
    for k in range(count):
        if masses[k] > 0:
            active += 1
    size = scores.size // count
    g = np.empty(count, np.float64)
    for k in range(count):
        # A class without a part gets a potential that no score can make up for.
        g[k] = np.log(masses[k]) if masses[k] > 0 or active == 0 else -1e30
        if active == 0:
            g[k] = 0.0
    moments = np.zeros((count, count))
    m = np.zeros(count)
    frozen = False
    if sample.size:
        few = sample.size
        part = np.empty(count * few, np.float32)
        for k in range(count):
            for i in range(few):
                part[k * few + i] = scores[k * size + sample[i]]
        part_weights = np.empty(few if weights.size else 0, np.float32)
        total = 0.0
        for i in range(part_weights.size):
            part_weights[i] = weights[sample[i]]
            total += part_weights[i]
        for i in range(part_weights.size):
            # A sample that holds no valid pixel falls back to uniform weights.
            part_weights[i] = part_weights[i] / total if total > 0 else 1.0 / few
        part_shares = np.empty(count * few, np.float32)
        for _ in range(max_iter):
            _pass(part, sharpness, part_weights, g, part_shares, m, moments, True)
            if _residual(m, masses) <= sample_tol:
                break
            _step(g, m, masses, moments, max_step)
        frozen = True
    residual = 0.0
    passes = 0
    for number in range(max_iter):
        passes = number + 1
        _pass(scores, sharpness, weights, g, shares, m, moments, not frozen)
        residual = _residual(m, masses)
        if residual <= tol or passes == max_iter:
            break
        _step(g, m, masses, moments, max_step)
    for k in range(count):
        potentials[k] = g[k]
    return residual, passes


@compiled
def _residual(m, masses):
    worst = 0.0
    for k in range(m.size):
        if masses[k] > 0:
            worst = max(worst, abs(m[k] - masses[k]) / masses[k])
    return worst


@compiled
def _step(g, m, masses, moments, max_step):
    """One Newton step on the log residual: (diag(row sums) - A + r r^T) d = m log(b / m)."""
    count = m.size
    matrix = np.zeros((count, count + 1))
    sums = np.zeros(count)
    for i in range(count):
        for j in range(count):
            sums[i] += moments[i, j]
    for i in range(count):
        if masses[i] > 0:
            for j in range(count):
                if masses[j] > 0:
                    matrix[i, j] = sums[i] * sums[j] - moments[i, j]
            matrix[i, i] += sums[i] + 1e-9
            matrix[i, count] = m[i] * (np.log(masses[i]) - np.log(max(m[i], 1e-30)))
        else:
            matrix[i, i] = 1.0
    # Elimination with row exchange; the matrix is small and symmetric positive definite in exact numbers.
    for i in range(count):
        best = i
        for r in range(i + 1, count):
            if abs(matrix[r, i]) > abs(matrix[best, i]):
                best = r
        for c in range(count + 1):
            matrix[i, c], matrix[best, c] = matrix[best, c], matrix[i, c]
        if matrix[i, i] == 0.0:
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
        if masses[i] > 0:
            g[i] += min(max(matrix[i, count], -max_step), max_step)


@compiled
def _pass(scores, sharpness, weights, g, shares, m, moments, want_moments):
    """Write the shares of all pixels and sum them per class (m) and, if wanted, per pair (moments)."""
    count = m.size
    size = scores.size // count
    tag = _LANES
    zero = simd.fill(np.float32(0), tag)
    lanes = len(tag)
    row = np.empty(count * lanes, np.float32)
    sums = np.empty(count * lanes, np.float32)
    pairs = np.empty(count * count * lanes, np.float32)
    uniform = simd.fill(np.float32(1) / np.float32(size), tag)
    m[:] = 0.0
    if want_moments:
        moments[:] = 0.0
    whole = size - size % lanes
    for tile in range(0, whole, _TILE):
        for k in range(count):
            simd.store(sums, k * lanes, zero)
        if want_moments:
            for k in range(count * count):
                simd.store(pairs, k * lanes, zero)
        for at in range(tile, min(tile + _TILE, whole), lanes):
            peak = simd.fill(np.float32(-3e38), tag)
            for k in range(count):
                logit = simd.axpy(
                    sharpness, simd.load(scores, k * size + at, tag), simd.fill(np.float32(g[k]), tag)
                )
                simd.store(row, k * lanes, logit)
                peak = simd.maximum(peak, logit)
            sum_ = zero
            for k in range(count):
                value = simd.exp(simd.sub(simd.load(row, k * lanes, tag), peak))
                simd.store(row, k * lanes, value)
                sum_ = simd.add(sum_, value)
            weight = simd.load(weights, at, tag) if weights.size else uniform
            for k in range(count):
                share = simd.div(simd.load(row, k * lanes, tag), sum_)
                simd.store(shares, k * size + at, share)
                simd.store(row, k * lanes, share)
                share = simd.mul(share, weight)
                simd.store(sums, k * lanes, simd.add(simd.load(sums, k * lanes, tag), share))
                if want_moments:
                    for j in range(k + 1):
                        pair = (k * count + j) * lanes
                        product = simd.mul(share, simd.load(row, j * lanes, tag))
                        simd.store(pairs, pair, simd.add(simd.load(pairs, pair, tag), product))
        for k in range(count):
            m[k] += simd.total(simd.load(sums, k * lanes, tag))
            if want_moments:
                for j in range(k + 1):
                    moments[k, j] += simd.total(simd.load(pairs, (k * count + j) * lanes, tag))
    for at in range(whole, size):
        high = -3e38
        for k in range(count):
            row[k] = scores[k * size + at] * sharpness + np.float32(g[k])
            high = max(high, row[k])
        total = 0.0
        for k in range(count):
            row[k] = np.exp(row[k] - high)
            total += row[k]
        weight_ = weights[at] if weights.size else 1.0 / size
        for k in range(count):
            row[k] /= total
            shares[k * size + at] = row[k]
            m[k] += row[k] * weight_
            if want_moments:
                for j in range(k + 1):
                    moments[k, j] += row[k] * row[j] * weight_
    if want_moments:
        for k in range(count):
            for j in range(k):
                moments[j, k] = moments[k, j]
