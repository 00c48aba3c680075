"""Compiles functions by numba and keeps their machine code on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from numba import njit


def _digest_sources() -> str:
    """Fingerprint of the package's modules, some of which hold compiled code."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


SOURCES = _digest_sources()


def compiled(function: Callable[..., Any]) -> Any:
    """Compile without the GIL; keep the machine code on disk where that is possible."""
    try:
        dispatcher: Any = njit(nogil=True, cache=True)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return njit(nogil=True)(function)
    # numba takes machine code from disk if the file of the function itself has not changed. But code and
    # constants of other modules are part of it, and old ones would work on memory in an outdated layout.
    kept = getattr(getattr(dispatcher, "_cache", None), "_cache_file", None)
    if kept is not None:  # private, and the same since long before the oldest numba that we take
        kept._source_stamp = (kept._source_stamp, SOURCES)
    return dispatcher
