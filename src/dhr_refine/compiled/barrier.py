"""A barrier for compiled code: threads inside one kernel wait for each other without going back to Python.

An array of one 64-bit number counts arrivals. ``threads`` threads that call ``wait(arrivals, threads, n)``
with n = 1, 2, ... leave each meeting together; whoever opens the barrier for good (:func:`release`) lets
threads go on that would otherwise wait for one that never came. A thread that finds it open (:func:`is_open`)
should end: what the others have done is then of no use.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic as _intrinsic

from .jit import compiled

# The decorated functions are called without the typing context: hide that from type checkers.
intrinsic: Any = _intrinsic

# Far above any count.
_OPEN = 2**62
# Looks at the counter before a waiting thread offers its core to others: a few microseconds.
_PATIENCE = 2000
_YIELDS = os.name == "posix"


def make() -> np.ndarray:
    """Return the counter of a new barrier."""
    return np.zeros(1, np.int64)


def release(arrivals: np.ndarray) -> None:
    """Open a barrier for good."""
    arrivals[0] = _OPEN


def _counter(context: Any, builder: Any, array_type: Any, array: Any) -> Any:
    return cgutils.create_struct_proxy(array_type)(context, builder, value=array).data


@intrinsic
def _arrive(_typing: Any, arrivals: Any) -> Any:
    """Count one arrival; what was written before is seen by whoever sees the new count."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        one = ir.Constant(ir.IntType(64), 1)
        return builder.atomic_rmw("add", _counter(context, builder, arrivals, args[0]), one, "seq_cst")

    return types.int64(arrivals), generate


@intrinsic
def _arrived(_typing: Any, arrivals: Any) -> Any:
    """Read the count."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load_atomic(_counter(context, builder, arrivals, args[0]), "acquire", 8)

    return types.int64(arrivals), generate


@intrinsic
def _yield_core(_typing: Any) -> Any:
    """Let another thread run on this core, where the system has a call for it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        if _YIELDS:
            kind = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), generate


@compiled
def wait(arrivals, threads, meeting):
    """Arrive at a meeting and wait for the others."""
    if threads == 1:
        return
    _arrive(arrivals)
    looks = 0
    while _arrived(arrivals) < threads * meeting:
        looks += 1
        if looks >= _PATIENCE:
            _yield_core()


@compiled
def is_open(arrivals):
    """Whether the barrier was opened for good."""
    return _arrived(arrivals) >= _OPEN
