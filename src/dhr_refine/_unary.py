"""Unary terms of the dense CRF, from which all backends start: logarithms of clipped probabilities.

A class that takes no part in an image has the probability ``EXCLUDED`` in all its pixels.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

# Probabilities are clipped here before the logarithm, as pydensecrf.utils.unary_from_softmax does.
_SMALLEST = 1e-5
EXCLUDED = -1.0
# Far below any logarithm, and the exponential of any difference to it is 0.
_NOWHERE = -1e30


def log_probs(probs: Tensor) -> Tensor:
    """Logarithms of float32 probabilities (B, K, H, W)."""
    logs = probs.clamp(_SMALLEST, 1).log_()
    return logs.masked_fill_((probs[:, :, 0, 0] < 0)[:, :, None, None], _NOWHERE)


def log_probs_into(probs: np.ndarray, logs: np.ndarray) -> None:
    """Write the logarithms of one image's probabilities (K, N) into ``logs``.

    NumPy works on the calling thread alone: torch's own threads would go on spinning for a while on cores
    that the compiled loops need next.
    """
    np.clip(probs, _SMALLEST, 1, out=logs)
    np.log(logs, out=logs)
    logs[probs[:, 0] < 0] = _NOWHERE
