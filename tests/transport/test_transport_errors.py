"""Every error of sinkhorn_ot."""

# ruff: noqa: E501  (tables of errors, one case a line)

from __future__ import annotations

import math

import pytest
import torch
from transport_problems import random_scores

from dhr_refine import sinkhorn_ot

S = torch.zeros(2, 3, 4, 5)


@pytest.mark.parametrize(
    ("scores", "options", "error", "text"),
    [
        ([[1.0]], {}, TypeError, r"scores must be a torch.Tensor of shape \(B, K, H, W\) or \(B, K, N\), got list"),
        (S[0, 0], {}, ValueError, r"scores must have shape .* got a torch.float32 tensor of shape \(4, 5\)"),
        (S[None], {}, ValueError, r"scores must have shape .* add or remove axes"),
        (S.long(), {}, TypeError, r"scores must be floating point, got a torch.int64 tensor .* call .float\(\)"),
        (S + math.nan, {}, ValueError, "scores hold NaN or infinity"),
        (S - math.inf, {}, ValueError, "scores hold NaN or infinity"),
        (S, {"reg": 0.0}, ValueError, "reg must be above 0 and finite, got 0.0"),
        (S, {"reg": math.nan}, ValueError, "reg must be above 0 and finite, got nan"),
        (S, {"reg": "0.1"}, TypeError, "reg must be a number, got str '0.1'"),
        (S, {"reg": True}, TypeError, "reg must be a number, got bool True"),
        (S, {"tol": -1e-3}, ValueError, "tol must be above 0 and finite, got -0.001"),
        (S, {"max_iter": 0}, ValueError, "max_iter must be at least 1, got 0"),
        (S, {"max_iter": "9"}, TypeError, "max_iter must be an int, got str '9'"),
        (S, {"method": "fast"}, ValueError, "method must be one of 'newton', 'sinkhorn', 'pot', got 'fast'"),
        (S, {"pixel_mass": [1.0]}, TypeError, "pixel_mass must be a torch.Tensor"),
        (S, {"pixel_mass": torch.ones(2, 4, 6)}, ValueError, r"pixel_mass must match the pixels of scores \(2, 3, 4, 5\), got shape \(2, 4, 6\)"),
        (S, {"pixel_mass": torch.ones(3, 20)}, ValueError, r"pixel_mass must match .* got shape \(3, 20\)"),
        (S, {"pixel_mass": torch.ones(2, 20, dtype=torch.long)}, TypeError, "pixel_mass must be floating point"),
        (S, {"pixel_mass": -torch.ones(2, 20)}, ValueError, r"pixel_mass must be finite and non-negative, got values in \[-1.0, -1.0\]: clamp"),
        (S, {"pixel_mass": torch.full((20,), math.inf)}, ValueError, "pixel_mass must be finite"),
        (S, {"class_mass": torch.ones(2, 4)}, ValueError, r"class_mass must have shape \(2, 3\) or \(3,\)"),
        (S, {"class_mass": torch.ones(4)}, ValueError, r"class_mass must have shape \(2, 3\) or \(3,\)"),
        (S, {"class_mass": torch.ones(3, dtype=torch.int)}, TypeError, "class_mass must be floating point"),
        (S, {"class_mass": torch.tensor([1.0, math.nan, 1.0])}, ValueError, "class_mass must be finite and non-neg"),
        (S, {"class_mass": torch.tensor([1.0, -1.0, 1.0])}, ValueError, "class_mass must be finite and non-negative"),
        (S, {"valid": torch.ones(2, 20)}, TypeError, r"valid must be a bool tensor, got a torch.float32 tensor .*: pass valid.bool\(\)"),
        (S, {"valid": [True]}, TypeError, "valid must be a bool tensor, got list"),
        (S, {"valid": torch.ones(2, 7).bool()}, ValueError, r"valid must mask pixels \(2, 4, 5\) or classes \(2, 3\), got shape \(2, 7\)"),
        (torch.zeros(2, 3, 3), {"valid": torch.ones(2, 3).bool()}, ValueError, r"valid of shape \(2, 3\) could mask pixels or classes as N = K = 3"),
        (S.to("meta"), {"valid": torch.ones(2, 20).bool()}, ValueError, r"valid is on cpu but scores is on meta: move valid"),
        (S, {"pixel_mass": torch.ones(2, 20, device="meta")}, ValueError, "pixel_mass is on meta but scores is on cpu"),
        (S, {"class_mass": torch.ones(2, 3, device="meta")}, ValueError, "class_mass is on meta but scores is on cpu"),
    ],
)  # fmt: skip
def test_errors_name_the_argument_what_came_and_the_fix(scores, options, error, text):
    with pytest.raises(error, match=text):
        sinkhorn_ot(scores, **options)


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_huge_masses_are_brought_to_sum_one(kind):
    scores = random_scores(1, 3, 50, seed=1)
    largest = torch.finfo(kind).max * 0.9
    plan = sinkhorn_ot(scores, class_mass=torch.full((3,), largest, dtype=kind)).plan
    assert torch.allclose(plan, sinkhorn_ot(scores).plan, atol=1e-6)
    plan = sinkhorn_ot(scores, pixel_mass=torch.full((1, 50), largest, dtype=kind)).plan
    assert torch.allclose(plan, sinkhorn_ot(scores).plan, atol=1e-5)


def test_scores_of_a_hopeless_range_are_refused():
    with pytest.raises(ValueError, match="scores span"):
        sinkhorn_ot(random_scores(1, 3, 50, seed=1).float() * 3e38)
    with pytest.raises(ValueError, match="reg must lie in"):
        sinkhorn_ot(random_scores(1, 3, 50, seed=1), reg=1e-40)


def test_a_plan_keeps_a_solver_when_its_fields_are_replaced():
    plan = sinkhorn_ot(random_scores(1, 3, 50, seed=1))
    assert plan._replace(residual=plan.residual * 0).solver in ("torch", "numba")


@pytest.mark.parametrize(("own", "other"), [("float16", "bfloat16"), ("bfloat16", "float16")])
def test_masses_under_autocast_of_the_other_half_type(own, other):
    dtype = getattr(torch, own)
    scores = torch.rand(2, 3, 50, generator=torch.Generator().manual_seed(0)).to(dtype)
    masses = {"pixel_mass": torch.ones(2, 50, dtype=dtype), "class_mass": torch.ones(3, dtype=dtype)}
    expected = sinkhorn_ot(scores, **masses).plan
    with torch.autocast("cpu", getattr(torch, other)):
        assert torch.equal(sinkhorn_ot(scores, **masses).plan, expected)
