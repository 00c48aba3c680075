"""Compiled class averages and cosines for float32 maps on the CPU: as torch's in cosines.py, to rounding.

Matrix products with as few rows as there are classes keep a CPU waiting for its caches; here four channels
at a time are resized, squared, averaged and multiplied with their averages while they are in the cache.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..compiled import simd
from ..compiled.jit import compiled
from ..compiled.threads import for_each

_LANES = (0,) * 16


def compare_images(
    features: Tensor, weights: Tensor, axes: tuple[tuple[Tensor, Tensor, Tensor], ...]
) -> tuple[Tensor, Tensor, Tensor]:
    """Averages (B, C, D), dot products (B, C, N) and squared norms (B, 1, N) of the cells of a grid.

    ``features`` (B, D, h, w) are floating point, ``weights`` (B, C, N). ``axes`` are those of
    :func:`dhr_refine.maps.resizing.between` for rows and columns, empty where the cells are those of the
    features. One image a thread.
    """
    batch, depth, height, width = features.shape
    classes, size = weights.shape[1:]
    # Two classes at a time, whole vectors of cells: zeros fill up.
    shares = F.pad(weights, (0, -size % 16, 0, classes % 2))
    centroids = shares.new_empty(batch, shares.shape[1], depth)
    dots = torch.zeros_like(shares)
    squares = torch.zeros_like(shares[:, :1])
    whole = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
    rows, columns = [tuple(part.numpy() for part in axis) for axis in axes] or (whole, whole)

    def run(b: int, _: None) -> None:
        source = features[b].detach().float().contiguous().resolve_neg().numpy().reshape(-1)
        flat = [maps[b].numpy().reshape(-1) for maps in (shares, centroids, dots, squares)]
        _compare_image(source, height, width, rows, columns, *flat)

    for_each(run, range(batch), torch.get_num_threads())
    return centroids[:, :classes], dots[:, :classes, :size], squares[..., :size]


@compiled
def _compare_image(features, height, width, rows, columns, shares, centroids, dots, squares):
    padded = squares.size
    classes = shares.size // padded
    depth = centroids.size // classes
    block = np.zeros(4 * padded, np.float32)
    means = np.empty(8, np.float32)
    for first in range(0, depth, 4):
        channels = min(4, depth - first)
        for c in range(4):
            start = (first + c) * height * width
            if c >= channels:
                for i in range(c * padded, (c + 1) * padded):
                    block[i] = np.float32(0)
            elif rows[0].size:
                _resize(features, start, width, rows, columns, block, c * padded)
            else:
                _copy(features, start, height * width, block, c * padded)
        _add_squares(block, squares)
        for k in range(0, classes, 2):
            _average(block, shares, k * padded, padded, means)
            for c in range(channels):
                centroids[k * depth + first + c] = means[c]
                centroids[(k + 1) * depth + first + c] = means[4 + c]
            _add_products(block, means, dots, k * padded, padded)


@compiled
def _copy(features, start, size, block, into):
    whole = size - size % 16
    for n in range(0, whole, 16):
        simd.store(block, into + n, simd.load(features, start + n, _LANES))
    for n in range(whole, size):
        block[into + n] = features[start + n]


@compiled
def _resize(features, start, width, rows, columns, block, into):
    """Write one channel in the cells of another grid."""
    upper, lower, down = rows
    left, right, aside = columns
    line = np.empty(width, np.float32)
    for i in range(upper.size):
        above, below = start + upper[i] * width, start + lower[i] * width
        for j in range(width):
            x = simd.peek(features, above + j)
            simd.poke(line, j, x + down[i] * (simd.peek(features, below + j) - x))
        for j in range(left.size):
            x = simd.peek(line, left[j])
            simd.poke(block, into + j, x + aside[j] * (simd.peek(line, right[j]) - x))
        into += left.size


@compiled
def _add_squares(block, squares):
    padded = squares.size
    for n in range(0, padded, 16):
        total = simd.load(squares, n, _LANES)
        for c in range(4):
            x = simd.load(block, c * padded + n, _LANES)
            total = simd.add(total, simd.mul(x, x))
        simd.store(squares, n, total)


@compiled
def _average(block, shares, row, padded, means):
    """Averages of four channels for two classes, whose shares start at ``row``."""
    zero = simd.fill(np.float32(0), _LANES)
    a, b, c, d = zero, zero, zero, zero
    e, f, g, h = zero, zero, zero, zero
    for n in range(0, padded, 16):
        one = simd.load(shares, row + n, _LANES)
        two = simd.load(shares, row + padded + n, _LANES)
        x = simd.load(block, n, _LANES)
        a, e = simd.add(a, simd.mul(one, x)), simd.add(e, simd.mul(two, x))
        x = simd.load(block, padded + n, _LANES)
        b, f = simd.add(b, simd.mul(one, x)), simd.add(f, simd.mul(two, x))
        x = simd.load(block, 2 * padded + n, _LANES)
        c, g = simd.add(c, simd.mul(one, x)), simd.add(g, simd.mul(two, x))
        x = simd.load(block, 3 * padded + n, _LANES)
        d, h = simd.add(d, simd.mul(one, x)), simd.add(h, simd.mul(two, x))
    means[0], means[1], means[2], means[3] = simd.total(a), simd.total(b), simd.total(c), simd.total(d)
    means[4], means[5], means[6], means[7] = simd.total(e), simd.total(f), simd.total(g), simd.total(h)


@compiled
def _add_products(block, means, dots, row, padded):
    """Add the products of four channels with their averages to the rows of two classes."""
    a, b, c, d = means[0], means[1], means[2], means[3]
    e, f, g, h = means[4], means[5], means[6], means[7]
    for n in range(0, padded, 16):
        one = simd.load(dots, row + n, _LANES)
        two = simd.load(dots, row + padded + n, _LANES)
        x = simd.load(block, n, _LANES)
        one, two = simd.axpy(a, x, one), simd.axpy(e, x, two)
        x = simd.load(block, padded + n, _LANES)
        one, two = simd.axpy(b, x, one), simd.axpy(f, x, two)
        x = simd.load(block, 2 * padded + n, _LANES)
        one, two = simd.axpy(c, x, one), simd.axpy(g, x, two)
        x = simd.load(block, 3 * padded + n, _LANES)
        one, two = simd.axpy(d, x, one), simd.axpy(h, x, two)
        simd.store(dots, row + n, one)
        simd.store(dots, row + padded + n, two)
