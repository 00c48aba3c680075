"""Calling a function on lists of images in this process or in others, of which some may die."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from multiprocessing.connection import wait as wait_for
from typing import Any, TypeVar

Result = TypeVar("Result")
Job = Callable[[Sequence[str]], Result]
"""What is done with some images."""
Open = Callable[[], Job[Result]]
"""Makes a job; called once in each process, so it must be possible to send it there."""

# Lists of images that wait for a process, for each: enough that none stands still.
_WAITING = 2


def run(
    open_job: Open[Result],
    chunks: Iterable[Sequence[str]],
    *,
    jobs: int,
    give_up: Callable[[str, str], Result],
) -> Iterator[Result]:
    """Call a job on lists of images; results come as they are finished.

    Parameters
    ----------
    open_job : makes the job in each process
    chunks : lists of ids
    jobs : number of processes, 1 for this one
    give_up : the result of an image whose process died again when it was alone in it, from its id and the reason

    Notes
    -----
    When a process dies (memory that ran out, a crash in a decoder), the lists that were under way are called
    again, each in a process of its own; if that dies too, its images one by one. So only an image whose own
    process dies is given up, and all others are complete.
    """
    if jobs == 1:
        job = open_job()
        try:
            yield from map(job, chunks)
        finally:
            _close(job)
        return
    rest = iter(chunks)
    while True:
        suspects: list[Sequence[str]] = []
        yield from _until_one_dies(open_job, rest, jobs, suspects)
        if not suspects:
            return
        for chunk in suspects:
            yield from _alone(open_job, chunk, give_up)


def _until_one_dies(
    open_job: Open[Result], chunks: Iterator[Sequence[str]], jobs: int, suspects: list[Sequence[str]]
) -> Iterator[Result]:
    """Results until all lists are done or a process died; ``suspects`` then has the lists without a result."""
    waiting: dict[Future[Result], Sequence[str]] = {}
    with _pool(open_job, jobs) as pool:
        try:
            while True:
                room = 0 if suspects else jobs * _WAITING - len(waiting)
                for chunk in islice(chunks, room):
                    try:
                        waiting[pool.submit(_call, chunk)] = chunk
                    except BrokenProcessPool:
                        suspects.append(chunk)
                        break
                if not waiting:
                    return
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    chunk = waiting.pop(future)
                    try:
                        yield future.result()
                    except BrokenProcessPool:  # as all others will say that have no result yet
                        suspects.append(chunk)
        finally:
            pool.shutdown(cancel_futures=True)


def _alone(
    open_job: Open[Result], chunk: Sequence[str], give_up: Callable[[str, str], Result]
) -> Iterator[Result]:
    """Results of a list in a process of its own, or of its images one by one if that dies."""
    try:
        with _pool(open_job, 1) as pool:
            yield pool.submit(_call, chunk).result()
    except BrokenProcessPool:
        if len(chunk) == 1:
            yield give_up(chunk[0], "its process died twice, perhaps for want of memory")
            return
        for key in chunk:
            yield from _alone(open_job, [key], give_up)


def _pool(open_job: Open[Any], jobs: int) -> ProcessPoolExecutor:
    # Not forked: threads and accelerators of this process would not survive it.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin, initargs=(open_job,))


_job: Job[Any] | Exception | None = None


def _begin(open_job: Open[Any]) -> None:
    """Make the job of this process."""
    global _job
    # Ctrl-C reaches the whole group of processes; the first one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    try:
        _job = open_job()
    except Exception as error:  # told to who calls: an error here would only break the pool
        _job = error


def _end_with(sentinel: int) -> None:
    """End this process when its parent is gone, which nobody tells a pool's processes."""
    wait_for([sentinel])
    os._exit(1)


def _call(chunk: Sequence[str]) -> Any:
    assert _job is not None
    if isinstance(_job, Exception):
        raise _job
    return _job(chunk)


def _close(job: Any) -> None:
    close = getattr(job, "close", None)
    if close is not None:
        close()
