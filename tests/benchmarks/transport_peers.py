"""The solvers that sinkhorn_ot is timed against, all brought to a largest relative marginal error of 1e-3."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dhr_refine import sinkhorn_ot

TOLERANCE = 1e-3
PENALTY = 0.1


def ours(scores: Tensor) -> Tensor:
    """sinkhorn_ot as it comes."""
    return sinkhorn_ot(scores, tol=TOLERANCE).plan


def pot_numpy(scores: Tensor) -> Tensor:
    """POT on NumPy arrays, image by image."""
    import ot

    _, classes, pixels = scores.shape
    a, b = np.full(pixels, 1 / pixels, np.float32), np.full(classes, 1 / classes, np.float32)
    plans = [
        ot.sinkhorn(a, b, 1 - one.T.numpy(), 0.1, stopThr=TOLERANCE / classes, numItermax=10000)
        for one in scores
    ]
    return torch.from_numpy(np.stack(plans)).mT


def pot_torch(scores: Tensor) -> Tensor:
    """POT on torch tensors, image by image."""
    import ot

    _, classes, pixels = scores.shape
    a, b = scores.new_full((pixels,), 1 / pixels), scores.new_full((classes,), 1 / classes)
    stop = {"stopThr": TOLERANCE / classes, "numItermax": 10000}
    plans = [ot.sinkhorn(a, b, 1 - one.mT, 0.1, **stop) for one in scores]
    return torch.stack(plans).mT


def pot_batch(scores: Tensor) -> Tensor:
    """POT's batched solver."""
    import ot.batch

    batch, classes, pixels = scores.shape
    a = torch.full((batch, classes), 1 / classes)
    b = torch.full((batch, pixels), 1 / pixels)
    # Classes as rows: its stopping test looks at the row marginals.
    result = ot.batch.solve_batch(
        1 - scores, 0.1, a=a, b=b, max_iter=10000, tol=TOLERANCE / classes, grad="detach"
    )
    return result.plan


def sinkhorn_loop(scores: Tensor) -> Tensor:
    """The released loop, batched, run until the class marginals are within the tolerance."""
    _, classes, pixels = scores.shape
    kernel = torch.exp((scores - 1) / 0.1)
    columns = torch.ones(len(scores), classes, 1)
    for _ in range(10000):
        rows = (1 / pixels) / (kernel.mT @ columns)
        sums = kernel @ rows
        if float(((columns * sums) * classes - 1).abs().max()) <= TOLERANCE:
            break
        columns = (1 / classes) / sums
    return columns * kernel * rows.mT


PEERS: dict[str, Callable[[Tensor], Tensor]] = {
    "dhr_refine": ours,
    "POT numpy": pot_numpy,
    "POT torch": pot_torch,
    "POT ot.batch": pot_batch,
    "Sinkhorn loop": sinkhorn_loop,
}


def ours_relaxed(scores: Tensor) -> Tensor:
    """sinkhorn_ot with relaxed class masses."""
    return sinkhorn_ot(scores, class_penalty=PENALTY, tol=TOLERANCE).plan


def pot_numpy_relaxed(scores: Tensor) -> Tensor:
    """POT's unbalanced solver on NumPy arrays, image by image."""
    import ot

    _, classes, pixels = scores.shape
    a, b = np.full(pixels, 1 / pixels, np.float32), np.full(classes, 1 / classes, np.float32)
    # To a constant: the entropy alone, as in the balanced problem. At 1 / pixels the scalings are near 1.
    reference = np.full((pixels, classes), 1 / pixels, np.float32)
    plans = [
        ot.unbalanced.sinkhorn_unbalanced(
            a,
            b,
            1 - one.T.numpy(),
            0.1,
            (np.inf, PENALTY),
            c=reference,
            # It stops on half the change of the scalings, which is half the error of the class sums here.
            stopThr=TOLERANCE / 4,
            numItermax=10000,
        )
        for one in scores
    ]
    return torch.from_numpy(np.stack(plans)).mT


def sinkhorn_loop_relaxed(scores: Tensor) -> Tensor:
    """The released loop, batched and damped, run until the class sums are what the scalings ask for."""
    _, classes, pixels = scores.shape
    kernel, power = torch.exp((scores - 1) / 0.1), PENALTY / (PENALTY + 0.1)
    columns = torch.ones(len(scores), classes, 1)
    for _ in range(10000):
        rows = (1 / pixels) / (kernel.mT @ columns)
        sums = kernel @ rows
        asked = columns ** (-0.1 / PENALTY) / classes
        if float((columns * sums / asked * asked.sum(1, keepdim=True) - 1).abs().max()) <= TOLERANCE:
            break
        columns = (1 / classes / sums) ** power
    return columns * kernel * rows.mT


# With class masses relaxed by PENALTY.
RELAXED_PEERS: dict[str, Callable[[Tensor], Tensor]] = {
    "dhr_refine": ours_relaxed,
    "POT numpy": pot_numpy_relaxed,
    "Sinkhorn loop": sinkhorn_loop_relaxed,
}


def marginal_error(plan: Tensor) -> float:
    """Largest relative error of a class marginal."""
    return float((plan.double().sum(-1) * plan.shape[1] - 1).abs().max())
