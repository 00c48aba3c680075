"""Pairwise terms of a dense CRF: which kernel, how its filter is normalised, which classes it couples.

With the filter of ones k, a filter of values v is K v without normalisation, (K v) / k after it, K (v / k)
before it, and D K D v with D = 1 / sqrt(k) in the symmetric case, the usual one.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, get_args

import numpy as np

Normalization = Literal["symmetric", "before", "after", "none"]
NORMALIZATIONS: tuple[str, ...] = get_args(Normalization)
_POWERS = {"symmetric": (0, 0), "none": (-1, -1), "before": (1, -1), "after": (-1, 1)}


class Term(NamedTuple):
    """What one kernel adds to the energies: with the filtered probabilities m, -w m, d * m or M m."""

    kernel: Any  # of a backend, for one image
    normalization: Normalization
    compat: Any  # number w: Potts; array (K,) d: diagonal; array (K, K) M: matrix; torch: tensors as well

    @property
    def plain(self) -> bool:
        """Whether this is the usual term: Potts, normalised on both sides."""
        return self.normalization == "symmetric" and np.ndim(self.compat) == 0


def around(normalization: Normalization, *, backwards: bool = False) -> tuple[int, int]:
    """Powers of D by which values are multiplied before and after the symmetrically normalised filter.

    ``backwards`` is for the transpose of the filter.
    """
    before, after = _POWERS[normalization]
    return (after, before) if backwards else (before, after)
