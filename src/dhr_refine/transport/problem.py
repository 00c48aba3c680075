"""A batch of transport problems in internal form, and the loop that all solvers share.

Pixel marginals hold exactly at every step; class potentials are what is looked for.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

# Smallest marginal that still has a finite logarithm and reciprocal in float32.
TINY = 1e-30
# A relaxed class may shrink as far as it likes; errors of masses below this do not count.
LEAST_ASKED = 1e-12


class Problem(NamedTuple):
    """One batch of transport problems in internal form."""

    scores: Tensor  # (B, K, N)
    sharpness: float  # 1 / reg
    pixels: Tensor | None  # (B, N) pixel mass, None where uniform
    classes: Tensor  # (B, K) class mass, 0 for classes that take no part
    valid: Tensor  # (B, K) bool
    slack: float = 0.0  # how far the class sums give way to the potentials, reg / class_penalty; 0 not at all

    def start(self) -> Tensor:
        """(B, K) first potentials: log masses, -inf for classes that take no part."""
        potentials = self.damped(self.classes.clamp_min(TINY).log())
        return potentials.masked_fill(~self.valid & self.valid.any(-1, keepdim=True), -math.inf)

    def shares(
        self, potentials: Tensor, *, buffer: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """(B, K, N) share of each class in each pixel, the softmax of scores / reg + potentials."""
        # Fresh memory costs more than the arithmetic: a solver hands in its buffers.
        logits = torch.add(potentials[..., None], self.scores, alpha=self.sharpness, out=buffer)
        return torch.softmax(logits, dim=1, out=out)

    def marginal(self, p: Tensor) -> Tensor:
        """Class mass carried by the pixel shares ``p``; ``sum`` adds pairwise, so float32 is enough."""
        if self.pixels is None:
            return p.mean(-1)
        return (p * self.pixels[:, None]).sum(-1)

    def covariance(self, p: Tensor) -> Tensor:
        """(B, K, K) second moment of the shares; only steers the step, so its rounding is harmless."""
        weighted = p / p.shape[-1] if self.pixels is None else p * self.pixels[:, None]
        return weighted @ p.mT

    def asked(self, potentials: Tensor) -> Tensor:
        """(B, K) mass that each class is to carry: its class mass b or, relaxed, b exp(-slack g) to sum 1.

        Brought to sum 1, it does not change with a constant on all potentials, as the shares do not.
        """
        if self.slack == 0:
            return self.classes
        logits = self.classes.clamp_min(TINY).log() - self.slack * potentials
        return torch.softmax(logits.masked_fill(~self.valid, -1e30), dim=-1)

    def damped(self, step: Tensor) -> Tensor:
        """What is left of a Sinkhorn step (B, K) where the mass asked for moves as well."""
        return step if self.slack == 0 else step / (1.0 + self.slack)

    def error(self, asked: Tensor, marginal: Tensor) -> Tensor:
        """(B,) largest relative error of a class marginal."""
        error = (marginal - asked).abs() / asked.clamp_min(TINY if self.slack == 0 else LEAST_ASKED)
        return error.masked_fill(~self.valid, 0.0).amax(-1)

    def sample(self, index: Tensor) -> Problem:
        """The same problem on some of the pixels."""
        if self.pixels is None:
            return self._replace(scores=self.scores.index_select(2, index))
        picked = self.pixels.index_select(1, index)
        total = picked.sum(-1, keepdim=True)
        # A sample that holds no valid pixel of an image falls back to uniform weights there.
        picked = torch.where(total > 0, picked / total.clamp_min(TINY), 1.0 / index.numel())
        return self._replace(scores=self.scores.index_select(2, index), pixels=picked)

    def images(self, index: Tensor) -> Problem:
        """The same problem on some of the images."""
        pixels = None if self.pixels is None else self.pixels[index]
        return self._replace(
            scores=self.scores[index], pixels=pixels, classes=self.classes[index], valid=self.valid[index]
        )

    def cooled(self, factor: float) -> Problem:
        """The same problem at ``1 / factor`` times the regulariser."""
        return self._replace(sharpness=self.sharpness * factor, slack=self.slack / factor)


class Solved(NamedTuple):
    """What a solver knows about each image of a batch."""

    potentials: Tensor  # (B, K)
    shares: Tensor  # (B, K, N)
    residual: Tensor  # (B,)
    passes: Tensor  # (B,)
    solver: str = "torch"
    finished: bool = False  # whether the host knows that all images are within tol


def log_gap(asked: Tensor, marginal: Tensor, valid: Tensor) -> Tensor:
    """log(asked / marginal), 0 where a class takes no part."""
    ratio = asked.clamp_min(TINY).log() - marginal.clamp_min(TINY).log()
    return ratio.masked_fill(~valid, 0.0)


def iterate(
    problem: Problem,
    potentials: Tensor,
    move: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor],
    *,
    tol: float,
    max_iter: int,
    blind: int = 0,
) -> Solved:
    """Pass over the pixels until every image is within ``tol``; finished images keep their potentials.

    ``move`` gives the next potentials from the present ones, the class masses that they ask for, the class
    marginals and the shares. During the first ``blind`` passes nobody looks whether they are finished.
    """
    shares, buffer = torch.empty_like(problem.scores), torch.empty_like(problem.scores)
    residual, finished = potentials[:, 0], False
    passes = torch.zeros(len(potentials), dtype=torch.long, device=potentials.device)
    done = torch.zeros_like(passes, dtype=torch.bool)
    for count in range(1, max_iter + 1):
        shares = problem.shares(potentials, buffer=buffer, out=shares)
        m = problem.marginal(shares)
        asked = problem.asked(potentials)
        residual = problem.error(asked, m)
        passes += ~done
        done = residual <= tol
        finished = count > blind and bool(done.all())
        if count == max_iter or finished:
            break
        potentials = torch.where(done[:, None], potentials, move(potentials, asked, m, shares))
    # NaN is no residual at all: such an image is unfinished.
    residual = residual.nan_to_num(nan=math.inf, posinf=math.inf)
    return Solved(potentials, shares, residual, passes, finished=finished)
