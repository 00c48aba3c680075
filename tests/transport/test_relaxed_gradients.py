"""Gradients of sinkhorn_ot with a class penalty: gradcheck, and those of an unrolled loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transport_problems import random_scores

from dhr_refine import sinkhorn_ot

EXACT = {"tol": 1e-14, "max_iter": 5000}


def unrolled(scores: Tensor, a: Tensor, b: Tensor, reg: float, penalty: float) -> Tensor:
    """Plan by damped log-domain Sinkhorn steps that autograd records."""
    a, b = a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)
    z, g = scores / reg, torch.zeros_like(b)
    for _ in range(600):
        f = a.log() - torch.logsumexp(z + g[..., None], dim=1)
        g = penalty / (penalty + reg) * (b.log() - torch.logsumexp(z + f[:, None], dim=2))
    f = a.log() - torch.logsumexp(z + g[..., None], dim=1)
    return (z + f[:, None] + g[..., None]).exp()


@pytest.mark.parametrize(
    ("reg", "penalty"), [(0.1, 0.1), (0.1, 1e-3), (0.1, 100.0), (0.02, 0.02), (1.0, 1e-6), (0.1, 1e6)]
)
def test_relaxed_gradients_pass_gradcheck(reg, penalty):
    scores = random_scores(1, 3, 5).requires_grad_()
    a = (random_scores(1, 5, seed=1) + 0.2).requires_grad_()
    b = (random_scores(1, 3, seed=2) + 0.2).requires_grad_()

    def plan(scores, a, b):
        options = {"reg": reg, "class_penalty": penalty, "pixel_mass": a, "class_mass": b}
        return sinkhorn_ot(scores, **options, **EXACT).plan

    assert torch.autograd.gradcheck(plan, (scores, a, b), atol=1e-7)
    assert torch.autograd.gradcheck(lambda s: plan(s, None, None), (scores,), atol=1e-7)


def test_relaxed_gradients_pass_gradcheck_where_pixels_and_classes_are_masked():
    scores = random_scores(1, 4, 7).requires_grad_()
    valid = torch.tensor([[True, True, False, True, True, False, True]])
    b = torch.tensor([0.5, 0.0, 0.2, 0.3], dtype=torch.float64)
    options = {"class_mass": b, "valid": valid, "class_penalty": 0.05}
    assert torch.autograd.gradcheck(lambda s: sinkhorn_ot(s, **options, **EXACT).plan, (scores,), atol=1e-7)


@pytest.mark.parametrize("method", ["newton", "sinkhorn"])
@pytest.mark.parametrize(("reg", "penalty"), [(0.1, 0.1), (0.1, 2.0), (0.5, 0.01)])
def test_relaxed_gradients_equal_those_of_unrolled_sinkhorn(method, reg, penalty):
    inputs = [random_scores(2, 4, 30), random_scores(2, 30, seed=1) + 0.1, random_scores(2, 4, seed=2) + 0.1]
    weights = random_scores(2, 4, 30, seed=3)
    found = []
    for own in (False, True):
        leaves = [x.clone().requires_grad_() for x in inputs]
        if own:
            options = {"reg": reg, "class_penalty": penalty, "method": method, **EXACT}
            plan = sinkhorn_ot(leaves[0], pixel_mass=leaves[1], class_mass=leaves[2], **options).plan
        else:
            plan = unrolled(*leaves, reg, penalty)
        found.append(torch.autograd.grad((plan * weights).sum(), leaves))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-9, rtol=1e-7)


def test_gradients_of_a_hard_relaxed_problem_are_finite():
    """Classes that vanish below what float32 holds, and an image without a pixel."""
    scores = (random_scores(3, 5, 40, dtype=torch.float32) > 0.7).float()
    b = torch.tensor([1.0, 1e-3, 1e-6, 1e-8, 0.0]).requires_grad_()
    valid = torch.ones(3, 40, dtype=torch.bool)
    valid[2] = False
    for reg in (0.1, 0.01, 0.001):
        for penalty in (1e-6, 1e-3, 1e-1, 1e3):
            leaf = scores.clone().requires_grad_()
            plan = sinkhorn_ot(leaf, reg=reg, class_mass=b, valid=valid, class_penalty=penalty).plan
            for gradient in torch.autograd.grad(plan.square().sum(), (leaf, b)):
                assert torch.isfinite(gradient).all()


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("size", [100, 5000])
def test_the_relaxed_plan_does_not_depend_on_requires_grad(size):
    for seed in range(3):
        scores = random_scores(3, 4, size, seed=seed, dtype=torch.float32)
        scores[0] = (scores[0] > 0.5).float()
        for reg, penalty in ((0.1, 0.1), (0.001, 0.1), (0.001, 1e-4)):
            plain = sinkhorn_ot(scores, reg=reg, class_penalty=penalty)
            recorded = sinkhorn_ot(scores.clone().requires_grad_(), reg=reg, class_penalty=penalty)
            assert recorded.plan.requires_grad
            assert torch.allclose(plain.plan * size, recorded.plan.detach() * size, rtol=0, atol=1e-6)


def test_second_derivatives_of_a_relaxed_plan_are_refused():
    scores = random_scores(1, 3, 50).requires_grad_()
    plan = sinkhorn_ot(scores, class_penalty=0.1).plan
    with pytest.raises(RuntimeError, match="sinkhorn_ot has first derivatives only"):
        torch.autograd.grad((plan**2).sum(), scores, create_graph=True)
    assert not sinkhorn_ot(scores, class_penalty=0.1, method="pot").plan.requires_grad
