"""Exact gradients of a plan, whichever solver found it (implicit differentiation)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .climb import newton_matrix
from .problem import Problem


def differentiable_shares(problem: Problem, potentials: Tensor, shares: Tensor) -> Tensor:
    """Shares with exact gradients: one Newton step from the solution, whose matrix is a constant.

    At the solution the step itself is zero up to the tolerance, and its derivative is that of the implicit
    function g(scores, masses). Relaxed, the mass asked for depends on the potentials too: that part is in the
    matrix.
    """
    with torch.no_grad():
        inverse, scale, _ = newton_matrix(problem, shares)
    marginal = problem.marginal(problem.shares(potentials))
    gap = (problem.asked(potentials) - marginal).double()
    gap = gap - gap.detach()  # value zero, gradient kept, here and below: requires_grad changes no plan
    step = scale * (inverse @ (scale * gap)[..., None])[..., 0]
    moved = problem.shares(potentials + step.to(potentials.dtype))
    return _OnceDifferentiable.apply(shares + (moved - moved.detach()))


class _OnceDifferentiable(torch.autograd.Function):
    """Passes tensors and gradients on; refuses gradients of gradients, in which the matrix is no constant."""

    @staticmethod
    def forward(ctx: Any, shares: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return shares.view_as(shares)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        if torch.is_grad_enabled():
            raise RuntimeError(
                "sinkhorn_ot has first derivatives only: call backward or grad without create_graph=True, or "
                "detach the plan"
            )
        return gradient
