"""Semi-dual Newton: from a subsampled start, without safeguards where that is enough, with them where not."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .climb import climb
from .lean import LEAN_PASSES, lean, spread
from .problem import Problem, Solved
from .sinkhorn import sinkhorn

# Where the kernel exp(score / reg) spans more e-folds than this, the problem is annealed.
EASY_RANGE = 20.0
# With a small regulariser single pixels decide, and the sample must be larger.
_SAMPLE_HARD = 8192
# With this much slack a Sinkhorn step leaves a third of the error at most, however hard the problem.
_SINKHORN_SLACK = 2.0


def newton(problem: Problem, *, tol: float, max_iter: int, extent: tuple[float, float]) -> Solved:
    """Semi-dual Newton from a subsampled start: a lean loop first, a safeguarded one for what it leaves."""
    score_range = (extent[1] - extent[0]) * problem.sharpness
    if score_range > EASY_RANGE:
        return _solve_hard(problem, score_range, tol=tol, max_iter=max_iter)
    first = min(max_iter, LEAN_PASSES)
    solved = lean(problem, tol=tol, max_iter=first, extent=extent)
    if solved.finished:
        return solved
    rest = (solved.residual > tol).nonzero()[:, 0]
    if len(rest) == 0 or first == max_iter:
        return solved._replace(finished=len(rest) == 0)
    hard = problem.images(rest)
    # A lean solve that went astray is no start.
    near = solved.residual[rest, None] < 1.0
    start = torch.where(near, solved.potentials[rest], hard.start())
    finish = _ascend(hard, start, tol=tol, max_iter=max_iter - first)
    solved.potentials[rest] = finish.potentials
    solved.shares[rest] = finish.shares
    solved.residual[rest] = finish.residual
    solved.passes[rest] = finish.passes + first
    return solved._replace(finished=finish.finished)


def _solve_hard(problem: Problem, score_range: float, *, tol: float, max_iter: int) -> Solved:
    """Annealing, on a sample where there are many pixels, then the safeguarded ascent."""
    if problem.slack >= _SINKHORN_SLACK:
        return _ascend(problem, problem.start(), tol=tol, max_iter=max_iter)
    size = problem.scores.shape[-1]
    few = (
        problem if size <= _SAMPLE_HARD else problem.sample(spread(size, _SAMPLE_HARD, problem.scores.device))
    )
    # The first of the easier problems spans half the range that counts as easy.
    steps = math.ceil(math.log(2 * score_range / EASY_RANGE, 4.0))
    start, passes = _anneal(few, steps, max_iter=max_iter - 1 if few is problem else 50 * steps)
    spent = int(passes.max()) if few is problem else 0
    solved = _ascend(problem, start, tol=tol, max_iter=max_iter - spent)
    return solved._replace(passes=solved.passes + passes) if few is problem else solved


def _ascend(problem: Problem, start: Tensor, *, tol: float, max_iter: int) -> Solved:
    """Go on until every image is within ``tol``, by the steps that are sure to get there."""
    steps = sinkhorn if problem.slack >= _SINKHORN_SLACK else climb
    return steps(problem, start, tol=tol, max_iter=max_iter)


def _anneal(problem: Problem, steps: int, *, max_iter: int) -> tuple[Tensor, Tensor]:
    """Potentials of a problem with a small regulariser by way of easier ones, and the passes (B,) it took.

    The potentials scale with 1 / reg.
    """
    start = problem.start()
    passes = torch.zeros(len(start), dtype=torch.long, device=start.device)
    for step in range(steps + 1):
        left = max_iter - int(passes.max())
        if left <= 0:
            # No more passes to spend: the potentials as they are, brought to the regulariser asked for.
            return start * 4.0 ** (steps - step), passes
        easier = problem.cooled(4.0 ** (step - steps))
        solved = _ascend(easier, start, tol=1e-1 if step < steps else 1e-2, max_iter=min(left, 50))
        passes = passes + solved.passes
        start = solved.potentials * (4.0 if step < steps else 1.0)
    return start, passes
