"""Threads of the numba backend: each works on items of its own, or all work together on one image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from dhr_refine.compiled import barrier

from .memory import Scratch


def on_threads(
    function: Callable[[Any, Scratch], Any], items: Sequence[Any] | np.ndarray, threads: int
) -> list[Any]:
    """Apply a function to items and the working memory of the thread that it runs on."""
    results: list[Any] = [None] * len(items)
    pending = iter(enumerate(items))

    def work(_: int) -> None:
        with Scratch.lend() as scratch:
            for index, item in pending:  # one step at a time, whichever thread takes it
                results[index] = function(item, scratch)

    workers = min(threads, len(items))
    if workers <= 1:
        work(0)
    else:
        # A pool of its own for each call: one kept for later would not survive a fork.
        with ThreadPoolExecutor(workers) as pool:
            list(pool.map(work, range(workers)))
    return results


def together(work: Callable[[int, np.ndarray], None], threads: int) -> None:
    """Call ``work(thread, arrivals)`` on threads at the same time, which wait for each other at a barrier."""
    arrivals = barrier.make()

    def run(thread: int) -> None:
        try:
            work(thread, arrivals)
        except BaseException:
            barrier.release(arrivals)  # for threads that wait for this one
            raise

    if threads == 1:
        run(0)
        return
    with ThreadPoolExecutor(threads - 1) as pool:
        try:
            others = [pool.submit(run, thread) for thread in range(1, threads)]
        except BaseException:
            barrier.release(arrivals)  # for threads that wait for one that could not start
            raise
        run(0)
        for other in others:
            other.result()
