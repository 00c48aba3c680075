"""dtypes, layouts and batches of sinkhorn_ot."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transport_problems import METHODS, random_scores

from dhr_refine import sinkhorn_ot


@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(low, device):
    scores = random_scores(2, 3, 6, 7).to(device, low)
    result = sinkhorn_ot(scores)
    exact = sinkhorn_ot(scores.float())
    assert result.plan.dtype == low
    assert result.residual.dtype == torch.float32
    assert torch.equal(result.plan, exact.plan.to(low))
    assert torch.equal(result.residual, exact.residual)


def test_autocast_changes_nothing(device):
    scores = random_scores(2, 3, 20, 21, dtype=torch.float32).to(device)
    plain = sinkhorn_ot(scores)
    with torch.autocast(device_type=device.type, dtype=torch.bfloat16):
        cast = sinkhorn_ot(scores)
    assert cast.plan.dtype == torch.float32
    assert torch.equal(plain.plan, cast.plan)


def test_layout_does_not_matter(device, dtype):
    scores = random_scores(2, 3, 8, 10, dtype=dtype).to(device)
    other = scores.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert not other.is_contiguous()
    plan, again = sinkhorn_ot(scores).plan, sinkhorn_ot(other).plan
    assert torch.allclose(plan.double(), again.double(), rtol=4 * torch.finfo(dtype).eps, atol=1e-8)


def test_lazily_negated_scores():
    scores = random_scores(2, 3, 40)
    view = torch.complex(scores, -scores).conj().imag
    assert view.is_neg()
    for reg in (0.1, 1e-3):  # by the compiled loop, and by torch
        assert torch.equal(sinkhorn_ot(view, reg=reg).plan, sinkhorn_ot(scores, reg=reg).plan)


def test_inputs_are_untouched():
    scores, a, b = random_scores(2, 3, 50), random_scores(2, 50), random_scores(2, 3)
    valid = torch.rand(2, 50) > 0.2
    before = copy.deepcopy((scores, a, b, valid))
    for method in METHODS:
        sinkhorn_ot(scores, pixel_mass=a, class_mass=b, valid=valid, method=method)
    assert all(torch.equal(x, y) for x, y in zip((scores, a, b, valid), before, strict=True))


@pytest.mark.parametrize("size", [150, 5000])
def test_a_batch_equals_its_images(size):
    scores = random_scores(4, 3, size)
    scores[1] *= 0.01
    scores[2] = scores[2].round()
    batch = sinkhorn_ot(scores, tol=1e-10)
    for b in range(4):
        alone = sinkhorn_ot(scores[b : b + 1], tol=1e-10)
        assert (batch.plan[b] - alone.plan[0]).abs().max() * size < 1e-8


@given(seed=st.integers(0, 10**6), count=st.integers(1, 6), size=st.integers(1, 60))
def test_reordering_classes_and_pixels_reorders_the_plan(seed, count, size):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(1, count, size, generator=generator, dtype=torch.float64)
    b = torch.rand(count, generator=generator, dtype=torch.float64) + 0.05
    classes = torch.randperm(count, generator=generator)
    pixels = torch.randperm(size, generator=generator)
    plan = sinkhorn_ot(scores, class_mass=b, tol=1e-11).plan
    moved = sinkhorn_ot(scores[:, classes][..., pixels], class_mass=b[classes], tol=1e-11).plan
    assert torch.allclose(moved, plan[:, classes][..., pixels], atol=1e-10 / size, rtol=1e-8)
