"""The peers of Newton on the same problems: Sinkhorn's alternation, and the POT library."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .problem import Problem, Solved, iterate, log_gap, marginal_error


def sinkhorn(problem: Problem, *, tol: float, max_iter: int) -> Solved:
    """Log-domain Sinkhorn in the class potentials: g += log(b / m), until every image is within ``tol``."""

    def move(g: Tensor, m: Tensor, shares: Tensor) -> Tensor:
        return g + log_gap(problem.classes, m, problem.valid)

    return iterate(problem, problem.start(), move, tol=tol, max_iter=max_iter)


def solve_by_pot(problem: Problem, *, tol: float, max_iter: int) -> Solved:
    """The same problems by the POT library, image by image in float64."""
    import ot

    scores = problem.scores
    reg = 1.0 / problem.sharpness
    shares = torch.zeros_like(scores)
    iterations = torch.zeros(scores.shape[0], dtype=torch.long, device=scores.device)
    size = scores.shape[-1]
    uniform = scores.new_full((size,), 1.0 / size)
    found = problem.start()
    for b in range(scores.shape[0]):
        classes = problem.classes[b].double()
        pixels = (uniform if problem.pixels is None else problem.pixels[b]).double()
        rows, columns = pixels > 0, classes > 0
        if not bool(columns.any()):
            continue
        a, target = pixels[rows], classes[columns]
        _, log = ot.bregman.sinkhorn_log(
            (a / a.sum()).cpu().numpy(),
            (target / target.sum()).cpu().numpy(),
            1.0 - scores[b][columns][:, rows].double().mT.cpu().numpy(),
            reg,
            # POT stops on the 2-norm of the marginal error, which bounds each entry of it.
            stopThr=tol * float(target.min()),
            numItermax=max_iter,
            log=True,
            warn=False,
        )
        # The class potentials carry over to pixels of zero mass, which POT does not take.
        potentials = torch.full_like(classes, -math.inf)
        potentials[columns] = torch.from_numpy(log["log_v"]).to(classes)
        found[b] = potentials
        shares[b] = torch.softmax(scores[b].double() / reg + potentials[:, None], dim=0).to(scores.dtype)
        iterations[b] = int(log["niter"]) + 1  # pyright: ignore[reportArgumentType]
    residual = marginal_error(problem.classes, problem.marginal(shares), problem.valid)
    return Solved(found, shares, residual, iterations, "pot", bool((residual <= tol).all()))
