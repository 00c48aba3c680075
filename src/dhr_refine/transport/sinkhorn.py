"""The peers of Newton on the same problems: Sinkhorn's alternation, and the POT library."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from ..extras import import_optional
from .problem import Problem, Solved, iterate, log_gap

# Iterations of POT's relaxed solver between two looks at the error.
_POT_ROUNDS = 10


def sinkhorn(problem: Problem, potentials: Tensor, *, tol: float, max_iter: int) -> Solved:
    """Log-domain Sinkhorn in the class potentials: g += log(b / m), until every image is within ``tol``.

    Relaxed, g <- (g + log(b / m)) / (1 + slack), but for a constant on all potentials: no pass leaves more
    than 1 / (1 + slack) of their error.
    """

    def move(g: Tensor, asked: Tensor, m: Tensor, shares: Tensor) -> Tensor:
        return g + problem.damped(log_gap(asked, m, problem.valid))

    return iterate(problem, potentials, move, tol=tol, max_iter=max_iter)


def solve_by_pot(problem: Problem, *, tol: float, max_iter: int) -> Solved:
    """The same problems by the POT library, image by image in float64."""
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
        given = [x.cpu().numpy() for x in (a / a.sum(), target / target.sum())]
        given.append(1.0 - scores[b][columns][:, rows].double().mT.cpu().numpy())
        # The class potentials carry over to pixels of zero mass, which POT does not take.
        potentials = torch.full_like(classes, -math.inf)
        if problem.slack == 0:
            # POT stops on the 2-norm of the marginal error, which bounds each entry of it.
            rounds = _pot_balanced(*given, reg, stop=tol * float(target.min()), max_iter=max_iter)
        else:
            rounds = _pot_relaxed(*given, reg, slack=problem.slack, max_iter=max_iter)
        for log_v, spent in rounds:
            potentials[columns] = torch.from_numpy(log_v).to(classes)
            found[b], iterations[b] = potentials, spent
            # Its relaxed solver stops on the change of its scalings; ours is the error of the class sums.
            if problem.slack > 0 and _error_of(problem, b, found) <= tol:
                break
        shares[b] = torch.softmax(scores[b].double() / reg + potentials[:, None], dim=0).to(scores.dtype)
    residual = problem.error(problem.asked(found), problem.marginal(shares))
    return Solved(found, shares, residual, iterations, "pot", bool((residual <= tol).all()))


def _error_of(problem: Problem, b: int, potentials: Tensor) -> float:
    """Residual of one image at these potentials of all."""
    one, g = problem.images(torch.tensor([b], device=potentials.device)), potentials[b : b + 1]
    return float(one.error(one.asked(g), one.marginal(one.shares(g))))


def _pot_balanced(
    a: np.ndarray, b: np.ndarray, cost: np.ndarray, reg: float, *, stop: float, max_iter: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Class potentials and the iterations until then, once."""
    ot = import_optional("ot", by="method='pot'")
    options = {"stopThr": stop, "numItermax": max_iter, "log": True, "warn": False}
    _, log = ot.bregman.sinkhorn_log(a, b, cost, reg, **options)
    yield np.asarray(log["log_v"]), int(log["niter"]) + 1  # pyright: ignore[reportArgumentType]


def _pot_relaxed(
    a: np.ndarray, b: np.ndarray, cost: np.ndarray, reg: float, *, slack: float, max_iter: int
) -> Iterator[tuple[np.ndarray, int]]:
    """Class potentials and the iterations until then, after every few of them."""
    ot = import_optional("ot", by="method='pot'")
    # A constant per pixel changes no plan; so no pixel's kernel is all zeros.
    cost = cost - cost.min(axis=1, keepdims=True)
    kernel = np.exp(-cost / reg)
    scalings, spent = (np.zeros_like(a), np.zeros_like(b)), 0
    while spent < max_iter:
        count = min(_POT_ROUNDS, max_iter - spent)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that its numbers ran out of range: the residual tells
            _, log = ot.unbalanced.sinkhorn_unbalanced(
                a,
                b,
                cost,
                reg,
                (math.inf, reg / slack),
                # To ones, as in the balanced problem: then no class has a head start.
                c=np.ones_like(cost),
                warmstart=scalings,
                numItermax=count,
                stopThr=0.0,
                log=True,
            )
        scalings, spent = (log["logu"], log["logv"]), spent + len(log["err"])
        if len(log["err"]) < count:
            yield scalings[1], max(spent, 1)
            return
        # Its last half step once more, as with much slack its scalings of the classes round to 1.
        yield np.log(b / (kernel.T @ np.exp(scalings[0]))) / (1 + slack), spent
