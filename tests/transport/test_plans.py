"""sinkhorn_ot against POT, against the NumPy reference, and against its own definition."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from transport_problems import METHODS, marginal_error, pot_plan, random_scores

from dhr_refine import ConvergenceWarning, sinkhorn_ot
from dhr_refine.transport.released import early_stopped_weights


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("reg", [1.0, 0.1, 0.03])
def test_equals_pot_run_to_convergence_in_float64(method, reg):
    scores = random_scores(2, 4, 300)
    plan = sinkhorn_ot(scores, reg=reg, tol=1e-13, max_iter=100_000, method=method).plan
    for one, own in zip(scores, plan, strict=True):
        assert np.abs(own.numpy() - pot_plan(one, reg)).max() < 1e-12


@pytest.mark.parametrize("size", [37, 5000])
def test_equals_pot_with_uneven_masses_in_float64(size):
    scores = random_scores(1, 5, size, seed=3)
    a, b = random_scores(1, size, seed=4) + 0.01, torch.tensor([[0.5, 0.3, 0.1, 0.09, 0.01]]).double()
    plan = sinkhorn_ot(scores, pixel_mass=a, class_mass=b, tol=1e-13).plan[0]
    assert np.abs(plan.numpy() - pot_plan(scores[0], 0.1, a[0].numpy(), b[0].numpy())).max() < 1e-9 / size


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("size", [7, 300, 4096])
@pytest.mark.parametrize("count", [4, 11])
def test_float32_shares_are_within_a_few_1e_6_of_pot(count, size):
    scores = random_scores(1, count, size, seed=1, dtype=torch.float32)
    plan = sinkhorn_ot(scores, tol=1e-9).plan[0].double().numpy()
    assert np.abs(plan - pot_plan(scores[0], 0.1)).max() * size < 3e-6
    # More than the lean loop's six passes would mean that the safeguarded one had to put it right.
    assert sinkhorn_ot(scores).iterations.max() <= 6


def test_equals_the_reference_loop():
    scores = random_scores(1, 3, 40, seed=2)
    plan = sinkhorn_ot(scores, tol=1e-13).plan[0].numpy()
    assert np.abs(plan - reference.sinkhorn(scores[0].numpy(), 0.1)[0]).max() < 1e-13


def test_the_reference_loop_equals_pot():
    scores = random_scores(3, 40, seed=2)
    assert np.abs(reference.sinkhorn(scores.numpy(), 0.1)[0] - pot_plan(scores, 0.1)).max() < 1e-13


@pytest.mark.parametrize("reg", [0.1, 0.01])
def test_methods_agree(reg):
    scores = random_scores(2, 4, 500, seed=5)
    valid = torch.ones(2, 500, dtype=torch.bool)
    valid[1, 400:] = False
    plans = [
        sinkhorn_ot(scores, reg=reg, valid=valid, tol=1e-11, max_iter=100_000, method=method).plan
        for method in METHODS
    ]
    assert (plans[0] - plans[1]).abs().max() * 500 < 1e-8
    assert (plans[0] - plans[2]).abs().max() * 500 < 1e-8


def test_marginals(device, dtype):
    scores = random_scores(3, 4, 12, 15, dtype=dtype).to(device)
    result = sinkhorn_ot(scores)
    assert result.plan.shape == scores.shape
    assert result.plan.dtype == dtype
    assert result.plan.device == scores.device
    assert (result.plan >= 0).all()
    # Only the rounding of the output itself is left over the tolerance.
    rounding = torch.finfo(dtype).eps
    plan = result.plan.double().flatten(2)
    assert (plan.sum((1, 2)) - 1).abs().max() < 1e-6 + rounding
    assert ((plan.sum(1) * 180) - 1).abs().max() < 1e-6 + rounding * 2
    assert (plan.sum(2) * 4 - 1).abs().max() < 1e-3 + rounding
    assert (result.residual <= 1e-3).all()
    assert result.iterations.dtype == torch.int64
    assert result.residual.shape == result.iterations.shape == (3,)


def test_plan_times_pixels_is_a_share():
    shares = sinkhorn_ot(random_scores(2, 3, 8, 9)).plan * 72
    assert torch.allclose(shares.sum(1), torch.ones(2, 8, 9, dtype=torch.float64), atol=1e-12)


@pytest.mark.parametrize("tol", [1e-1, 1e-3, 1e-6, 1e-12])
@pytest.mark.parametrize("method", METHODS)
def test_residual_is_honest_and_within_tol(tol, method):
    scores = random_scores(3, 5, 6000, seed=7)
    result = sinkhorn_ot(scores, tol=tol, max_iter=100_000, method=method)
    error = marginal_error(result, torch.ones(3, 5))
    assert (result.residual <= tol).all()
    assert (error - result.residual).abs().max() < 1e-12


@pytest.mark.parametrize("method", METHODS)
def test_the_tolerance_is_relative_to_each_class_mass(method):
    scores, b = random_scores(1, 3, 300, seed=9), torch.tensor([0.9, 0.0999, 0.0001])
    result = sinkhorn_ot(scores, class_mass=b, method=method)
    assert marginal_error(result, b[None]).max() <= 1e-3


def test_the_weights_of_the_released_code_floor_their_range():
    """golden/README.md: (x - min) / max(max - min, 1e-5); the plan of a large image spans less than 1e-5."""
    scores = random_scores(1, 2, 200_000, dtype=torch.float32)
    inside = torch.ones(1, 200_000, dtype=torch.bool)
    weights = early_stopped_weights(scores, inside, torch.ones(1, 2, dtype=torch.bool))
    kernel = np.exp((scores[0].double().numpy() - 1) / 0.1)
    columns, rows = np.ones(2), np.ones(200_000)
    for _ in range(100):
        before, rows = rows, 1 / 200_000 / (columns @ kernel)
        columns = 0.5 / (kernel @ rows)
        if np.abs(rows - before).mean() < 1e-2:
            break
    plan = rows * kernel * columns[:, None]
    low, high = plan.min(1, keepdims=True), plan.max(1, keepdims=True)
    assert (high - low < 1e-5).all()
    assert np.abs(weights[0].numpy() - (plan - low) / 1e-5).max() < 1e-4


@pytest.mark.filterwarnings("ignore::dhr_refine.ConvergenceWarning")
@pytest.mark.parametrize("method", METHODS)
def test_running_out_of_passes_is_reported(method):
    scores = random_scores(2, 6, 200, seed=8) * torch.tensor([0.01, 1.0])[:, None, None]
    b = torch.tensor([0.4, 0.3, 0.2, 0.05, 0.03, 0.02])
    result = sinkhorn_ot(scores, reg=0.02, class_mass=b, tol=1e-12, max_iter=2, method=method)
    assert result.iterations.tolist() == [2, 2]
    assert result.residual[1] > 1e-3
    error = marginal_error(result, b.expand(2, -1))
    assert (error - result.residual).abs().max() < 1e-6 * error.max()
    assert (result.plan.sum(1) * 200 - 1).abs().max() < 1e-9


@pytest.mark.usefixtures("engine")
def test_a_tolerance_below_float32_still_ends():
    result = sinkhorn_ot(random_scores(4, 5, 5000, dtype=torch.float32), tol=1e-30)
    assert (result.iterations < 50).all()
    assert (result.residual < 2e-6).all()


def test_few_passes_suffice():
    """DESIGN.md, section 3: 4 to 5 passes at reg 0.1, and 2 to 4 after a subsampled start."""
    assert sinkhorn_ot(random_scores(8, 5, 1000)).iterations.max() <= 6
    assert sinkhorn_ot(random_scores(4, 5, 20000)).iterations.max() <= 5


@pytest.mark.filterwarnings("ignore::dhr_refine.ConvergenceWarning")
@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("max_iter", [7, 8, 9])
def test_no_more_passes_than_allowed(max_iter):
    """Also where a lean solve hands over to the safeguarded one."""
    generator = torch.Generator().manual_seed(4)
    labels = torch.randint(4, (2, 300), generator=generator)
    scores = torch.nn.functional.one_hot(labels, 4).mT
    b = torch.tensor([0.7, 0.2, 0.08, 0.02])
    for kind in (torch.float32, torch.float64):
        result = sinkhorn_ot(scores.to(kind), reg=0.051, class_mass=b.to(kind), max_iter=max_iter)
        assert result.iterations.max() == max_iter
        assert result.residual.max() > 1e-3


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("method", METHODS)
def test_a_missed_tolerance_is_one_warning_that_says_what_to_do(method):
    scores = random_scores(2, 4, 500, dtype=torch.float32) * 2
    text = r"did not reach tol=0.001 in 1 passes \(residual .*\): raise max_iter, tol or reg"
    with pytest.warns(ConvergenceWarning, match=text) as seen:
        plan = sinkhorn_ot(scores, max_iter=1, method=method)
    assert len(seen) == 1
    assert seen[0].filename == __file__
    assert plan.residual.max() > 1e-3
    assert sinkhorn_ot(scores, method=method).residual.max() <= 1e-3  # and none where it is met
