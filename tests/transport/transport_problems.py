"""POT and the definition itself, which sinkhorn_ot is compared with."""

from __future__ import annotations

import numpy as np
import ot
import torch
from torch import Tensor

from dhr_refine import TransportPlan

METHODS = ("newton", "sinkhorn", "pot")


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


def relaxed_error(
    result: TransportPlan,
    scores: Tensor,
    reg: float,
    class_penalty: float,
    class_mass: Tensor,
    pixel_mass: Tensor | None = None,
) -> Tensor:
    """Largest relative error of a class sum beside what the potentials ask for, from the plan alone.

    The difference of two potentials is read at the pixel that both classes share most; NaN where they share
    none.
    """
    found = []
    for b, (plan, score) in enumerate(zip(result.plan.detach().double(), scores.double(), strict=True)):
        size = plan.shape[-1]
        a = torch.full((size,), 1 / size).double() if pixel_mass is None else pixel_mass[b].double()
        mass = class_mass.double().expand(len(result.plan), -1)[b]
        shares, m, mass = plan / (a / a.sum()), plan.sum(-1), mass / mass.sum()
        first = int(m.argmax())
        pixel = (shares * shares[first]).argmax(-1)
        logits = shares.log() - score / reg
        potentials = logits.gather(-1, pixel[:, None])[:, 0] - logits[first, pixel]
        asked = (mass.log() - reg / class_penalty * potentials).masked_fill(mass == 0, -torch.inf).softmax(-1)
        error = ((m - asked).abs() / asked.clamp_min(1e-12)).masked_fill(mass == 0, 0.0).max()
        shared = (shares * shares[first]).amax(-1)[mass > 0].min() > 1e-30
        found.append(torch.where(shared, error, torch.nan))
    return torch.stack(found)


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
