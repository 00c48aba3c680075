"""Calling a function on lists of images in this process or in others, of which some may die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from typing import Any, Generic, Protocol, TypeVar

import torch

Result = TypeVar("Result")

# Lists of images that are on their way, for each process: enough that none stands still for the slowest.
_ON_THEIR_WAY = 3


class Job(Protocol):
    """What is done with some images, whose ids it is called with first; the rest is the same for a run."""

    __call__: Callable[..., Any]

    def close(self) -> None:
        """Let go of what the job holds."""
        ...


class Pool(Generic[Result]):
    """Processes that each have a job of their own; a context.

    When a process dies (memory that ran out, a crash in a decoder), the lists that were under way are called
    again, each in a process of its own; if that dies too, its images one by one. So only an image whose own
    process dies is given up, and all others are complete.

    PyTorch gets one thread in each, and the compiled code with it: work is shared out by images, which need
    not wait for each other, and the results do not depend on the number of processes.

    Parameters
    ----------
    open_job : makes the job in each process; it is sent there
    jobs : number of processes, 1 for this one
    give_up : the result of an image whose process died when it was alone in it, from its id and the reason
    """

    def __init__(self, open_job: Callable[[], Job], jobs: int, give_up: Callable[[str, str], Result]):
        """No process yet."""
        self.open_job, self.jobs, self.give_up = open_job, jobs, give_up
        self._executor: ProcessPoolExecutor | None = None
        self._own: Job | None = None
        self._threads = torch.get_num_threads()

    def __enter__(self) -> Pool[Result]:
        """Processes start when they are needed."""
        torch.set_num_threads(1)
        return self

    def __exit__(self, *_: object) -> None:
        """End the processes; what is under way is waited for."""
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)
            self._executor = None
        if self._own is not None:
            self._own.close()
            self._own = None
        torch.set_num_threads(self._threads)

    def run(self, chunks: Iterable[Sequence[str]], *rest: Any) -> Iterator[Result]:
        """The result of each list, in their order.

        Parameters
        ----------
        chunks : lists of ids
        rest : what the job is called with beside the ids
        """
        if self.jobs == 1:
            self._own = self._own or self.open_job()
            for chunk in chunks:
                yield self._own(chunk, *rest)
            return
        later = iter(chunks)
        coming: deque[tuple[Sequence[str], Future[Result]]] = deque()
        while True:
            for chunk in islice(later, self.jobs * _ON_THEIR_WAY - len(coming)):
                coming.append((chunk, self._submit(chunk, *rest)))
            if not coming:
                return
            chunk, future = coming.popleft()
            try:
                yield future.result()
            except BrokenProcessPool:
                self._executor = None
                yield from self._again(chunk, *rest)
                # All others that are on their way have their result by now, or the same error.
                for chunk, future in [coming.popleft() for _ in range(len(coming))]:
                    if future.exception() is None:
                        yield future.result()
                    else:
                        yield from self._again(chunk, *rest)

    def _submit(self, chunk: Sequence[str], *rest: Any) -> Future[Result]:
        self._executor = self._executor or _start(self.open_job, self.jobs)
        try:
            with _deaf():
                return self._executor.submit(_call, chunk, *rest)
        except BrokenProcessPool as error:
            future: Future[Result] = Future()
            future.set_exception(error)
            return future

    def _again(self, chunk: Sequence[str], *rest: Any) -> Iterator[Result]:
        """The result of a list in a process of its own, or of its images one by one if that dies."""
        try:
            with _start(self.open_job, 1) as executor:
                with _deaf():
                    future = executor.submit(_call, chunk, *rest)
                yield future.result()
        except BrokenProcessPool:
            if len(chunk) == 1:
                yield self.give_up(chunk[0], "its process died twice, perhaps for want of memory")
                return
            for key in chunk:
                yield from self._again([key], *rest)


def _start(open_job: Callable[[], Job], jobs: int) -> ProcessPoolExecutor:
    # Not forked: threads and accelerators of this process would not survive it.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(open_job,))


@contextmanager
def _deaf() -> Iterator[None]:
    """Processes that start inside are deaf to Ctrl-C from their first moment on; this one hears it after.

    It reaches the whole group of processes, and one that is still importing would print where.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    resource_tracker.ensure_running()  # its start would end the block in some versions of Python
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


_job: Job | Exception | None = None


def _begin(open_job: Callable[[], Job]) -> None:
    """Make the job of this process."""
    global _job
    # Ctrl-C reaches the whole group of processes; the first one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    torch.set_num_threads(1)
    try:
        _job = open_job()
    except Exception as error:  # told to who calls: an error here would only break the pool
        _job = error


def _end_with(sentinel: int) -> None:
    """End this process when its parent is gone, which nobody tells a pool's processes."""
    wait([sentinel])
    os._exit(1)


def _call(chunk: Sequence[str], *rest: Any) -> Any:
    assert _job is not None
    if isinstance(_job, Exception):
        raise _job
    return _job(chunk, *rest)
