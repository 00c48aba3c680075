"""Gradients of sinkhorn_ot: gradcheck, and those of an unrolled loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from transport_problems import marginal_error, random_scores

from dhr_refine import sinkhorn_ot


def unrolled(scores: Tensor, a: Tensor, b: Tensor, reg: float = 0.1) -> Tensor:
    """Plan by plain log-domain Sinkhorn steps that autograd records."""
    a, b = a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True)
    z, g = scores / reg, torch.zeros_like(b)
    for _ in range(400):
        f = a.log() - torch.logsumexp(z + g[..., None], dim=1)
        g = b.log() - torch.logsumexp(z + f[:, None], dim=2)
    f = a.log() - torch.logsumexp(z + g[..., None], dim=1)
    return (z + f[:, None] + g[..., None]).exp()


def test_gradients_pass_gradcheck():
    scores = random_scores(1, 3, 5).requires_grad_()
    a = (random_scores(1, 5, seed=1) + 0.2).requires_grad_()
    b = (random_scores(1, 3, seed=2) + 0.2).requires_grad_()

    def plan(scores, a, b):
        return sinkhorn_ot(scores, pixel_mass=a, class_mass=b, tol=1e-13).plan

    assert torch.autograd.gradcheck(plan, (scores, a, b), atol=1e-7)
    assert torch.autograd.gradcheck(lambda s: plan(s, None, None), (scores,), atol=1e-7)


def test_gradients_pass_gradcheck_where_pixels_and_classes_are_masked():
    scores = random_scores(1, 4, 7).requires_grad_()
    valid = torch.tensor([[True, True, False, True, True, False, True]])
    b = torch.tensor([0.5, 0.0, 0.2, 0.3], dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda s: sinkhorn_ot(s, class_mass=b, valid=valid, tol=1e-13).plan, (scores,), atol=1e-7
    )


@pytest.mark.parametrize("method", ["newton", "sinkhorn"])
def test_gradients_equal_those_of_unrolled_sinkhorn(method):
    inputs = [random_scores(2, 4, 30), random_scores(2, 30, seed=1) + 0.1, random_scores(2, 4, seed=2) + 0.1]
    weights = random_scores(2, 4, 30, seed=3)
    found = []
    for solve in (unrolled, None):
        leaves = [x.clone().requires_grad_() for x in inputs]
        if solve is None:
            plan = sinkhorn_ot(
                leaves[0], pixel_mass=leaves[1], class_mass=leaves[2], tol=1e-13, max_iter=5000, method=method
            ).plan
        else:
            plan = solve(*leaves)
        found.append(torch.autograd.grad((plan * weights).sum(), leaves))
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, atol=1e-9, rtol=1e-7)


def test_gradients_through_half_precision_and_dead_images_are_finite():
    scores = random_scores(2, 3, 20).half().requires_grad_()
    valid = torch.ones(2, 20, dtype=torch.bool)
    valid[1] = False
    sinkhorn_ot(scores, valid=valid).plan.float().square().sum().backward()
    assert torch.isfinite(scores.grad).all()
    assert (scores.grad[1] == 0).all()
    assert (scores.grad[0] != 0).any()


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("size", [100, 5000])
def test_the_plan_does_not_depend_on_requires_grad(size):
    for seed in range(5):
        scores = random_scores(3, 4, size, seed=seed, dtype=torch.float32)
        scores[0] = (scores[0] > 0.5).float()
        for reg in (0.1, 0.001):
            plain = sinkhorn_ot(scores, reg=reg).plan
            recorded = sinkhorn_ot(scores.clone().requires_grad_(), reg=reg).plan
            assert recorded.requires_grad
            # To rounding: with a graph the shares are computed once more, by torch.
            assert torch.allclose(plain * size, recorded.detach() * size, rtol=0, atol=1e-6)


@pytest.mark.filterwarnings("ignore::dhr_refine.ConvergenceWarning")
@pytest.mark.parametrize("method", ["newton", "sinkhorn"])
def test_out_of_passes_the_plan_still_does_not_depend_on_requires_grad(method):
    scores = random_scores(1, 4, 100, dtype=torch.float32)
    options = {"method": method, "max_iter": 3, "tol": 1e-6, "reg": 0.02}
    plain = sinkhorn_ot(scores, **options)
    recorded = sinkhorn_ot(scores.clone().requires_grad_(), **options)
    assert plain.residual > 1e-5
    assert torch.allclose(plain.plan * 100, recorded.plan.detach() * 100, rtol=0, atol=1e-6)
    error = marginal_error(recorded, torch.ones(1, 4)).detach()
    assert torch.allclose(error.float(), recorded.residual, rtol=1e-3)


def test_no_graph_is_kept_without_need():
    scores = random_scores(1, 3, 10).requires_grad_()
    with torch.no_grad():
        assert not sinkhorn_ot(scores).plan.requires_grad
    assert not sinkhorn_ot(scores, method="pot").plan.requires_grad
    result = sinkhorn_ot(scores)
    assert not result.residual.requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_second_derivatives_are_refused(dtype):
    """The matrix of the implicit step is a constant: their value would be wrong."""
    scores = random_scores(1, 3, 50, dtype=dtype).requires_grad_()
    plan = sinkhorn_ot(scores).plan
    (gradient,) = torch.autograd.grad((plan**2).sum(), scores, retain_graph=True)
    assert not gradient.requires_grad
    with pytest.raises(RuntimeError, match=r"sinkhorn_ot has first derivatives only: .* create_graph=True"):
        torch.autograd.grad((plan**2).sum(), scores, create_graph=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_forward_mode_is_refused():
    """Its derivative would be zero, without a word."""
    scores = random_scores(1, 3, 50)
    with forward_ad.dual_level():
        moving = forward_ad.make_dual(scores, torch.ones_like(scores))
        with pytest.raises(RuntimeError, match="no derivatives in forward mode: call backward"):
            sinkhorn_ot(moving)
        with pytest.raises(RuntimeError, match="no derivatives in forward mode"):
            sinkhorn_ot(scores, pixel_mass=moving[:, 0])
        assert sinkhorn_ot(scores).plan.isfinite().all()


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.vmap, torch.func.jacrev])
def test_transforms_of_torch_func_are_refused(transform):
    with pytest.raises(TypeError, match=r"scores is within a transform such as torch.func.vmap .* outside"):
        transform(lambda scores: sinkhorn_ot(scores.view(1, 3, -1)).plan.sum())(random_scores(2, 3, 50))


@pytest.mark.parametrize(("mass", "size"), [("pixel_mass", 50), ("class_mass", 3)])
def test_masses_within_a_transform_are_refused(mass, size):
    scores = random_scores(2, 3, 50)
    with pytest.raises(TypeError, match=f"{mass} is within a transform such as torch.func.vmap"):
        torch.func.grad(lambda values: sinkhorn_ot(scores, **{mass: values}).plan.sum())(torch.ones(size))
