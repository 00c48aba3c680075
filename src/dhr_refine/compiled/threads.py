"""Threads for compiled code, new ones for each call: a pool kept for later would not survive a fork.

The caller's own thread takes no part in the work. It waits, so that Ctrl-C reaches it at any time, and no
other thread ever waits for it.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from queue import Empty, SimpleQueue
from threading import Thread, current_thread, main_thread
from typing import Any

import numpy as np

# Seconds between two looks whether a thread has died without a word.
_LOOK = 0.05
# Seconds that a call which fails waits for its threads to end: most need less for what they are at.
_GRACE = 0.5


class _Crew:
    """Threads that run the same function, and the words with which they end: None, or an error."""

    def __init__(self, run: Callable[[int], None], threads: int, stop: Callable[[], None]) -> None:
        self._run, self._stop = run, stop
        # Of a queue in C and without locks, waiting can be interrupted; Thread.join then takes a thread that
        # runs for one that has ended (Python 3.9 to 3.12).
        self._words: SimpleQueue[BaseException | None] = SimpleQueue()
        self._heard = 0
        self._threads = [Thread(target=self._run_one, args=(number,)) for number in range(threads)]

    def work(self) -> None:
        """Start all and return when they have ended; raise the first error, or what interrupts the caller."""
        try:
            for thread in self._threads:
                thread.start()
            self._wait()
        except BaseException:
            self._dismiss()
            raise

    def _run_one(self, number: int) -> None:
        error = None
        try:
            self._run(number)
        except BaseException as raised:
            error = raised
        self._words.put(error)

    def _wait(self) -> None:
        """Return when all have ended; raise the first error as soon as it is there."""
        while self._heard < len(self._threads):
            try:
                error = self._words.get(timeout=_LOOK)
            except Empty:
                dead = sum(not thread.is_alive() for thread in self._threads)
                if dead > self._heard and self._words.empty():
                    raise RuntimeError("a thread has died, perhaps for want of memory: call again") from None
                continue
            self._heard += 1
            if error is not None:
                raise error
        self._join()

    def _dismiss(self) -> None:
        """Stop all, and wait a little for them."""
        self._stop()
        until = time.monotonic() + _GRACE
        while self._heard < sum(thread.ident is not None for thread in self._threads):
            try:
                self._words.get(timeout=max(until - time.monotonic(), 0.0))
            except Empty:
                return
            self._heard += 1
        self._join()

    def _join(self) -> None:
        """Wait for threads that have said their last word."""
        for thread in self._threads:
            if thread.ident is not None:
                thread.join()


def _run_here(run: Callable[[int], None]) -> None:
    """Call ``run(0)`` on the caller's thread.

    If Ctrl-C comes while numba makes an array of what a kernel returns, a SystemError hides the interrupt.
    """
    try:
        run(0)
    except SystemError as error:
        hidden: BaseException | None = error
        while isinstance(hidden, SystemError):
            hidden = hidden.__cause__ or hidden.__context__
        if hidden is None:
            raise
        raise hidden from None


def run_threads(run: Callable[[int], None], threads: int, *, stop: Callable[[], None]) -> None:
    """Call ``run(0)`` to ``run(threads - 1)`` at the same time, and return when all have.

    A single one runs on the caller's thread. ``stop`` is called when one fails or Ctrl-C interrupts the
    caller; the others must then end soon. The first error is raised, and threads that have not ended half a
    second later are left alone: what they work on must not be used again.
    """
    if threads <= 1:
        _run_here(run)
        return
    _Crew(run, threads, stop).work()


def aside(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function that Ctrl-C must not break off: on another thread, which goes on without the caller."""
    if current_thread() is not main_thread():  # no signal reaches any other
        return function(*arguments)
    results = []
    _Crew(lambda _: results.append(function(*arguments)), 1, stop=lambda: None).work()
    return results[0]


def for_each(
    function: Callable[[Any, Any], Any],
    items: Sequence[Any] | np.ndarray,
    threads: int,
    *,
    lend: Callable[[], AbstractContextManager[Any]] = nullcontext,
) -> list[Any]:
    """Apply ``function(item, own)`` to items, each on whichever thread is free.

    ``own`` is what ``lend`` lends to the thread for all its items. After an error, or Ctrl-C, no further item
    is begun.
    """
    results: list[Any] = [None] * len(items)
    pending = deque(range(len(items)))

    def work(_: int) -> None:
        with lend() as own:
            while pending:
                try:
                    index = pending.popleft()  # in one step: no other thread gets the same
                except IndexError:  # another thread was faster
                    return
                results[index] = function(items[index], own)

    run_threads(work, min(threads, len(items)), stop=pending.clear)
    return results
