"""Functions that run as they are within a caller that ``torch.compile`` compiles."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])

# What torch.compile(..., fullgraph=True) says of it.
_REASON = (
    "dhr_refine runs machine code of numba and loops whose length depends on the data, which no graph holds: "
    "call it outside the compiled function, or compile without fullgraph=True"
)


def eager(function: F) -> F:
    """Keep torch.compile out of a public function: it knows neither machine code of numba nor its threads."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        # Not as a decorator: torch.compiler.disable imports the compiler, which takes seconds.
        if "torch._dynamo" in sys.modules:
            return _uncompiled(function)(*args, **kwargs)
        return function(*args, **kwargs)

    # What the compiler looks for before it reads a function: the graph ends here, not somewhere in a check.
    run._torchdynamo_disable = True  # type: ignore[attr-defined]
    run._torchdynamo_disable_msg = _REASON  # type: ignore[attr-defined]
    return run  # pyright: ignore[reportReturnType]


@functools.cache
def _uncompiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compiler.disable(function)


def ordinary(function: F) -> F:
    """Results are ordinary tensors without gradients, also in ``torch.inference_mode`` and of subclasses."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        # Leaving inference mode turns gradients on.
        with torch._C.DisableTorchFunctionSubclass(), torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return run  # pyright: ignore[reportReturnType]
