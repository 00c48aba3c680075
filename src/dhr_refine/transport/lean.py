"""Newton without safeguards, for problems that are not hard: compiled where possible, else in torch."""

from __future__ import annotations

import functools
import math
from types import ModuleType

import torch
from torch import Tensor

from ..compiled import counterpart
from .problem import Problem, Solved, iterate, log_gap

# The first, cheap solve takes one pixel in 8, at least 256 and at most 1024: well spread, they place the
# potentials within a few per cent. With fewer than 1024 pixels it costs as much as it saves.
_SAMPLE_STEP, _SAMPLE_LEAST, _SAMPLE_MOST = 8, 256, 1024
# The lean loop: its passes at most, and the largest change of a potential in one of them.
LEAN_PASSES = 6
_LEAN_STEP = 4.0
# Relative marginal error at which the solve on the sample stops: its own error is larger.
_SAMPLE_TOL = 1e-2


def lean(problem: Problem, *, tol: float, max_iter: int, extent: tuple[float, float]) -> Solved:
    """Newton without safeguards, compiled where that is possible; a residual above ``tol`` is unfinished."""
    scores, sharpness, pixels, classes, _, slack = problem
    compiled = compiled_for(scores)
    if compiled is not None:
        return run_compiled(
            compiled,
            scores,
            pixels,
            classes,
            sharpness=sharpness,
            slack=slack,
            tol=tol,
            max_iter=max_iter,
            extent=extent,
        )[0]
    sample = _easy_sample(scores)
    start, matrix = problem.start(), None
    blind = blind_passes(scores, 3)  # from cold
    if sample is not None:
        sampled = problem.sample(sample)
        start = _rush(
            sampled, start, tol=_SAMPLE_TOL, max_iter=max_iter, blind=blind_passes(scores, max_iter)
        ).potentials
        matrix = _semidual_inverse(sampled, sampled.shares(start))
        blind = blind_passes(scores, 1)
    return _rush(problem, start, tol=tol, max_iter=max_iter, matrix=matrix, blind=blind)


def _rush(
    problem: Problem,
    start: Tensor,
    *,
    tol: float,
    max_iter: int,
    matrix: Tensor | None = None,
    blind: int = 0,
) -> Solved:
    """Newton on the log residual, (diag(m) - A + m m^T) d = m log(asked / m), without safeguards.

    ``matrix`` is an inverse to use throughout (that of a subsample: then no pass needs the second moment of
    all the pixels); None computes it in every pass. With slack its columns hold the m of the right side: a
    sample may hardly know a class, and a step by its other m too long would never end.
    """

    def move(g: Tensor, asked: Tensor, m: Tensor, shares: Tensor) -> Tensor:
        inverse = _semidual_inverse(problem, shares) if matrix is None else matrix
        side = log_gap(asked, m, problem.valid)
        if problem.slack == 0:
            side = m * side
        step = (inverse @ side.double()[..., None])[..., 0]
        return g + step.to(g.dtype).clamp(-_LEAN_STEP, _LEAN_STEP)

    return iterate(problem, start, move, tol=tol, max_iter=max_iter, blind=blind)


def _semidual_inverse(problem: Problem, p: Tensor) -> Tensor:
    """(B, K, K) float64 inverse of diag(m) - A + m m^T, identity rows for classes without a part.

    A relaxed problem adds slack diag(m), as what is asked for falls where the potentials rise, and its
    inverse comes with diag(m) on the right. Cheaper than :func:`newton_matrix` and good enough for problems
    that are not hard; the ridge only serves classes that hardly overlap, which the safeguarded loop finishes.
    """
    flow = problem.covariance(p).double()
    m = flow.sum(-1)
    matrix = torch.diag_embed(m.where(problem.valid, 1.0) + 1e-9) - flow + m[:, :, None] * m[:, None, :]
    if problem.slack == 0:
        return torch.linalg.inv_ex(matrix).inverse
    matrix = matrix + torch.diag_embed(problem.slack * m)
    return torch.linalg.inv_ex(matrix).inverse * m[:, None, :]


def compiled_for(scores: Tensor) -> ModuleType | None:
    """The compiled solver where it serves these scores."""
    if scores.device.type != "cpu" or scores.dtype != torch.float32:
        return None
    return counterpart("dhr_refine.transport.lean_numba")


def run_compiled(
    compiled: ModuleType,
    scores: Tensor,
    pixels: Tensor | None,
    classes: Tensor,
    *,
    sharpness: float,
    slack: float,
    tol: float,
    max_iter: int,
    extent: tuple[float, float],
    scale: float | None = None,
) -> tuple[Solved, bool]:
    """Newton without safeguards, compiled; tells whether all images are within ``tol`` or out of passes."""
    passes = min(max_iter, LEAN_PASSES)
    potentials, shares, residual, spent, finished = compiled.solve_images(
        scores,
        sharpness,
        slack,
        pixels,
        classes,
        _easy_sample(scores),
        middle=sum(extent) / 2,
        scale=1.0 if scale is None else scale,
        tol=tol,
        sample_tol=_SAMPLE_TOL,
        max_iter=passes,
        max_step=_LEAN_STEP,
    )
    solved = Solved(potentials, shares, residual, spent, "numba", finished)
    return solved, finished or passes == max_iter


def _easy_sample(scores: Tensor) -> Tensor | None:
    """Pixel indices of the first solve of an easy problem, None where it would not pay."""
    size = scores.shape[-1]
    if size < _SAMPLE_MOST:
        return None
    return spread(size, min(max(size // _SAMPLE_STEP, _SAMPLE_LEAST), _SAMPLE_MOST), scores.device)


@functools.lru_cache(maxsize=32)
def spread(size: int, count: int, device: torch.device) -> Tensor:
    """``count`` well-spread pixel indices; golden-ratio spacing, as a plain stride aliases with the rows."""
    ratio = (math.sqrt(5.0) - 1.0) / 2.0
    position = torch.arange(count, device=device, dtype=torch.float64) * ratio
    return ((position - position.floor()) * size).long().clamp_max(size - 1)


def blind_passes(scores: Tensor, passes: int) -> int:
    """Passes before the host asks for the first time whether all images are finished.

    On an accelerator a question costs more than a pass over finished images; a CPU may ask at once.
    """
    return 0 if scores.device.type == "cpu" else passes
