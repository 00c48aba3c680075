"""Where the compiled counterpart of a module comes from: numba, if it is installed."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from types import ModuleType


@functools.cache
def counterpart(name: str) -> ModuleType | None:
    """Return a module of this package that needs numba, None without numba."""
    if importlib.util.find_spec("numba") is None:
        return None
    return importlib.import_module(f".{name}", __package__)
