"""Compiles functions by numba and keeps their machine code on disk."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from numba import njit

from .cache import CheckedCache
from .threads import aside

# What machine code is made of: compiled functions, and modules whose constants are frozen into them.
_SOURCES = (
    "compiled/*.py",
    "**/*_numba.py",
    "crf/backends/numba/*.py",
    "crf/unary.py",
    "transport/problem.py",
)


def find_sources(package: Path) -> list[Path]:
    """Files of a copy of this package that its machine code is made of."""
    return sorted({path for pattern in _SOURCES for path in package.glob(pattern)})


def digest_sources(package: Path) -> str:
    """Fingerprint of these files."""
    digest = hashlib.sha256()
    for path in find_sources(package):
        content = path.read_bytes()
        digest.update(f"{path.relative_to(package).as_posix()} {len(content)}\n".encode() + content)
    return digest.hexdigest()


SOURCES = digest_sources(Path(__file__).parents[1])


def compiled(function: Callable[..., Any], *, into_caller: bool = False) -> Any:
    """Compile without the GIL; keep the machine code on disk where that is possible."""
    dispatcher: Any = njit(nogil=True, forceinline=into_caller)(function)
    # numba asks the object itself. A compiler that Ctrl-C breaks off leaves code behind that never returns.
    compile_for_args = dispatcher._compile_for_args
    dispatcher._compile_for_args = lambda *args, **kwargs: aside(partial(compile_for_args, *args, **kwargs))
    # An error says that neither the package's folder nor the user's cache can be written.
    with suppress(RuntimeError, OSError):
        dispatcher._cache = CheckedCache(function, SOURCES)
    return dispatcher


def inlined(function: Callable[..., Any]) -> Any:
    """Compile into the caller: a part of a loop that has a name of its own and costs no call."""
    return compiled(function, into_caller=True)
