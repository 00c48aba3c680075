"""Mean field from unary energies with any pairwise terms, on NumPy arrays: the general dense CRF.

The arrays stay NumPy's from end to end with numba: a forked process may use it, where operations of torch can
hang.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Sequence

import numpy as np
import torch

from .backends import choose_backend, implementation
from .terms import Term


def mean_field(
    unary: np.ndarray,
    terms: Sequence[Term],
    *,
    iterations: int,
    start: np.ndarray | None = None,
    device: torch.device | None = None,
) -> np.ndarray:
    """Marginal probabilities (K, N) float32 from energies (K, N).

    ``start`` are probabilities (K, N) to go on from, else the softmax of the energies. Infinite energies
    leave a class out; where all are infinite, all are equal. The kernels are :mod:`.kept`'s for the device.
    """
    if backend_for(device) == "numba":
        return implementation("numba").mean_field_terms(
            unary, terms, iterations=iterations, start=start, threads=threads()
        )
    given, begin = _rows(unary, device), None if start is None else _rows(start, device)
    result = implementation("torch").mean_field_terms(given, terms, iterations=iterations, start=begin)
    return _columns(result)


def pairwise(probs: np.ndarray, terms: Sequence[Term], *, device: torch.device | None = None) -> np.ndarray:
    """Energies (K, N) float32 that the terms add for probabilities (K, N)."""
    if backend_for(device) == "numba":
        return implementation("numba").pairwise(probs, terms, threads=threads())
    return _columns(implementation("torch").pairwise(_rows(probs, device), terms))


def backend_for(device: torch.device | None) -> str:
    """The backend that runs on a device; None is the CPU."""
    return choose_backend("auto", device or torch.device("cpu"))


def threads() -> int:
    """Threads to use: in a process of a pool one, as its neighbours have the other cores."""
    return 1 if multiprocessing.parent_process() is not None else torch.get_num_threads()


def _rows(values: np.ndarray, device: torch.device | None) -> torch.Tensor:
    """Numbers (K, N) as a tensor (N, K)."""
    return torch.from_numpy(np.ascontiguousarray(values.T)).to(device or "cpu")


def _columns(values: torch.Tensor) -> np.ndarray:
    return np.ascontiguousarray(values.T.cpu().numpy())
