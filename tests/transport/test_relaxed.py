"""sinkhorn_ot with a class penalty: against NumPy, POT, its own definition and its limits."""

from __future__ import annotations

import math

import numpy as np
import ot
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from transport_problems import METHODS, fuzz_problem, random_scores, relaxed_error

from dhr_refine import ConvergenceWarning, sinkhorn_ot
from dhr_refine.compiled import lookup
from dhr_refine.transport.solver import solve

WIDE = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
EXACT = {"tol": 1e-13, "max_iter": 20_000}


def kl(m: np.ndarray, b: np.ndarray) -> float:
    return float((m * np.log(m / b) - m + b).sum())


def objective(plan: np.ndarray, scores: np.ndarray, reg: float, penalty: float, b: np.ndarray) -> float:
    """What a relaxed plan (K, N) of positive entries minimises."""
    entropy = -(plan * (np.log(plan) - 1)).sum()
    return float((plan * (1 - scores)).sum() - reg * entropy + penalty * kl(plan.sum(1), b))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("reg", "penalty"), [(1.0, 1e-3), (1.0, 10.0), (0.1, 1e-6), (0.1, 0.1), (0.1, 1.0), (0.02, 0.02)]
)
def test_equals_the_reference_in_float64(method, reg, penalty):
    scores, a = random_scores(2, 4, 90, seed=1), random_scores(2, 90, seed=2) + 0.01
    a[:, ::7] = 0
    b = torch.tensor([[0.7, 0.2, 0.1, 0.0], [0.25, 0.25, 0.25, 0.25]]).double()
    options = {"reg": reg, "class_penalty": penalty}
    plan = sinkhorn_ot(scores, pixel_mass=a, class_mass=b, method=method, **options, **EXACT).plan
    for one, own, x, y in zip(scores, plan, a, b, strict=True):
        expected, _ = reference.sinkhorn(one.numpy(), reg, x.numpy(), y.numpy(), penalty)
        assert np.abs(own.numpy() - expected).max() * 90 < 1e-10


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("penalty", [1e-6, 0.03, 0.1, 1.0])
@pytest.mark.parametrize(("count", "size"), [(4, 300), (3, 4096), (11, 1500)])
def test_float32_shares_are_within_a_few_1e_6_of_the_reference(count, size, penalty):
    scores = random_scores(2, count, size, seed=3, dtype=torch.float32)
    result = sinkhorn_ot(scores, class_penalty=penalty, tol=1e-9)
    for one, own in zip(scores, result.plan, strict=True):
        expected = reference.sinkhorn(one.numpy(), 0.1, class_penalty=penalty)[1]
        assert np.abs(own.double().numpy() * size - expected).max() < 5e-6
    # As many passes as the balanced problem may take: the safeguarded loop is not needed.
    assert sinkhorn_ot(scores, class_penalty=penalty).iterations.max() <= 6


@pytest.mark.parametrize(("reg", "penalty"), [(0.1, 0.1), (0.1, 3.0), (0.5, 0.01)])
def test_equals_the_relaxed_solver_of_pot(reg, penalty):
    scores = random_scores(3, 50, seed=4)
    a, b = np.full(50, 1 / 50), np.array([0.6, 0.3, 0.1])
    expected = ot.unbalanced.sinkhorn_unbalanced(
        a,
        b,
        1 - scores.numpy().T,
        reg,
        (math.inf, penalty),
        c=np.ones((50, 3)),
        numItermax=5000,
        stopThr=1e-15,
    )
    plan = sinkhorn_ot(
        scores[None], reg=reg, class_penalty=penalty, class_mass=torch.from_numpy(b), **EXACT
    ).plan
    assert np.abs(plan[0].numpy() - expected.T).max() < 1e-11


@pytest.mark.parametrize("penalty", [1e-3, 0.1, 2.0])
def test_no_other_plan_with_these_pixel_masses_is_better(penalty):
    scores, b = random_scores(3, 8, seed=5).numpy(), np.array([0.5, 0.3, 0.2])
    options = {"class_penalty": penalty, "class_mass": torch.from_numpy(b), **EXACT}
    plan = sinkhorn_ot(torch.from_numpy(scores)[None], **options).plan[0].numpy()
    best = objective(plan, scores, 0.1, penalty, b)
    rng = np.random.default_rng(0)
    for length in (1e-2, 1e-4):
        for _ in range(50):
            other = plan * np.exp(length * rng.standard_normal(plan.shape))
            other *= plan.sum(0) / other.sum(0)
            gain = objective(other, scores, 0.1, penalty, b) - best
            # It grows with the square of the distance: the slope is zero here.
            assert 0 < gain < 2 * (0.1 + penalty) * length**2


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("method", METHODS)
@WIDE
def test_infinity_is_the_balanced_plan_bit_for_bit(method, dtype):
    for reg in (0.1, 0.03):
        scores, b = random_scores(2, 4, 1200, seed=6, dtype=dtype), torch.tensor([0.5, 0.3, 0.2, 0.0])
        options = {"reg": reg, "class_mass": b.to(dtype), "method": method}
        balanced, limit = (sinkhorn_ot(scores, class_penalty=p, **options) for p in (None, math.inf))
        for one, other in zip(balanced, limit, strict=True):
            assert torch.equal(one, other)
        assert limit.solver == balanced.solver


@pytest.mark.parametrize("method", METHODS)
def test_a_large_penalty_comes_near_the_balanced_plan(method):
    scores, b = random_scores(1, 4, 200, seed=7), torch.tensor([0.6, 0.2, 0.15, 0.05]).double()
    balanced = sinkhorn_ot(scores, class_mass=b, method=method, **EXACT).plan
    gaps = [
        (sinkhorn_ot(scores, class_mass=b, class_penalty=penalty, method=method, **EXACT).plan - balanced)
        .abs()
        .max()
        for penalty in (1e2, 1e4, 1e6)
    ]
    # The distance goes with 1 / penalty.
    assert 50 < gaps[0] / gaps[1] < 200
    assert 50 < gaps[1] / gaps[2] < 200
    assert gaps[2] * 200 < 1e-5


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reg", [1.0, 0.1, 0.02])
@WIDE
def test_a_small_penalty_comes_near_the_softmax_of_each_pixel(method, reg, dtype):
    scores, b = random_scores(2, 4, 300, seed=8, dtype=dtype), torch.tensor([0.9, 0.06, 0.03, 0.01])
    options = {"reg": reg, "class_mass": b.to(dtype), "method": method}
    plan = sinkhorn_ot(scores, class_penalty=1e-9, **options).plan * 300
    assert torch.allclose(plan, torch.softmax(scores / reg, dim=1), atol=1e-6, rtol=1e-5)
    # A class of no mass still takes no part.
    b[0] = 0
    options["class_mass"] = b.to(dtype)
    plan = sinkhorn_ot(scores, class_penalty=1e-9, **options).plan * 300
    assert (plan[:, 0] == 0).all()
    assert torch.allclose(plan[:, 1:], torch.softmax(scores[:, 1:] / reg, dim=1), atol=1e-6, rtol=1e-5)


@given(seed=st.integers(0, 10**6), count=st.integers(2, 5), size=st.integers(1, 40))
def test_a_larger_penalty_brings_the_class_sums_nearer(seed, count, size):
    rng = np.random.default_rng(seed)
    scores, b = rng.random((count, size)), rng.dirichlet(np.ones(count)) * 0.9 + 0.1 / count
    penalties = (1e-4, 1e-2, 0.1, 1.0, 100.0)
    found = [
        sinkhorn_ot(
            torch.from_numpy(scores)[None],
            class_mass=torch.from_numpy(b),
            class_penalty=penalty,
            tol=1e-12,
        ).plan[0]
        for penalty in penalties
    ]
    distances = [kl(plan.sum(1).numpy(), b) for plan in found]
    costs = [objective(plan.numpy(), scores, 0.1, 0.0, b) for plan in found]
    for near, far in zip(distances[1:], distances[:-1], strict=True):
        assert near <= far + 1e-12
    for dear, cheap in zip(costs[1:], costs[:-1], strict=True):
        assert dear >= cheap - 1e-12


@given(seed=st.integers(0, 10**6), count=st.integers(1, 6), size=st.integers(1, 60))
def test_reordering_classes_and_pixels_reorders_the_relaxed_plan(seed, count, size):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(1, count, size, generator=generator, dtype=torch.float64)
    b = torch.rand(count, generator=generator, dtype=torch.float64) + 0.05
    classes, pixels = (torch.randperm(n, generator=generator) for n in (count, size))
    options = {"class_penalty": 0.1, "tol": 1e-12}
    plan = sinkhorn_ot(scores, class_mass=b, **options).plan
    moved = sinkhorn_ot(scores[:, classes][..., pixels], class_mass=b[classes], **options).plan
    assert torch.allclose(moved, plan[:, classes][..., pixels], atol=1e-10 / size, rtol=1e-8)


def test_the_scale_of_masses_and_a_constant_per_pixel_change_nothing():
    scores, a, b = random_scores(2, 3, 80), random_scores(2, 80, seed=1), random_scores(2, 3, seed=2) + 0.1
    options = {"class_penalty": 0.1, **EXACT}
    plan = sinkhorn_ot(scores, pixel_mass=a, class_mass=b, **options).plan
    scaled = sinkhorn_ot(scores, pixel_mass=a * 5, class_mass=b * 1e3, **options).plan
    assert torch.allclose(plan, scaled, atol=1e-13, rtol=0)
    shifted = sinkhorn_ot(scores + random_scores(2, 1, 80, seed=3), pixel_mass=a, class_mass=b, **options)
    assert torch.allclose(plan, shifted.plan, atol=1e-13, rtol=0)
    # A constant per class does: it makes the class more attractive, at a price.
    raised = sinkhorn_ot(
        scores + torch.tensor([0.1, 0, 0])[:, None], pixel_mass=a, class_mass=b, **options
    ).class_mass
    assert (raised[:, 0] > plan.sum(-1)[:, 0] + 1e-3).all()


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("method", METHODS)
@WIDE
def test_masked_pixels_and_classes_change_nothing_for_the_others(method, dtype):
    scores = random_scores(3, 4, 6, 10, dtype=dtype)
    valid = random_scores(3, 6, 10, seed=1) > 0.4
    valid[2] = False
    b = torch.tensor([[1.0, 0.0, 2.0, 1.0], [1.0, 1.0, 1.0, 1.0], [1.0, 1.0, 1.0, 1.0]], dtype=dtype)
    tol = 1e-11 if dtype == torch.float64 else 1e-6
    options = {"class_penalty": 0.05, "tol": tol, "max_iter": 1000, "method": method}
    result = sinkhorn_ot(scores, valid=valid, class_mass=b, **options)
    assert (result.plan.movedim(1, -1)[~valid] == 0).all()
    assert (result.plan[0, 1] == 0).all()
    assert (result.plan[2] == 0).all()
    assert result.residual[2] == 0
    assert result.iterations[2] == 0
    close = {"atol": 1e-11 if dtype == torch.float64 else 1e-7, "rtol": 0}
    for image, classes in ((0, [0, 2, 3]), (1, [0, 1, 2, 3])):
        kept = scores[image][:, valid[image]][classes][None]
        alone = sinkhorn_ot(kept, class_mass=b[image, classes], **options).plan
        assert torch.allclose(result.plan[image][:, valid[image]][classes], alone[0], **close)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("size", [150, 5000])
@WIDE
def test_a_relaxed_batch_equals_its_images(size, dtype):
    scores = random_scores(4, 3, size, dtype=dtype)
    scores[1] *= 0.01
    scores[2] = scores[2].round()
    options = {"class_penalty": 0.2, "tol": 1e-10 if dtype == torch.float64 else 1e-6}
    batch = sinkhorn_ot(scores, **options)
    for b in range(4):
        alone = sinkhorn_ot(scores[b : b + 1], **options)
        limit = 1e-8 if dtype == torch.float64 else 1e-5
        assert (batch.plan[b] - alone.plan[0]).abs().max() * size < limit


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("method", METHODS)
def test_degenerate_problems(method):
    one_class = sinkhorn_ot(random_scores(2, 1, 7, 9), class_penalty=0.1, method=method)
    assert torch.allclose(one_class.plan, torch.full((2, 1, 7, 9), 1 / 63).double())
    assert (one_class.residual < 1e-12).all()
    # One pixel: its shares weigh the scores against the masses, b^f times exp(f S / reg) with f = 1 / 2 here.
    scores, b = random_scores(2, 3, 1), torch.tensor([0.2, 0.3, 0.5]).double()
    plan = sinkhorn_ot(scores, class_mass=b, class_penalty=0.1, method=method, **EXACT).plan
    expected = torch.softmax(scores[..., 0] / 0.2 + b.log() / 2, dim=-1)
    assert torch.allclose(plan[..., 0], expected, atol=1e-12)
    # Constant scores: nothing is gained by other class sums than those of an even spread and the masses.
    plan = sinkhorn_ot(
        torch.full((1, 3, 50), 0.7), class_mass=b.float(), class_penalty=0.1, method=method, tol=1e-6
    ).plan
    expected = b.sqrt() / b.sqrt().sum() / 50
    assert torch.allclose(plan[0].double(), expected[:, None].expand(3, 50), rtol=1e-5, atol=0)
    for shape in ((0, 3, 5), (2, 0, 5), (2, 3, 0)):
        assert sinkhorn_ot(torch.zeros(shape), class_penalty=1.0, method=method).plan.shape == shape


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("tol", [1e-1, 1e-3, 1e-6, 1e-11])
@pytest.mark.parametrize("penalty", [1e-3, 0.1, 10.0])
def test_the_residual_is_honest_and_within_tol(method, tol, penalty):
    scores, b = random_scores(3, 5, 3000, seed=7), torch.tensor([0.5, 0.2, 0.15, 0.1, 0.05]).double()
    result = sinkhorn_ot(scores, class_mass=b, class_penalty=penalty, tol=tol, max_iter=5000, method=method)
    assert (result.residual <= tol).all()
    error = relaxed_error(result, scores, 0.1, penalty, b)
    assert (error - result.residual).abs().max() < 1e-10


@pytest.mark.filterwarnings("ignore::dhr_refine.ConvergenceWarning")
@pytest.mark.parametrize("method", METHODS)
def test_running_out_of_passes_is_reported_as_it_is(method):
    scores, b = random_scores(2, 6, 200, seed=8), torch.tensor([0.4, 0.3, 0.2, 0.05, 0.03, 0.02]).double()
    options = {"reg": 0.02, "class_penalty": 0.2, "class_mass": b, "method": method}
    result = sinkhorn_ot(scores, tol=1e-12, max_iter=2, **options)
    assert result.iterations.tolist() == [2, 2]
    assert (result.residual > 1e-3).all()
    error = relaxed_error(result, scores, 0.02, 0.2, b)
    assert (error - result.residual).abs().max() < 1e-6 * error.max()
    assert (result.plan.sum(1) * 200 - 1).abs().max() < 1e-9
    with pytest.warns(ConvergenceWarning, match=r"did not reach tol=1e-12 in 2 passes") as seen:
        sinkhorn_ot(scores, tol=1e-12, max_iter=2, **options)
    assert len(seen) == 1
    assert seen[0].filename == __file__


@pytest.mark.usefixtures("engine")
def test_a_tolerance_below_float32_still_ends_when_relaxed():
    scores, b = random_scores(4, 5, 5000, dtype=torch.float32), torch.tensor([1.0, 1e-2, 1e-4, 1e-6, 1e-8])
    for penalty in (1e-6, 1e-2, 0.1, 1.0, 1e3, 1e6):
        result = sinkhorn_ot(scores, class_mass=b, class_penalty=penalty, tol=1e-30)
        assert (result.iterations < 50).all()
        assert (result.residual < 5e-6).all()


@pytest.mark.filterwarnings("ignore::dhr_refine.ConvergenceWarning")
def test_pot_gives_up_where_its_numbers_end_and_the_residual_says_so():
    """Its relaxed solver has no logarithms: exp(-1000) is nothing."""
    scores = torch.tensor([[[1.0, 1.0, 1.0], [0.0, 0.0, 0.0]]]).double()
    result = sinkhorn_ot(scores, reg=1e-3, class_penalty=1.0, method="pot")
    assert torch.isfinite(result.plan).all()
    assert result.residual > 1e-3
    assert sinkhorn_ot(scores, reg=1e-3, class_penalty=1.0).residual <= 1e-3


def test_pot_does_not_give_up_because_all_scores_are_low():
    """What all classes of a pixel have in common does not make its kernel vanish."""
    scores = random_scores(1, 3, 60) * 0.1 - 1.0
    options = {"reg": 2e-3, "class_penalty": 1e-3, "tol": 1e-9}
    plans = [sinkhorn_ot(scores, method=method, **options).plan for method in ("pot", "newton")]
    assert torch.allclose(plans[0] * 60, plans[1] * 60, atol=1e-7)


@pytest.mark.parametrize("size", [60, 5000])
@pytest.mark.parametrize("penalty", [1e-5, 0.1, 10.0])
def test_the_compiled_loop_agrees_with_torch_when_relaxed(size, penalty, monkeypatch):
    pytest.importorskip("numba", reason="needs numba: pip install numba")
    scores, a = random_scores(3, 4, size, dtype=torch.float32), torch.rand(3, size)
    b = torch.tensor([0.6, 0.3, 0.1, 0.0])
    cases = [{}, {"pixel_mass": a}, {"class_mass": b}, {"class_mass": b, "pixel_mass": a, "reg": 0.06}]
    for options in cases:
        fast = sinkhorn_ot(scores, tol=1e-5, class_penalty=penalty, **options)
        with monkeypatch.context() as patch:
            patch.setattr(lookup, "usable", lambda: False)
            slow = sinkhorn_ot(scores, tol=1e-5, class_penalty=penalty, **options)
        assert torch.allclose(fast.plan * size, slow.plan * size, atol=1e-4, rtol=0)
        assert (fast.iterations - slow.iterations).abs().max() <= 1
        assert slow.solver == "torch"
        assert fast.solver == "numba"


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(("dtype", "seeds"), [(torch.float32, range(100)), (torch.float64, range(200, 240))])
def test_fuzz_of_relaxed_problems_converges_and_is_honest(dtype, seeds):
    """Class masses from 1e-8, reg 10 to 0.001, penalties from 1e-6 to 1e6."""
    checked = 0
    for seed in seeds:
        scores, reg, b, a = fuzz_problem(seed)
        rng = np.random.default_rng(seed)
        penalty = float(10 ** rng.uniform(-6, 6)) if seed % 2 else reg * float(10 ** rng.uniform(-2, 2))
        reg = reg if rng.random() < 0.8 else float(rng.choice([10.0, 1.0, 0.3]))
        scores, b = scores.to(dtype).requires_grad_(seed % 3 == 0), b.to(dtype)
        a = None if a is None else a.to(dtype)
        result = sinkhorn_ot(scores, reg=reg, class_mass=b, pixel_mass=a, class_penalty=penalty, max_iter=150)
        plan = result.plan.detach().double()
        assert torch.isfinite(plan).all(), seed
        assert (plan >= 0).all(), seed
        pixels = torch.full((2, plan.shape[-1]), 1 / plan.shape[-1]) if a is None else a / a.sum(-1, True)
        assert torch.allclose(plan.sum(1), pixels.double(), rtol=1e-5, atol=0), seed
        assert (plan.movedim(1, -1).masked_select(b[:, None] == 0) == 0).all(), seed
        assert (result.residual <= 1e-3).all(), (seed, result.residual)
        # Read back from a rounded plan, what is asked for is known to this.
        rounding = 50 * torch.finfo(dtype).eps * (1 / penalty + reg / penalty)
        error = relaxed_error(result, scores.detach(), reg, penalty, b, a)
        known = error.isfinite() & torch.tensor(rounding < 1e-3)
        assert (error <= 1e-3 + rounding + 1e-5)[known].all(), (seed, error)
        checked += int(known.sum())
    assert checked >= len(seeds)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("max_iter", [1, 2, 7, 9])
@pytest.mark.filterwarnings("ignore::dhr_refine.ConvergenceWarning")
@pytest.mark.parametrize(("reg", "penalty"), [(0.051, 5.0), (0.01, 1.0), (0.01, 1e-3)])
@WIDE
def test_no_more_passes_than_allowed_when_relaxed(max_iter, reg, penalty, dtype):
    generator = torch.Generator().manual_seed(4)
    labels = torch.randint(4, (2, 300), generator=generator)
    scores = torch.nn.functional.one_hot(labels, 4).mT.to(dtype)
    b = torch.tensor([0.7, 0.2, 0.08, 0.02], dtype=dtype)
    result = sinkhorn_ot(scores, reg=reg, class_penalty=penalty, class_mass=b, max_iter=max_iter, tol=1e-14)
    assert result.iterations.max() <= max_iter


def test_slack_lets_sinkhorn_steps_finish_a_hard_problem():
    scores = random_scores(4, 5, 500, seed=9)
    for penalty in (1e-4, 1e-3, 1e-2, 0.1, 1e3):
        result = sinkhorn_ot(scores, reg=1e-3, class_penalty=penalty)
        assert result.iterations.max() <= 30


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16])
def test_half_precision_and_other_layouts(low):
    scores = random_scores(2, 3, 6, 7).to(low)
    result, exact = (sinkhorn_ot(x, class_penalty=0.1) for x in (scores, scores.float()))
    assert torch.equal(result.plan, exact.plan.to(low))
    assert torch.equal(result.residual, exact.residual)
    assert result.class_mass.dtype == torch.float32
    turned = scores.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    assert torch.equal(sinkhorn_ot(turned, class_penalty=0.1).plan, result.plan)


def test_the_class_sums_are_reported():
    scores = random_scores(2, 3, 6, 7)
    balanced, relaxed = sinkhorn_ot(scores), sinkhorn_ot(scores, class_penalty=0.01)
    assert torch.equal(relaxed.class_mass, relaxed.plan.flatten(2).sum(-1))
    assert relaxed.class_mass.shape == (2, 3)
    assert (balanced.class_mass * 3 - 1).abs().max() <= 1e-3
    assert (relaxed.class_mass * 3 - 1).abs().max() > 1e-2
    assert (relaxed.class_mass.sum(-1) - 1).abs().max() < 1e-12


def test_the_steps_get_the_same_shares():
    scores, b = random_scores(2, 3, 70, dtype=torch.float32), torch.tensor([[0.5, 0.5, 0.0]]).expand(2, 3)
    plan = sinkhorn_ot(scores, class_mass=b, class_penalty=0.1).plan
    for penalty, same in ((0.1, True), (None, False), (math.inf, False)):
        shares = solve(scores, None, b, reg=0.1, tol=1e-3, class_penalty=penalty).shares
        assert torch.allclose(shares, plan * 70, atol=1e-6) is same


@pytest.mark.parametrize(
    ("penalty", "error", "text"),
    [
        (0.0, ValueError, r"class_penalty must lie in \[1e-12, inf\], got 0.0: pass a number in that range"),
        (-1, ValueError, r"class_penalty must lie in \[1e-12, inf\], got -1: pass"),
        (-math.inf, ValueError, r"class_penalty must lie in \[1e-12, inf\], got -inf"),
        (math.nan, ValueError, r"class_penalty must lie in \[1e-12, inf\], got nan"),
        ("0.1", TypeError, "class_penalty must be a number, got str '0.1': pass a Python float"),
        (True, TypeError, "class_penalty must be a number, got bool True"),
        ([0.1, 0.2], TypeError, "class_penalty must be a number, got list"),
        (torch.tensor([0.1, 0.2]), TypeError, "class_penalty must be a number, got a torch.float32 tensor"),
    ],
)
def test_a_wrong_penalty_is_named(penalty, error, text):
    for shape in ((2, 3, 50), (2, 3, 0)):
        with pytest.raises(error, match=text):
            sinkhorn_ot(torch.zeros(shape), class_penalty=penalty)


@pytest.mark.parametrize("penalty", [1e-12, 1e-9, 1e9, 1e300, 1])
@pytest.mark.parametrize("reg", [1e-3, 0.1, 10.0, 1e9, 1e300])
@WIDE
def test_penalties_at_the_ends_of_their_range(penalty, reg, dtype):
    scores, b = random_scores(1, 3, 40, dtype=dtype), torch.tensor([0.9, 0.1 - 1e-6, 1e-6], dtype=dtype)
    # Plain Sinkhorn takes minutes for what is hard and nearly balanced.
    for method in ("newton", "sinkhorn") if reg > 0.01 else ("newton",):
        result = sinkhorn_ot(
            scores, reg=reg, class_penalty=penalty, class_mass=b, method=method, max_iter=20_000
        )
        assert torch.isfinite(result.plan).all()
        assert result.residual <= 1e-3
