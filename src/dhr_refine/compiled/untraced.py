"""Functions that run as they are within a caller that ``torch.compile`` compiles."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def eager(function: F) -> F:
    """Keep torch.compile out of a function: it knows neither machine code of numba nor its threads."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        # Not as a decorator: torch.compiler.disable imports the compiler, which takes seconds.
        if torch.compiler.is_compiling():
            return torch.compiler.disable(function)(*args, **kwargs)
        return function(*args, **kwargs)

    return run  # pyright: ignore[reportReturnType]
