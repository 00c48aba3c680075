"""What the tests of the dense CRF share: backends to compare, a small input, and how close is close."""

from __future__ import annotations

import torch

BACKENDS = ("torch", "numba")
IMAGE, PROBS = torch.zeros(1, 3, 8, 9, dtype=torch.uint8), torch.full((1, 2, 8, 9), 0.5)


def assert_parity(result: torch.Tensor, expected: torch.Tensor) -> None:
    assert result.shape == expected.shape
    assert (result - expected).abs().max() <= 1e-3
    assert (result.argmax(-3) == expected.argmax(-3)).double().mean() >= 0.9999
