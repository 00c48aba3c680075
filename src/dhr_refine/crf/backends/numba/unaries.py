"""Unary terms as the passes of the mean field read them: logarithms, packed tile by tile."""

from __future__ import annotations

import numpy as np

from dhr_refine.compiled import simd
from dhr_refine.compiled.jit import compiled

from ...unary import NOWHERE, SMALLEST
from .tiles import TILE, TILE_COLUMNS, tile_box

_ACROSS = (0,) * TILE_COLUMNS


@compiled
def _log_probs(probs, at, tag):
    """Logarithms of clipped probabilities, from a flat array."""
    low, high = simd.fill(np.float32(SMALLEST), tag), simd.fill(np.float32(1), tag)
    return simd.log(simd.minimum(high, simd.maximum(low, simd.load(probs, at, tag))))


@compiled
def _log_tile(probs, width, tile, c, result):
    """Take the logarithms of a class in a tile, row by row; see unary.py."""
    pixels = probs.shape[1]
    flat = probs.reshape(probs.size)
    y0, tall, x0, wide = tile_box(tile, pixels // width, width)
    if probs[c, 0] < 0:
        result[:] = np.float32(NOWHERE)
        return
    for y in range(tall):
        pixel, at = c * pixels + (y0 + y) * width + x0, y * TILE_COLUMNS
        simd.prefetch(flat, pixel + pixels)  # the next class's
        if wide == TILE_COLUMNS:
            simd.store(result, at, _log_probs(flat, pixel, _ACROSS))
        else:
            for x in range(wide):
                simd.store(result, at + x, _log_probs(flat, pixel + x, (0,)))


@compiled
def pack_unary(probs, width, unary, first, stop, blocks, tag):
    """Turn class-major probabilities (K, N) into logarithms, tile by tile, as the passes read them.

    In a tile, blocks of ``len(tag)`` classes follow each other, and in them the pixels. Lanes beyond the
    classes lie as far down as classes that take no part.
    """
    classes, pixels = probs.shape
    lanes = len(tag)
    logs = np.zeros(TILE, np.float32)
    for tile in range(first, stop):
        y0, tall, x0, wide = tile_box(tile, pixels // width, width)
        start = (y0 * width + x0 * tall) * lanes * len(blocks)
        for c in range(lanes * len(blocks)):
            if c < classes:
                _log_tile(probs, width, tile, c, logs)
            elif c == classes:
                logs[:] = np.float32(NOWHERE)
            for y in range(tall):
                at = start + (c // lanes * tall * wide + y) * lanes + c % lanes
                if wide == TILE_COLUMNS:
                    values = simd.load(logs, y * TILE_COLUMNS, _ACROSS)
                    simd.store_every(unary, at, tall * lanes, values)
                else:
                    for x in range(wide):
                        simd.poke(unary, at + x * tall * lanes, logs[y * TILE_COLUMNS + x])
