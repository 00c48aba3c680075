"""Names of the original's matrices: here they are plain NumPy arrays."""

from __future__ import annotations

import numpy as np

from .arguments import Numbers, read_array

__all__ = ["MatrixXf", "VectorXf", "matrixXf", "vectorXf"]

# What the original has as classes without methods.
MatrixXf = np.ndarray
VectorXf = np.ndarray


def matrixXf(arr: Numbers) -> np.ndarray:
    """Copy a matrix of any number type and memory layout.

    Parameters
    ----------
    arr : array_like of real numbers, (rows, columns)
        The matrix.

    Returns
    -------
    ndarray of float32, (rows, columns)

    Raises
    ------
    TypeError
        These are no real numbers.
    ValueError
        They are no matrix.

    Examples
    --------
    >>> from dhr_refine.pydensecrf.eigen import matrixXf
    >>> matrixXf([[1, 2, 3]]).shape
    (1, 3)
    """
    return read_array(arr, "arr", "(rows, columns)")


def vectorXf(arr: Numbers) -> np.ndarray:
    """Copy a vector of any number type and memory layout.

    Parameters
    ----------
    arr : array_like of real numbers, (numbers,)
        The vector.

    Returns
    -------
    ndarray of float32, (numbers,)

    Raises
    ------
    TypeError
        These are no real numbers.
    ValueError
        They are no vector.

    Examples
    --------
    >>> from dhr_refine.pydensecrf.eigen import vectorXf
    >>> vectorXf([1, 2, 3]).dtype
    dtype('float32')
    """
    return read_array(arr, "arr", "(numbers,)")
