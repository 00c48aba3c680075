"""Solves checked problems by the method asked for; what the steps call."""

from __future__ import annotations

import math
import sys
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..checks import check_positive, check_range, find_extent
from .gradients import differentiable_shares
from .lean import compiled_for, run_compiled
from .newton import EASY_RANGE, newton
from .problem import Problem, Solved
from .sinkhorn import sinkhorn, solve_by_pot

Method = Literal["newton", "sinkhorn", "pot"]

# Smaller regularisers and larger ranges of scores / reg are beyond float32.
_LEAST_REG = 1e-6
LARGEST_RANGE = 1e9
# A penalty this small leaves nothing of the class masses.
LEAST_PENALTY = 1e-12
# More slack than this changes no potential that float64 could tell from 0.
_MOST_SLACK = 1e15


class PixelShares(NamedTuple):
    """Result of :func:`solve`: a plan divided by its pixel masses."""

    shares: Tensor
    """(B, K, N) share of each class in each pixel, sums to 1 over the classes."""
    residual: Tensor
    """(B,) largest relative error of a class marginal, see :class:`TransportPlan`."""
    iterations: Tensor
    """(B,) int64, passes over all pixels."""
    solver: str
    """See :class:`TransportPlan`."""
    finished: bool
    """Whether every image is within the tolerance."""


def check_reg(reg: float) -> None:
    """Raise unless the regulariser is a number that float32 can work with."""
    check_positive(reg, "reg")
    check_range(reg, "reg", _LEAST_REG, math.inf)


def check_class_penalty(class_penalty: float | None) -> None:
    """Raise unless the penalty is None or a number above zero, infinity included."""
    if class_penalty is not None:
        check_range(class_penalty, "class_penalty", LEAST_PENALTY, math.inf)


def extent_of(scores: Tensor) -> tuple[float, float]:
    """Smallest and largest score; NaN or infinite where any score is (waits for the device)."""
    compiled = compiled_for(scores)
    if compiled is not None:
        return compiled.extent(scores)
    return find_extent(scores)


def solve(
    scores: Tensor,
    pixels: Tensor | None,
    classes: Tensor,
    *,
    reg: float,
    tol: float,
    class_penalty: float | None = None,
    max_iter: int = 1000,
    method: Method = "newton",
    extent: tuple[float, float] = (0.0, 1.0),
    scale: float | None = None,
) -> PixelShares:
    """Solve checked problems: float scores (B, K, N), masses (B, N) or None and (B, K) that sum to 1.

    The other modules call this instead of :func:`sinkhorn_ot` once their own input is checked. ``extent`` is
    the smallest and the largest score. The shares of an image are defined in every pixel, also where its mass
    is zero. They mean nothing where it has no class, unless ``scale`` is given: it multiplies the shares, and
    leaves zeros there. ``class_penalty`` lets the class sums differ from ``classes``; None does not.
    """
    if pixels is not None:
        # An image without a pixel has nothing to transport to any class.
        classes = classes * (pixels.sum(-1, keepdim=True) > 0)
    eps = torch.finfo(scores.dtype).eps
    tol = max(tol, 0.6 * eps * max(extent[1] - extent[0], 1.0) / reg)
    slack = 0.0
    if class_penalty is not None and class_penalty <= sys.float_info.max:
        slack = min(reg / class_penalty, _MOST_SLACK)
    if slack > 0:
        # What is asked for has a rounding of its own, that of slack * g = log(b / m).
        tol = max(tol, 20 * eps)
    recorded = torch.is_grad_enabled() and any(map(_requires_grad, (scores, pixels, classes)))
    easy = (extent[1] - extent[0]) / reg <= EASY_RANGE
    compiled = compiled_for(scores)
    if method == "newton" and easy and not recorded and compiled is not None:
        # Most batches end here: on small problems even the launch of a torch operation counts. What is left
        # unfinished goes through the compiled loop once more below, which costs next to nothing.
        solved, finished = run_compiled(
            compiled,
            scores,
            pixels,
            classes,
            sharpness=1.0 / reg,
            slack=slack,
            tol=tol,
            max_iter=max_iter,
            extent=extent,
            scale=scale,
        )
        if finished:
            return PixelShares(solved.shares, solved.residual, solved.passes, "numba", solved.finished)
    valid = classes > 0
    problem = Problem(scores, 1.0 / reg, pixels, classes, valid, slack)
    solved = _solve_by(method, problem, tol=tol, max_iter=max_iter, extent=extent)
    potentials, shares, residual, iterations, used, met = solved
    if recorded and method != "pot":
        shares = differentiable_shares(problem, potentials, shares)
    dead = ~valid.any(-1)
    if scale is not None:
        mass = (~dead).to(shares.dtype)[:, None, None] * scale
        shares = shares * mass if shares.requires_grad else shares.mul_(mass)
    return PixelShares(shares, residual.masked_fill(dead, 0.0), iterations.masked_fill(dead, 0), used, met)


@torch.no_grad()
def _solve_by(
    method: Method, problem: Problem, *, tol: float, max_iter: int, extent: tuple[float, float]
) -> Solved:
    scores, _, pixels, classes, _, _ = problem
    problem = problem._replace(
        scores=scores.detach(),
        pixels=None if pixels is None else pixels.detach(),
        classes=classes.detach(),
    )
    if method == "pot":
        return solve_by_pot(problem, tol=tol, max_iter=max_iter)
    if method == "newton":
        return newton(problem, tol=tol, max_iter=max_iter, extent=extent)
    return sinkhorn(problem, problem.start(), tol=tol, max_iter=max_iter)


def _requires_grad(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad
