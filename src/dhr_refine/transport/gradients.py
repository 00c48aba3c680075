"""Exact gradients of a plan, whichever solver found it (implicit differentiation)."""

from __future__ import annotations

import torch
from torch import Tensor

from .climb import newton_matrix
from .problem import Problem


def differentiable_shares(problem: Problem, potentials: Tensor, shares: Tensor) -> Tensor:
    """Shares with exact gradients: one Newton step from the solution, whose matrix is a constant.

    At the solution the step itself is zero up to the tolerance, and its derivative is that of the implicit
    function g(scores, masses).
    """
    with torch.no_grad():
        inverse, scale, _ = newton_matrix(problem, shares)
    marginal = problem.marginal(problem.shares(potentials))
    gap = (problem.classes - marginal).double()
    gap = gap - gap.detach()  # value zero, gradient kept, here and below: requires_grad changes no plan
    step = scale * (inverse @ (scale * gap)[..., None])[..., 0]
    moved = problem.shares(potentials + step.to(potentials.dtype))
    return shares + (moved - moved.detach())
