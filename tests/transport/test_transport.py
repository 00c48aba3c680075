"""sinkhorn_ot against POT, against the NumPy reference, and against its own definition."""

# ruff: noqa: E501  (tables of errors, one case a line)

from __future__ import annotations

import copy
import math

import numpy as np
import ot
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from dhr_refine import TransportPlan, sinkhorn_ot
from dhr_refine.compiled import lookup
from dhr_refine.transport.released import early_stopped_weights

METHODS = ("newton", "sinkhorn", "pot")


@pytest.fixture(params=["compiled", "torch"])
def engine(request):
    """The compiled loop that serves float32 on the CPU where numba is installed, and the torch operations."""
    if request.param == "torch":
        request.getfixturevalue("without_numba")
    else:
        pytest.importorskip("numba", reason="needs numba: pip install dhr_refine[numba]")
    return request.param


def random_scores(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64).to(dtype)


def pot_plan(
    scores: Tensor, reg: float, a: np.ndarray | None = None, b: np.ndarray | None = None
) -> np.ndarray:
    """(K, N) plan of POT, run until it stands still."""
    count, size = scores.shape
    a = np.full(size, 1 / size) if a is None else a
    b = np.full(count, 1 / count) if b is None else b
    cost = 1.0 - scores.detach().double().numpy()
    return ot.bregman.sinkhorn_log(
        b / b.sum(), a / a.sum(), cost, reg, stopThr=1e-15, numItermax=100_000, warn=False
    )


def marginal_error(result: TransportPlan, class_mass: Tensor) -> Tensor:
    """Largest relative error of a class marginal, from the plan alone."""
    carried = result.plan.double().flatten(2).sum(-1)
    mass = class_mass.double() / class_mass.double().sum(-1, keepdim=True)
    error = (carried - mass).abs() / mass.clamp_min(1e-300)
    return torch.where(mass > 0, error, carried).amax(-1)


# -- values ----------------------------------------------------------------------------------------


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


# -- masks and masses ------------------------------------------------------------------------------


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


def fuzz_problem(seed: int) -> tuple[Tensor, float, Tensor, Tensor | None]:
    rng = np.random.default_rng(seed)
    count, size = (
        int(rng.integers(1, 9)),
        int(rng.choice([1, 2, 7, 60, 400, 5000], p=[0.1, 0.1, 0.2, 0.3, 0.25, 0.05])),
    )
    kind = rng.choice(["uniform", "constant", "hard", "sparse", "tiny", "blocks"])
    if kind == "uniform":
        scores = rng.random((2, count, size))
    elif kind == "constant":
        scores = np.full((2, count, size), rng.random())
    elif kind == "hard":
        scores = (rng.integers(0, count, (2, 1, size)) == np.arange(count)[None, :, None]).astype(float)
    elif kind == "sparse":
        scores = rng.random((2, count, size)) * (rng.random((2, count, size)) > 0.9)
    elif kind == "tiny":
        scores = rng.random((2, count, size)) * 1e-4
    else:
        scores = np.repeat(rng.random((2, count, -(-size // 5))), 5, axis=-1)[..., :size].round(1)
    masses = rng.dirichlet(np.full(count, rng.choice([0.1, 1.0])), size=2) + 1e-8
    if rng.random() < 0.3:
        masses[:, rng.integers(count)] = 1e-8
    if count > 2 and rng.random() < 0.2:
        masses[0, 0] = 0
    pixels = torch.from_numpy(rng.random((2, size)) + 0.01) if rng.random() < 0.3 else None
    return (
        torch.from_numpy(scores),
        float(rng.choice([0.1, 0.05, 0.01, 0.003, 0.001])),
        torch.from_numpy(masses),
        pixels,
    )


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
    pytest.importorskip("numba", reason="needs numba: pip install dhr_refine[numba]")
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


# -- dtypes, layouts, batches ----------------------------------------------------------------------


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


# -- gradients -------------------------------------------------------------------------------------


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


# -- errors ----------------------------------------------------------------------------------------

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
        (S, {"valid": torch.ones(2, 20)}, TypeError, r"valid must be a bool tensor, got a torch.float32 tensor .*: pass mask.bool\(\)"),
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
