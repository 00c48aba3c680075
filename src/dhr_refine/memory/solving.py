"""From the sums of a memory to class means and the inverse of the covariance within the classes."""

from __future__ import annotations

import torch
from torch import Tensor

from ..discriminant import ClassDiscriminant
from ..inputs import Background
from .sums import Sums

# Tokens have squared length dim and their products are summed in float32: a variance below this share of it
# is rounding.
_ROUNDING = 1e-6


def solve_sums(
    sums: Sums, slots: list[int], background: Background, *, least_images: float, shrinkage: float
) -> ClassDiscriminant:
    """Solve the sums of a memory (:meth:`ClassMemory.solve`); waits for the device twice."""
    classes, dim = sums.first.shape
    known = (sums.images >= least_images) & (sums.weight > 0.0)
    means = torch.where(known[:, None], sums.first / sums.weight.clamp_min(1e-300)[:, None], 0.0)
    within = _within(sums, slots, known.tolist(), background_label(background, classes))
    trace = within.trace()
    # Without a class, or with one that never varies, no direction tells anything: the unit matrix.
    least = _ROUNDING * dim
    added = shrinkage * torch.where(trace > least, trace / dim, 1.0)
    eye = torch.eye(dim, dtype=within.dtype, device=within.device)
    factor, failed = torch.linalg.cholesky_ex(within + added.clamp_min(least) * eye)
    if bool(failed):
        raise ValueError(
            "the sums of the memory are those of no features (their covariance is not positive): make the "
            "memory anew"
        )
    precision = torch.cholesky_inverse(factor)
    directions = means @ precision
    return ClassDiscriminant(
        means=means.float(),
        precision=precision.float(),
        directions=directions.float(),
        offsets=(0.5 * (directions * means).sum(-1)).float(),
        known=known,
        background=background,
    )


def background_label(background: Background, classes: int) -> int | None:
    """Mask label of the background among so many labels, None if there is none."""
    return {"first": 0, "last": classes - 1, "none": None}[background]


def _within(sums: Sums, slots: list[int], known: list[bool], label: int | None) -> Tensor:
    """(D, D) mean covariance within the classes: half the background's, half the others', alike.

    Classes that share a slot share it by their weight, as their second moments are one sum.
    """
    total = torch.zeros_like(sums.second[0])
    used = sorted({slot for slot, on in zip(slots, known) if on})
    behind = slots[label] if label is not None and known[label] else None
    for slot in used:
        members = [k for k, own in enumerate(slots) if own == slot]
        weight, first = sums.weight[members], sums.first[members]
        # Classes of the slot that were never seen have sums of zero, and add none.
        between = (first / weight.clamp_min(1e-300)[:, None]).mT @ first
        share = 1.0 if len(used) == 1 else 0.5 if slot == behind else 1.0 / (len(used) - (behind is not None))
        share *= 0.5 if behind is not None and slot != behind else 1.0
        total += (share / weight.sum()) * (sums.second[slot] - between)
    return total
