"""Compile a caller of each function named, in a process of its own: one line of JSON for each.

``python compiled_callers.py backend fullgraph name ...`` with a path that holds tests and the package.
"""

from __future__ import annotations

import json
import sys
import warnings

import torch
from pytorch_calls import CALLS


def try_one(name: str, backend: str, fullgraph: bool) -> str:
    """Nothing if the compiled caller gives what the caller gives; else what went wrong."""
    call = CALLS[name]

    def caller(*tensors):
        return call.run(*(1 * tensor for tensor in tensors))

    torch.compiler.reset()
    try:
        compiled = torch.compile(caller, backend=backend, fullgraph=fullgraph)
        results = [compiled(*call.tensors) for _ in range(1 if fullgraph else 2)]
        for result in results:
            torch.testing.assert_close(result, call.run(*call.tensors), rtol=1e-4, atol=1e-5)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


if __name__ == "__main__":
    backend, fullgraph, *names = sys.argv[1:]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about itself
        for name in names:
            print(json.dumps([name, try_one(name, backend, fullgraph == "fullgraph")]), flush=True)
