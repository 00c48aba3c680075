"""Safeguarded Newton ascent of the semi-dual, for problems of any difficulty."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .problem import TINY, Problem, Solved, iterate, log_gap

# Largest change of a potential in one step; a step that overshoots divides it by four.
_MAX_STEP = 16.0


def climb(problem: Problem, potentials: Tensor, *, tol: float, max_iter: int) -> Solved:
    """Safeguarded Newton ascent of the semi-dual from ``potentials``, for problems of any difficulty."""
    state: _Ascent | None = None

    def move(g: Tensor, asked: Tensor, m: Tensor, shares: Tensor) -> Tensor:
        nonlocal state
        state = _judge(problem, state, g, asked, m, newton_matrix(problem, shares), tol)
        return state.base + state.step

    return iterate(problem, potentials, move, tol=tol, max_iter=max_iter)


class _Ascent(NamedTuple):
    """Where each image stands in :func:`climb`."""

    base: Tensor  # (B, K) last accepted potentials
    gap: Tensor  # (B, K) mass asked for there minus class marginal, the gradient of the semi-dual
    ratio: Tensor  # (B, K) log of the two's ratio
    step: Tensor  # (B, K) step being tried
    radius: Tensor  # (B, 1) largest change of a potential allowed
    rejects: Tensor  # (B, 1) steps refused in a row


def _judge(
    problem: Problem,
    state: _Ascent | None,
    trial: Tensor,
    asked: Tensor,
    m: Tensor,
    matrix: NewtonMatrix,
    tol: float,
) -> _Ascent:
    """Accept or refuse the potentials just tried, and choose the next step."""
    ratio = log_gap(asked, m, problem.valid)
    gap = asked - m
    fresh = _direction(problem, matrix, gap, m, ratio, tol)
    if state is None:
        radius = ratio.new_full((len(ratio), 1), _MAX_STEP / 2)
        rejects = torch.zeros_like(radius, dtype=torch.long)
        return _Ascent(trial, gap, ratio, _clip(fresh, radius), radius, rejects)
    # Along a step that climbs, the slope gap . d falls; a little below zero is a small overshoot. The
    # objective itself would cancel in float32.
    slope = (gap * state.step).sum(-1, keepdim=True)
    old_slope = (state.gap * state.step).sum(-1, keepdim=True)
    old_error = state.ratio.abs().amax(-1, keepdim=True)
    accept = (slope >= -0.5 * old_slope.abs()) | (ratio.abs().amax(-1, keepdim=True) <= 0.5 * old_error)
    accept |= state.rejects >= 2  # that was a Sinkhorn step, which is never worse in the long run
    rejects = torch.where(accept, 0, state.rejects + 1)
    base = torch.where(accept, trial, state.base)
    gap = torch.where(accept, gap, state.gap)
    ratio = torch.where(accept, ratio, state.ratio)
    shorter = state.step.abs().amax(-1, keepdim=True) / 4
    radius = torch.where(accept, (state.radius * 2).clamp_max(_MAX_STEP), shorter)
    step = _clip(torch.where(accept, fresh, state.step), radius)
    # Two steps in a row went too far: a Sinkhorn step sets the scale anew.
    stuck = rejects >= 2
    scaling = problem.damped(ratio)
    step = torch.where(stuck, scaling, step)
    radius = torch.where(stuck, scaling.abs().amax(-1, keepdim=True).clamp(1e-3, _MAX_STEP), radius)
    return _Ascent(base, gap, ratio, step, radius, rejects)


class NewtonMatrix(NamedTuple):
    """Inverse of the semi-dual Hessian, ``scale * inverse * scale``."""

    inverse: Tensor  # (B, K, K) float64
    scale: Tensor  # (B, K) float64, 0 for pinned classes and those without a part
    alone: Tensor  # (B, K) bool, classes that share no pixel with another, but for rounding


def newton_matrix(problem: Problem, p: Tensor) -> NewtonMatrix:
    """Invert the scaled semi-dual Hessian L = diag(m) - A; relaxed, slack (diag(m) - m m^T) comes on top.

    L is a graph Laplacian, so its diagonal is summed from the off-diagonal moments: m - A_kk itself would
    cancel where the classes hardly overlap. Its free constant is fixed by pinning the largest class, and
    unit diagonals make the inverse accurate however small the class masses are. Rows of pinned classes and
    of classes without a part are zero. What a relaxed problem adds is the Laplacian of a graph as well.
    """
    flow = problem.covariance(p).double()
    if problem.slack > 0:
        m = flow.sum(-1)
        flow = flow + problem.slack * m[:, :, None] * m[:, None, :]
    flow.diagonal(dim1=1, dim2=2).zero_()
    degree = flow.sum(-1)
    pinned = torch.nn.functional.one_hot(problem.classes.argmax(-1), flow.shape[-1]).bool()
    free = problem.valid & ~pinned & (degree > TINY)
    scale = torch.where(free, degree, 1.0).rsqrt() * free
    matrix = -scale[:, :, None] * flow * scale[:, None, :]
    # The ridge is far below any step that matters; it keeps an isolated pair of classes invertible.
    matrix.diagonal(dim1=1, dim2=2).fill_(1 + 1e-14)
    alone = problem.valid & ~pinned & (degree <= TINY)
    return NewtonMatrix(torch.linalg.inv_ex(matrix).inverse, scale, alone)


def _direction(
    problem: Problem, matrix: NewtonMatrix, gap: Tensor, m: Tensor, log_ratio: Tensor, tol: float
) -> Tensor:
    """Newton step (B, K) on the log residual: L d = r - m sum(r) with r = m log(asked / m).

    Where it does not climb the semi-dual, the plain Newton step (right side ``gap``) does; where the matrix
    is singular beyond use, a Sinkhorn step takes its place. A class that shares no pixel with another stands
    on a plateau, whose width a Sinkhorn step does not know: it goes as far as is allowed or, relaxed, until
    nothing more is asked of it.
    """
    inverse, scale, alone = matrix
    ratio, mass = log_ratio.double(), m.double()
    side = mass * ratio
    side = side - mass * side.sum(-1, keepdim=True)
    gap = torch.where(log_ratio == 0, 0.0, gap).double()
    steps = scale[..., None] * (inverse @ (scale[..., None] * torch.stack((side, gap), dim=-1)))
    climbs = (gap[..., None] * steps).sum(1) > 0  # (B, 2); False for NaN
    step = torch.where(climbs[:, :1], steps[..., 0], steps[..., 1])
    usable = climbs.any(-1, keepdim=True) & torch.isfinite(step).all(-1, keepdim=True)
    # Adding a constant changes nothing; centred steps lose least to the limit on their length.
    low = step.amin(-1, keepdim=True)
    step = (step - (low + step.amax(-1, keepdim=True)) / 2) * (scale.sum(-1, keepdim=True) > 0)
    limit = 1e4 * _MAX_STEP  # float32 must not overflow before the step is shortened
    longest = step.abs().amax(-1, keepdim=True).clamp_min(limit)
    step = torch.where(usable, step * (limit / longest), problem.damped(ratio))
    far = alone & (ratio.abs() > tol)
    plateau = ratio.sign() * limit if problem.slack == 0 else (ratio / problem.slack).clamp(-limit, limit)
    return torch.where(far, plateau, step).to(m.dtype)


def _clip(step: Tensor, radius: Tensor) -> Tensor:
    """Shorten a step (B, K) so that no potential moves by more than the radius (B, 1)."""
    return step * (radius / step.abs().amax(-1, keepdim=True).clamp_min(TINY)).clamp_max(1.0)
