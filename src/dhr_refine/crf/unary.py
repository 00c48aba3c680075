"""Unary terms of the dense CRF, from which all backends start: logarithms of clipped probabilities.

A class that takes no part in an image has the probability ``EXCLUDED`` in all its pixels.
"""

from __future__ import annotations

from torch import Tensor

# Probabilities are clipped here before the logarithm, as pydensecrf.utils.unary_from_softmax does.
SMALLEST = 1e-5
EXCLUDED = -1.0
# Far below any logarithm, and the exponential of any difference to it is 0.
NOWHERE = -1e30
# Energies are clipped to this on both sides, well short of it: infinite ones in all classes leave them equal.
LARGEST_ENERGY = 1e29


def log_probs(probs: Tensor) -> Tensor:
    """Logarithms of float32 probabilities (B, K, H, W)."""
    logs = probs.clamp(SMALLEST, 1).log_()
    return logs.masked_fill_((probs[:, :, 0, 0] < 0)[:, :, None, None], NOWHERE)
