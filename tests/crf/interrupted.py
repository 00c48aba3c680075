"""Interrupts calls that run on several threads, in a process of its own: it must neither hang nor leak.

    python interrupted.py lines      KeyboardInterrupt at each line that the caller's thread comes by
    python interrupted.py workers    the same on the other threads, as if memory ran out there
    python interrupted.py signals    Ctrl-C at random moments
    python interrupted.py fork       no Ctrl-C: calls in processes forked after threads were used

Every interrupted call must raise within a second, leave no thread behind, and the next call must be right.
"""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch.utils.data import DataLoader

import dhr_refine
from dhr_refine import DenseCRFLattice, dense_crf, sinkhorn_ot, uss_rebalance
from dhr_refine.crf.backends.numba import solve

LIMIT = 1.0  # seconds
SOURCES = Path(dhr_refine.__file__).parent
# What runs in the threads' own files, up to the compiled loops.
TRACED = {
    str(SOURCES / name)
    for name in (
        "compiled/threads.py",
        "compiled/barrier.py",
        "crf/backends/numba/threads.py",
        "crf/backends/numba/memory.py",
        "crf/backends/numba/solve.py",
        "crf/backends/numba/terms.py",
        "maps/cosines_numba.py",
        "transport/lean_numba.py",
    )
}


def one_image(side: int = 40, classes: int = 4) -> Callable[[], Any]:
    """A CRF whose threads work together on one image."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, side, side), dtype=torch.uint8, generator=generator)
    probs = torch.rand(classes, side, side, generator=generator).softmax(0)
    lattice = DenseCRFLattice(image, backend="numba")
    return lambda: dense_crf(image, probs, lattice=lattice)


def batch(count: int = 5, side: int = 40) -> Callable[[], Any]:
    """A CRF on several images, one on each thread."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
    probs = torch.rand(count, 4, side, side, generator=generator).softmax(1)
    return lambda: dense_crf(images, probs, backend="numba")


def transport() -> Callable[[], Any]:
    scores = torch.rand(6, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    return lambda: sinkhorn_ot(scores).plan


def compare() -> Callable[[], Any]:
    """Cosines of several images, one on each thread."""
    generator = torch.Generator().manual_seed(0)
    features, mask = (
        torch.rand(5, 8, 9, 9, generator=generator),
        torch.randint(0, 3, (5, 18, 18), generator=generator),
    )
    return lambda: uss_rebalance(features, mask, num_classes=3).scores


def check(call: Callable[[], Any], expected: Any, since: float, what: object) -> None:
    """A call that was interrupted is over in time; its threads are gone, and the next call is right."""
    took = time.perf_counter() - since
    assert took < LIMIT, f"{what}: {took:.2f} s"
    until = time.perf_counter() + LIMIT
    while threading.active_count() > 1 and time.perf_counter() < until:
        time.sleep(0.001)
    assert threading.active_count() == 1, f"{what}: {threading.enumerate()}"
    assert torch.equal(call(), expected), what


class Interrupt:
    """A trace function that raises KeyboardInterrupt at a line of the threads' files, counted from 1."""

    def __init__(self, line: int) -> None:
        self.left = line
        self.where = ""

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Interrupt | None:
        if frame.f_code.co_filename not in TRACED:
            return None
        if event in ("call", "line"):
            self.left -= 1
            if self.left == 0:
                self.where = f"{frame.f_code.co_filename}:{frame.f_lineno} {event}"
                raise KeyboardInterrupt
        return self


def interrupt_lines(call: Callable[[], Any], expected: Any, *, in_workers: bool) -> None:
    """Interrupt at the lines of the threads' files in turn, at the first 50 without a gap."""
    line = 0
    while True:
        line += 1 if line < 50 else 17
        interrupt = Interrupt(line)
        since, seen = time.perf_counter(), None
        (threading.settrace if in_workers else sys.settrace)(interrupt)
        try:
            call()
        except (KeyboardInterrupt, RuntimeError) as error:
            seen = error
        finally:
            sys.settrace(None)
            threading.settrace(None)
        if not interrupt.where:
            assert seen is None
            assert line > 20
            return
        check(call, expected, since, interrupt.where)


def interrupt_by_signals(call: Callable[[], Any], expected: Any, times: int) -> None:
    """Send SIGINT at random moments of a call."""
    since = time.perf_counter()
    call()
    longest = time.perf_counter() - since
    sent = [0.0]

    def send() -> None:
        sent[0] = time.perf_counter()
        os.kill(os.getpid(), signal.SIGINT)

    for _ in range(times):
        timer = threading.Timer(random.uniform(0, 1.2 * longest), send)
        try:
            timer.start()
            while True:  # until it strikes
                call()
        except KeyboardInterrupt:
            pass
        check(call, expected, sent[0], "signal")


def in_fork(number: int) -> bool:
    """A forked process: torch's own threads are of no use there, those of compiled loops are."""
    torch.set_num_threads(1)
    torch.get_num_threads = lambda: 3
    return all(torch.equal(make(), result) for make, result in zip(CALLS, EXPECTED, strict=True))


def fork() -> None:
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert all(pool.map(in_fork, range(4)))
    loader = DataLoader(range(4), num_workers=2, multiprocessing_context="fork", collate_fn=in_loader)
    assert list(loader) == [True] * 4


def in_loader(numbers: list[int]) -> bool:
    return in_fork(numbers[0])


CALLS: list[Callable[[], Any]] = []
EXPECTED: list[Any] = []


def main(mode: str) -> None:
    torch.set_num_threads(3)
    solve._PIXELS_PER_THREAD = 100
    random.seed(0)
    CALLS[:] = [one_image(), batch(), transport(), compare()]
    if mode == "signals":  # one of them takes longer than may pass after the signal
        CALLS.append(one_image(400, 65))
    EXPECTED[:] = [call() for call in CALLS]
    if mode == "fork":
        fork()
        return
    for call, result in zip(CALLS, EXPECTED, strict=True):
        if mode == "signals":
            interrupt_by_signals(call, result, 2 if call is CALLS[-1] else 12)
        else:
            interrupt_lines(call, result, in_workers=mode == "workers")


if __name__ == "__main__":
    faulthandler.dump_traceback_later(200, exit=True)
    main(sys.argv[1])
