"""Where the compiled counterpart of a module comes from: numba, if it is installed and works."""

from __future__ import annotations

import functools
import importlib
import importlib.util
import warnings
from types import ModuleType

from .threads import aside


def counterpart(name: str) -> ModuleType | None:
    """Return a module of this package that needs numba, by its full name; None without numba."""
    return _load(name) if usable() else None


@functools.cache
def usable() -> bool:
    """Whether numba works; a warning, once in a process, where it is installed in vain."""
    if importlib.util.find_spec("numba") is None:
        return False
    try:
        numba = aside(importlib.import_module, "numba")  # half of a package cannot be imported again
    except Exception as error:  # a broken package can fail in any way
        reason = f"cannot be imported ({type(error).__name__}: {error}): mend it with pip install -U numba"
    else:
        if not numba.config.DISABLE_JIT:
            return True
        reason = "does not compile, because NUMBA_DISABLE_JIT is set: unset it"
    warnings.warn(
        f"numba is installed but {reason}, or uninstall numba. Until then the slower torch path runs.",
        RuntimeWarning,
        stacklevel=2,
    )
    return False


@functools.cache
def _load(name: str) -> ModuleType:
    # import_module takes a lock, which small problems on several threads would queue at.
    return aside(importlib.import_module, name)
