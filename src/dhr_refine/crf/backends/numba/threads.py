"""Threads of the numba backend: each works on items of its own, or all work together on one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from dhr_refine.compiled import barrier
from dhr_refine.compiled.threads import for_each, run_threads

from .memory import Scratch


def on_threads(
    function: Callable[[Any, Scratch], Any], items: Sequence[Any] | np.ndarray, threads: int
) -> list[Any]:
    """Apply a function to items and the working memory of the thread that it runs on."""
    return for_each(function, items, threads, lend=Scratch.lend)


def together(work: Callable[[int, np.ndarray], None], threads: int) -> None:
    """Call ``work(thread, arrivals)`` on threads at the same time, which wait for each other at a barrier."""
    arrivals = barrier.make()
    # An open barrier lets go those that wait for one that fails, and tells all to end.
    run_threads(lambda thread: work(thread, arrivals), threads, stop=partial(barrier.release, arrivals))
