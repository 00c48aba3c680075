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
