"""Plain arrays of numbers from whatever a caller holds: lists, arrays, tensors."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from .arguments import describe


def read_numbers(value: Any, name: str, form: str) -> np.ndarray:
    """Return real numbers as an array on the host, or raise a TypeError that says what ``form`` is needed."""
    try:
        array = _to_array(value)
    except (TypeError, ValueError, OverflowError):  # ragged lists among them
        array = None
    if array is None or array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be {form}, got {describe(value)}: pass real numbers")
    return array


def _to_array(value: Any) -> np.ndarray | None:
    if not isinstance(value, Tensor):
        return np.asarray(value)
    if value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_complex():
        return None
    value = value.detach().cpu()
    # NumPy knows no bfloat16.
    return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
