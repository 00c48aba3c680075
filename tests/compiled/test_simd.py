"""Short vectors against NumPy."""

from __future__ import annotations

import numpy as np
import pytest


def test_vector_exponential():
    from numba import njit

    from dhr_refine.compiled import simd

    @njit
    def apply(values, result, tag):
        for at in range(0, values.size, len(tag)):
            simd.store(result, at, simd.exp(simd.load(values, at, tag)))

    values = np.linspace(-86.9, 0, 2**12, dtype=np.float32)
    values[:2] = -1e30, -88
    result = np.empty_like(values)
    apply(values, result, (0,) * 8)
    assert not result[:2].any()
    np.testing.assert_allclose(result[2:], np.exp(values[2:].astype(np.float64)), rtol=5e-7)


def test_vector_logarithm():
    from numba import njit

    from dhr_refine.compiled import simd

    @njit
    def apply(values, result, tag):
        for at in range(0, values.size, len(tag)):
            simd.store(result, at, simd.log(simd.load(values, at, tag)))

    # Over all mantissas, where the range is cut in two, and where the result is 0.
    values = np.concatenate([np.geomspace(1e-5, 1, 2**12), np.linspace(0.7, 1.42, 2**12)]).astype(np.float32)
    values[:3] = 1, np.float32(0.5) ** np.float32(0.5), np.finfo(np.float32).tiny
    result = np.empty_like(values)
    apply(values, result, (0,) * 8)
    assert result[0] == 0
    np.testing.assert_allclose(result, np.log(values.astype(np.float64)), rtol=3e-7)


@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16])
def test_vector_groups(lanes):
    from numba import njit

    from dhr_refine.compiled import simd

    @njit
    def apply(values, totals, largest, tag):
        vector = simd.load(values, 0, (0,) * 16)
        simd.store(totals, 0, simd.group_total(vector, tag))
        simd.store(largest, 0, simd.group_largest(vector, tag))

    values = np.random.default_rng(0).standard_normal(16).astype(np.float32)
    totals, largest = np.empty_like(values), np.empty_like(values)
    apply(values, totals, largest, (0,) * lanes)
    groups = values.reshape(-1, lanes)
    np.testing.assert_allclose(totals, groups.sum(axis=1).repeat(lanes), rtol=1e-5)
    np.testing.assert_array_equal(largest, groups.max(axis=1).repeat(lanes))


@pytest.mark.parametrize("corners", [1, 3, 6, 7])
@pytest.mark.parametrize("number", [np.uint16, np.int32])
def test_vector_rows(number, corners):
    from numba import njit

    from dhr_refine.compiled import simd

    @njit
    def apply(offsets, weights, at, corners, values, result):
        start = simd.load(values, 0, (0,) * 4)
        simd.store(result, 0, simd.gather(offsets, weights, at, corners, values, 8, start))
        simd.scatter(offsets, weights, at, corners, values, 8, start)

    generator = np.random.default_rng(0)
    offsets = generator.integers(0, 2**16, corners + 2).astype(number)
    offsets[1:3] = 2**16 - 1  # the largest; twice where there are two corners
    weights = generator.random(corners + 2).astype(np.float32)
    values = generator.random((2 + 2**16, 4)).astype(np.float32)
    expected = values.copy()
    used = slice(1, 1 + corners)
    rows = offsets[used].astype(np.int64)
    np.add.at(expected[2:], rows, weights[used, None] * values[0])
    gathered = values[0] + (weights[used, None] * values[2:][rows]).sum(axis=0)
    result, flat = np.empty(4, np.float32), values.reshape(-1)
    apply(offsets, weights, 1, (0,) * corners, flat, result)
    np.testing.assert_allclose(result, gathered, rtol=1e-5)
    np.testing.assert_allclose(values, expected, rtol=1e-5)
