"""Energies as objects, as the original has them beside plain arrays."""

from __future__ import annotations

import numpy as np

from .arguments import Numbers, read_array

__all__ = ["ConstUnary", "LogisticUnary", "Unary"]


class Unary:
    """Energies of pixels by themselves, for :meth:`DenseCRF.setUnary`: one of the two kinds below."""

    weights: np.ndarray
    features: np.ndarray | None = None


class ConstUnary(Unary):
    """Given energies.

    Parameters
    ----------
    u : array_like of real numbers, (n_labels, n_pixels)
        As in :meth:`DenseCRF.setUnaryEnergy`.

    Raises
    ------
    TypeError, ValueError
        ``u`` is no matrix of numbers. Whether it fits the field is checked when it is set.

    Examples
    --------
    >>> import numpy as np
    >>> from dhr_refine.pydensecrf.densecrf import ConstUnary, DenseCRF
    >>> field = DenseCRF(100, 3)
    >>> field.setUnary(ConstUnary(np.zeros((3, 100))))
    """

    def __init__(self, u: Numbers) -> None:
        """Keep a copy."""
        self.weights: np.ndarray = read_array(u, "u", "(n_labels, n_pixels)")


class LogisticUnary(Unary):
    """Energies that are linear in features of the pixels: ``L @ f``.

    Parameters
    ----------
    L : array_like of real numbers, (n_labels, n)
        Weights of each label.
    f : array_like of real numbers, (n, n_pixels)
        Features of each pixel.

    Raises
    ------
    TypeError, ValueError
        They are no matrices of numbers. Whether they fit the field is checked when they are set.

    Examples
    --------
    >>> import numpy as np
    >>> from dhr_refine.pydensecrf.densecrf import DenseCRF, LogisticUnary
    >>> field = DenseCRF(100, 3)
    >>> field.setUnary(LogisticUnary(np.ones((3, 7)), np.ones((7, 100))))
    """

    def __init__(self, L: Numbers, f: Numbers) -> None:
        """Keep copies."""
        self.weights: np.ndarray = read_array(L, "L", "(n_labels, n)")
        self.features: np.ndarray | None = read_array(f, "f", "(n, n_pixels)")
