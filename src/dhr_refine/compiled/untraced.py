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

    uncompiled: Any = None

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        # Not as a decorator: torch.compiler.disable imports the compiler, which takes seconds.
        nonlocal uncompiled
        if "torch._dynamo" not in sys.modules:
            return function(*args, **kwargs)
        if uncompiled is None:
            uncompiled = torch.compiler.disable(function)
        return uncompiled(*args, **kwargs)

    # What the compiler looks for before it reads a function: the graph ends here, not somewhere in a check.
    run._torchdynamo_disable = True  # type: ignore[attr-defined]
    run._torchdynamo_disable_msg = _REASON  # type: ignore[attr-defined]
    return run  # pyright: ignore[reportReturnType]


def ordinary(function: F) -> F:
    """Results are ordinary tensors without gradients, also in ``torch.inference_mode`` and of subclasses."""

    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> Any:
        # Leaving inference mode turns gradients on. Within a transform of torch.func, what is made of plain
        # tensors stays plain.
        plain, apart = torch._C.DisableTorchFunctionSubclass(), torch._C._DisableFuncTorch()
        with plain, apart, torch.inference_mode(False), torch.no_grad():
            return function(*args, **kwargs)

    return run  # pyright: ignore[reportReturnType]
