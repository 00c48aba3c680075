"""What labels are called, as callers pass it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from .checks import describe

Names = Sequence[str] | Mapping[int, str] | None
"""What labels are called: a sequence with the name of label i at position i, or a dict."""


def name_of(names: Names, label: int) -> str:
    """What a label is called."""
    if names is None:
        return f"class {label}"
    if isinstance(names, Mapping):
        return str(names.get(label, f"class {label}"))
    check_several(names, "names")
    if label >= len(names):
        raise ValueError(
            f"names has {len(names)} entries but label {label} is shown: name every label, the background's "
            "included, or pass a dict"
        )
    return str(names[label])


def check_several(values: Any, name: str) -> Any:
    """Return a sequence, or an array or tensor with a first axis."""
    listed = isinstance(values, Sequence) and not isinstance(values, (str, bytes))
    if not listed and not (isinstance(values, (Tensor, np.ndarray)) and values.ndim):
        raise TypeError(f"{name} must be a list, got {describe(values)}: pass a list with an entry for each")
    return values
