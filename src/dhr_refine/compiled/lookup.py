"""Where the compiled counterpart of a module comes from: numba, if it is installed."""

from __future__ import annotations

import functools
import importlib
import importlib.util
from types import ModuleType


def counterpart(name: str) -> ModuleType | None:
    """Return a module of this package that needs numba, by its full name; None without numba."""
    return _load(name) if usable() else None


@functools.cache
def usable() -> bool:
    """Whether numba is installed."""
    return importlib.util.find_spec("numba") is not None


@functools.cache
def _load(name: str) -> ModuleType:
    # import_module takes a lock, which small problems on several threads would queue at.
    return importlib.import_module(name)
