"""Powers of averages by fewer products: x^n as a short sum of Chebyshev polynomials.

x^n is the mean of T_|k| (x) over the places k where a walk of n steps of +1 or -1 ends. It ends within a few
times sqrt(n) of its start, so that the other places can be left out. Averages with symmetric weights have
real eigenvalues in [-1, 1], where no T_k exceeds 1.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor


@functools.lru_cache(maxsize=16)
def chances(power: int) -> tuple[float, ...]:
    """How likely a walk of ``power`` steps ends at a distance of 0, 1, ..., ``power``."""
    logs = math.lgamma(power + 1) - power * math.log(2)
    result = [0.0] * (power + 1)
    for place in range(power % 2, power + 1, 2):
        up = (power + place) // 2
        chance = math.exp(logs - math.lgamma(up + 1) - math.lgamma(power - up + 1))
        result[place] = chance if place == 0 else 2 * chance
    return tuple(result)


def find_degree(power: int, error: float) -> int:
    """The least degree whose sum differs from x^power by no more than ``error``."""
    rest = 0.0
    for place in range(power, 0, -1):
        rest += 2 * chances(power)[place]  # once where it is left out, once more where the others get it
        if rest > error:
            return place
    return 0


def apply_power(average: Callable[[Tensor], Tensor], maps: Tensor, power: int, error: float) -> Tensor:
    """Average ``power`` times, to an ``error`` in the norm in which the averages are symmetric."""
    degree = find_degree(power, error)
    if degree == power:
        for _ in range(power):
            maps = average(maps)
        return maps
    kept = chances(power)[: degree + 1]
    total = sum(kept)  # what is left out goes to the others: a constant stays what it is
    before, now = maps, average(maps)
    result = maps * (kept[0] / total)
    for place in range(1, degree + 1):
        if kept[place]:
            result.add_(now, alpha=kept[place] / total)
        if place < degree:
            before, now = now, torch.sub(average(now), before, alpha=0.5).mul_(2.0)
    return result
