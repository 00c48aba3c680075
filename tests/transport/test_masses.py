"""Masks, masses and degenerate problems of sinkhorn_ot, and a fuzz of hard ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transport_problems import METHODS, fuzz_problem, marginal_error, random_scores

from dhr_refine import sinkhorn_ot
from dhr_refine.compiled import lookup
from dhr_refine.transport.released import early_stopped_weights


@pytest.mark.parametrize("method", METHODS)
def test_masked_pixels_get_nothing_and_change_nothing(method):
    scores = random_scores(1, 3, 6, 10)
    valid = torch.rand(1, 6, 10) > 0.4
    result = sinkhorn_ot(scores, valid=valid, tol=1e-11, max_iter=10_000, method=method)
    assert (result.plan.movedim(1, -1)[~valid] == 0).all()
    kept = scores.movedim(1, -1)[valid].T[None]
    alone = sinkhorn_ot(kept, tol=1e-11, max_iter=10_000, method=method).plan
    assert torch.allclose(result.plan.movedim(1, -1)[valid].T[None], alone, atol=1e-11, rtol=0)
    flat = sinkhorn_ot(scores.flatten(2), valid=valid.flatten(1), tol=1e-11, max_iter=10_000, method=method)
    assert torch.equal(flat.plan.view_as(result.plan), result.plan)


@pytest.mark.parametrize("method", METHODS)
def test_masked_classes_get_nothing_and_change_nothing(method):
    scores = random_scores(2, 4, 50)
    valid = torch.tensor([[True, False, True, True], [True, True, True, True]])
    result = sinkhorn_ot(scores, valid=valid, tol=1e-11, max_iter=10_000, method=method)
    assert (result.plan[0, 1] == 0).all()
    alone = sinkhorn_ot(scores[:1, [0, 2, 3]], tol=1e-11, max_iter=10_000, method=method).plan
    assert torch.allclose(result.plan[:1, [0, 2, 3]], alone, atol=1e-11, rtol=0)
    other = sinkhorn_ot(scores[1:], tol=1e-11, max_iter=10_000, method=method).plan
    assert torch.allclose(result.plan[1:], other, atol=1e-11, rtol=0)


@pytest.mark.parametrize("method", METHODS)
def test_masses_of_zero_mask_pixels_and_classes_together(method):
    scores = random_scores(1, 4, 60)
    a, b = torch.ones(1, 60), torch.tensor([[1.0, 0.0, 2.0, 1.0]])
    a[:, ::3] = 0
    result = sinkhorn_ot(scores, pixel_mass=a, class_mass=b, tol=1e-11, max_iter=10_000, method=method)
    assert (result.plan[:, 1] == 0).all()
    assert (result.plan[..., ::3] == 0).all()
    alone = sinkhorn_ot(
        scores[:, [0, 2, 3]][..., a[0] > 0], class_mass=torch.tensor([1.0, 2.0, 1.0]), tol=1e-12
    ).plan
    assert torch.allclose(result.plan[:, [0, 2, 3]][..., a[0] > 0], alone, atol=1e-10, rtol=0)


def test_masses_are_brought_to_sum_one_and_may_come_without_a_batch():
    scores = random_scores(2, 3, 4, 5)
    a, b = torch.rand(4, 5) + 0.1, torch.tensor([1.0, 2.0, 3.0])
    whole = sinkhorn_ot(scores, pixel_mass=a, class_mass=b, tol=1e-12)
    scaled = sinkhorn_ot(scores, pixel_mass=7 * a.expand(2, 4, 5), class_mass=3 * b.expand(2, 3), tol=1e-12)
    flat = sinkhorn_ot(scores, pixel_mass=a.flatten(), class_mass=b, tol=1e-12)
    assert torch.allclose(whole.plan, scaled.plan, atol=1e-7, rtol=0)  # a float32 mass is scaled in float32
    assert torch.equal(whole.plan, flat.plan)
    assert torch.allclose(whole.plan.sum((2, 3)), (b / 6).double().expand(2, 3), atol=1e-7)
    assert torch.allclose(whole.plan.sum(1), (a / a.sum()).double().expand(2, 4, 5), atol=1e-7)


def test_tiny_but_valid_total_masses_are_brought_to_sum_one():
    scores = random_scores(1, 2, 30)
    a = torch.full((30,), 1e-34, dtype=torch.float64)
    b = torch.tensor([1e-33, 3e-33], dtype=torch.float64)
    plan = sinkhorn_ot(scores, pixel_mass=a, class_mass=b, max_iter=20).plan
    assert torch.allclose(plan.sum(-1), torch.tensor([[0.25, 0.75]], dtype=torch.float64), atol=1e-3)


def test_the_mask_applies_to_given_masses():
    scores, a = random_scores(1, 2, 8), torch.arange(1.0, 9.0)
    valid = torch.tensor([[True] * 4 + [False] * 4])
    plan = sinkhorn_ot(scores, pixel_mass=a, valid=valid).plan
    assert torch.allclose(plan.sum(1)[0, :4], a[:4].double() / 10, atol=1e-6)
    assert (plan[..., 4:] == 0).all()
    b = torch.tensor([1.0, 3.0])
    plan = sinkhorn_ot(scores, class_mass=b, valid=torch.tensor([[False, True]])).plan
    assert torch.allclose(plan[:, 1], torch.full((1, 8), 1 / 8).double())


@pytest.mark.parametrize("method", METHODS)
def test_nothing_to_transport_gives_zeros(method):
    scores = random_scores(3, 2, 10)
    valid = torch.ones(3, 10, dtype=torch.bool)
    valid[1] = False
    masses = torch.tensor([[1.0, 1.0], [1.0, 1.0], [0.0, 0.0]])
    result = sinkhorn_ot(scores, valid=valid, class_mass=masses, method=method)
    assert (result.plan[1:] == 0).all()
    assert result.residual[1:].tolist() == [0.0, 0.0]
    assert result.iterations[1:].tolist() == [0, 0]
    assert abs(result.plan[0].sum() - 1) < 1e-9


@pytest.mark.parametrize("shape", [(0, 3, 5), (2, 0, 5), (2, 3, 0), (2, 3, 0, 4)])
def test_empty_axes_give_an_empty_plan(shape):
    result = sinkhorn_ot(torch.zeros(shape))
    assert result.plan.shape == shape
    assert result.residual.tolist() == [0.0] * shape[0]
    assert result.iterations.tolist() == [0] * shape[0]


@pytest.mark.parametrize("method", METHODS)
def test_one_pixel(method):
    b = torch.tensor([0.2, 0.3, 0.5])
    plan = sinkhorn_ot(random_scores(2, 3, 1), class_mass=b, method=method, tol=1e-10).plan
    assert torch.allclose(plan[..., 0], b.double().expand(2, 3), atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_one_class(method):
    result = sinkhorn_ot(random_scores(2, 1, 7, 9), method=method)
    assert torch.allclose(result.plan, torch.full((2, 1, 7, 9), 1 / 63).double())
    assert (result.residual < 1e-12).all()


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("level", [0.0, 0.5, 1.0, -7.0])
def test_constant_scores_give_the_product_of_the_masses(level):
    b = torch.tensor([0.7, 0.2, 0.1])
    plan = sinkhorn_ot(torch.full((1, 3, 50), level), class_mass=b).plan
    assert torch.allclose(plan, (b / 50)[None, :, None].expand(1, 3, 50), rtol=1e-3, atol=0)


def test_a_constant_per_class_or_pixel_changes_nothing():
    scores = random_scores(2, 3, 80)
    shifted = scores + random_scores(2, 3, 1, seed=1) + random_scores(2, 1, 80, seed=2)
    one, other = (sinkhorn_ot(s, tol=1e-12).plan for s in (scores, shifted))
    assert torch.allclose(one, other, atol=1e-13, rtol=0)


@pytest.mark.usefixtures("engine")
def test_hard_partitions_that_fit_the_masses_come_back():
    labels = torch.arange(120) % 3
    scores = torch.nn.functional.one_hot(labels, 3).T[None].float()
    for reg in (0.1, 0.01, 0.001):
        plan = sinkhorn_ot(scores, reg=reg).plan
        assert (plan.argmax(1)[0] == labels).all()
        wrong = (plan * 120 * (1 - scores)).sum(1).max()
        assert wrong <= 2 * math.exp(-1 / reg) * 1.001 + 1e-7


@pytest.mark.usefixtures("engine")
def test_hard_partitions_that_do_not_fit_still_meet_the_masses():
    scores = torch.nn.functional.one_hot((torch.arange(400) > 300).long(), 2).T[None].float()
    for reg in (0.1, 0.01, 0.001):
        result = sinkhorn_ot(scores, reg=reg)
        assert marginal_error(result, torch.ones(1, 2)).max() < 2e-3


@pytest.mark.usefixtures("engine")
def test_class_masses_down_to_1e_8(device):
    scores = random_scores(4, 4, 3000, dtype=torch.float32).to(device)
    b = torch.tensor([1.0, 1e-3, 1e-6, 1e-8], device=device)
    result = sinkhorn_ot(scores, class_mass=b)
    assert (result.residual <= 1e-3).all()
    assert (marginal_error(result, b.expand(4, -1)) <= 1.01e-3).all()


@pytest.mark.usefixtures("engine")
def test_a_whole_image_of_pixels():
    scores = random_scores(1, 5, 512, 512, dtype=torch.float32)
    result = sinkhorn_ot(scores)
    assert marginal_error(result, torch.ones(1, 5)).max() <= 1.01e-3
    assert result.iterations.max() <= 6
    assert (result.plan.double().sum(1) * 512**2 - 1).abs().max() < 1e-6


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(("dtype", "seeds"), [(torch.float32, range(150)), (torch.float64, range(200, 250))])
def test_fuzz_never_gives_nan_and_reports_the_residual_it_has(dtype, seeds):
    for seed in seeds:
        scores, reg, b, a = fuzz_problem(seed)
        scores, b = scores.to(dtype).requires_grad_(seed % 2 == 0), b.to(dtype)
        result = sinkhorn_ot(
            scores, reg=reg, class_mass=b, pixel_mass=None if a is None else a.to(dtype), max_iter=300
        )
        assert torch.isfinite(result.plan).all(), seed
        assert (result.plan >= 0).all(), seed
        error = marginal_error(result, b).detach()
        assert ((error - result.residual).abs() <= 2e-5 + 1e-2 * error).all(), (seed, error, result.residual)
        # Class masses of 1e-8 and a reg of 0.001 are within the promise: all of these converge.
        assert (result.residual <= 1e-3).all(), seed


@pytest.mark.usefixtures("engine")
def test_1600_problems_converge_or_say_that_they_did_not():
    """Masses down to 1e-8, one pixel, hard partitions, reg 0.1 to 0.001, 30 % of the pixels masked."""
    rng = np.random.default_rng(0)
    finished = 0
    for _ in range(100):
        count, size = (
            int(rng.integers(1, 12)),
            int(rng.choice([1, 2, 9, 50, 333, 1100], p=[0.2, 0.1, 0.2, 0.3, 0.15, 0.05])),
        )
        scores = rng.random((16, count, size))
        hard = rng.random(16) < 0.3
        scores[hard] = np.eye(count)[rng.integers(0, count, (int(hard.sum()), size))].swapaxes(1, 2)
        masses = 10.0 ** rng.uniform(-8, 0, (16, count))
        valid = torch.from_numpy(rng.random((16, 1, size)) > rng.choice([0.0, 0.3]))
        reg = float(10.0 ** rng.uniform(-3, -1))
        result = sinkhorn_ot(
            torch.from_numpy(scores).float()[:, :, None],
            reg=reg,
            class_mass=torch.from_numpy(masses).float(),
            valid=valid,
            max_iter=200,
        )
        plan = result.plan.double()[:, :, 0]
        assert torch.isfinite(plan).all()
        assert (plan >= 0).all()
        assert (plan.movedim(1, -1)[~valid[:, 0]] == 0).all()
        alive = valid.any(-1)[:, 0]
        pixels = valid[:, 0] / valid[:, 0].sum(-1, keepdim=True).clamp_min(1)
        assert torch.allclose(plan.sum(1), pixels.double(), rtol=1e-5, atol=1e-9)
        error = marginal_error(result, torch.from_numpy(masses).float())
        told = (error - result.residual).abs() <= 2e-5 + 1e-2 * error
        assert told[alive].all(), (error, result.residual)
        assert ((result.residual <= 1.001e-3) | (result.iterations == 200))[alive].all()
        assert (plan[~alive] == 0).all()
        finished += int((result.residual <= 1.001e-3).sum())
    assert finished >= 1590, finished


@pytest.mark.usefixtures("engine")
def test_masses_below_the_promise_are_reported_honestly():
    """A class of mass 1e-12 may not converge in float32; the residual then says so."""
    scores, reg, b, _ = fuzz_problem(86)
    b = b.float().clamp_min(1e-12)
    b[1, 6] = 1e-12
    result = sinkhorn_ot(scores.float(), reg=reg, class_mass=b, max_iter=60)
    assert torch.isfinite(result.plan).all()
    assert torch.allclose(marginal_error(result, b).float(), result.residual, rtol=1e-2, atol=2e-5)
    assert ((result.residual <= 1e-3) | (result.iterations == 60)).all()


@pytest.mark.parametrize("size", [60, 5000])
def test_the_compiled_loop_agrees_with_torch(size, monkeypatch):
    """Same algorithm, one stop: both are within their tolerance of the same plan."""
    pytest.importorskip("numba", reason="needs numba: pip install numba")
    scores, a = random_scores(3, 4, size, dtype=torch.float32), torch.rand(3, size)
    b = torch.tensor([0.6, 0.3, 0.1, 0.0])
    cases = [{}, {"pixel_mass": a}, {"class_mass": b}, {"class_mass": b, "pixel_mass": a, "reg": 0.02}]
    for options in cases:
        fast = sinkhorn_ot(scores, tol=1e-5, **options)
        with monkeypatch.context() as patch:
            patch.setattr(lookup, "usable", lambda: False)
            slow = sinkhorn_ot(scores, tol=1e-5, **options)
        assert torch.allclose(fast.plan * size, slow.plan * size, atol=2e-4, rtol=0)
        assert slow.solver == "torch"
        if not options:
            assert fast.solver == "numba"


def test_a_single_pixel_or_class_has_its_mass_brought_to_one():
    scores = torch.tensor([[[0.3], [0.6]]])
    plan = sinkhorn_ot(scores, pixel_mass=torch.tensor([[5.0]]), class_mass=torch.tensor([[1.0, 3.0]])).plan
    assert torch.allclose(plan[0, :, 0], torch.tensor([0.25, 0.75]), atol=1e-3)
    one = sinkhorn_ot(torch.rand(1, 1, 4), class_mass=torch.tensor([[7.0]])).plan
    assert torch.allclose(one, torch.full((1, 1, 4), 0.25))


def test_the_weights_of_the_released_code_on_a_single_pixel():
    """Its share of the mass is 1, not a half."""
    scores = torch.tensor([[[0.9, 0.1], [0.2, 0.8]]])
    inside = torch.tensor([[True, False]])
    weights = early_stopped_weights(scores, inside, torch.ones(1, 2, dtype=torch.bool))
    # One valid entry of a class is its least and its largest: scaled to 0.
    assert torch.equal(weights, torch.zeros(1, 2, 2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("count", "size"), [(3, 200), (5, 1000), (8, 4096), (9, 20000)])
def test_one_hot_scores_converge_at_a_small_regulariser(count, size, dtype):
    """Classes that share no pixel: nothing says how far their potentials have to move."""
    generator = torch.Generator().manual_seed(count)
    labels = torch.randint(count, (2, size), generator=generator)
    scores = torch.nn.functional.one_hot(labels, count).mT.to(dtype)
    plan = sinkhorn_ot(scores, reg=1e-3)
    assert plan.residual.max() <= 1e-3
    assert plan.iterations.max() <= 200
    assert (plan.plan.sum(-1) * count - 1).abs().max() <= 2e-3
