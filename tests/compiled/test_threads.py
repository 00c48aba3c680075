"""Threads that run compiled code: what they return, and how a call ends that fails or is interrupted."""

from __future__ import annotations

import _thread
import threading
import time
from contextlib import contextmanager

import pytest

from dhr_refine.compiled.threads import aside, for_each, run_threads

pytestmark = pytest.mark.usefixtures("no_thread_left")


@pytest.fixture
def no_thread_left():
    yield
    assert threading.active_count() == 1


@pytest.mark.parametrize("threads", [1, 2, 5, 20])
def test_every_item_is_worked_on_once(threads):
    seen = []

    def square(item: int, _: None) -> int:
        seen.append(item)
        return item * item

    assert for_each(square, range(7), threads) == [0, 1, 4, 9, 16, 25, 36]
    assert sorted(seen) == list(range(7))
    assert for_each(square, [], threads) == []


def test_each_thread_has_something_of_its_own():
    given, back = [], []

    @contextmanager
    def lend():
        given.append(object())
        yield given[-1]
        back.append(given[-1])

    def work(item: int, own: object) -> tuple[int, object]:
        time.sleep(0.01)
        return threading.get_ident(), own

    found = set(for_each(work, range(9), 3, lend=lend))
    assert len(found) == len(given) == len(back) == 3


def test_one_item_needs_no_thread():
    assert for_each(lambda item, _: threading.get_ident(), range(1), 8) == [threading.get_ident()]
    assert for_each(lambda item, _: threading.get_ident(), range(3), 1) == [threading.get_ident()] * 3


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, KeyboardInterrupt, SystemExit])
def test_after_an_error_no_further_item_is_begun(error):
    begun = []

    def work(item: int, _: None) -> None:
        begun.append(item)
        if item == 1:
            raise error("no more")
        time.sleep(0.05)

    with pytest.raises(error, match="no more"):
        for_each(work, range(100), 2)
    assert len(begun) <= 4


def test_ctrl_c_does_not_wait_for_what_takes_long():
    begun, go = [], threading.Event()

    def work(item: int, _: None) -> None:
        begun.append(item)
        _thread.interrupt_main()
        go.wait(30)

    since = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        for_each(work, range(100), 2)
    assert time.perf_counter() - since < 1
    go.set()
    while threading.active_count() > 1:
        time.sleep(0.001)
    assert len(begun) <= 2


def test_ctrl_c_waits_for_what_does_not():
    def work(item: int, _: None) -> None:
        _thread.interrupt_main()
        time.sleep(0.1)

    with pytest.raises(KeyboardInterrupt):
        for_each(work, range(100), 2)
    assert threading.active_count() == 1


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError])
def test_what_a_signal_raised_is_not_hidden_by_numba(error):
    """Of an array that it returns, numba unpickles the type, and takes what is raised there for a fault."""

    def work(number: int) -> None:
        try:
            raise error("a signal")
        except error as raised:
            raise SystemError(
                "<function _numba_unpickle> returned a result with an exception set"
            ) from raised

    def chained(number: int) -> None:
        try:
            work(number)
        except SystemError as raised:
            raise SystemError("CPUDispatcher returned a result with an exception set") from raised

    for run in (work, chained):
        with pytest.raises(error, match="a signal"):
            run_threads(run, 1, stop=lambda: None)


def test_a_fault_of_the_system_stays_one():
    def work(number: int) -> None:
        raise SystemError("its own")

    with pytest.raises(SystemError, match="its own"):
        run_threads(work, 1, stop=lambda: None)


def test_threads_stop_where_one_cannot_start(monkeypatch):
    stopped = threading.Event()
    start = threading.Thread.start

    def start_two(thread: threading.Thread) -> None:
        if threading.active_count() > 2:
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_two)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        run_threads(lambda number: stopped.wait(30), 3, stop=stopped.set)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_threads_stop_where_one_has_died(monkeypatch):
    # Before its first line, for want of memory say: nobody hears of it.
    from dhr_refine.compiled import threads

    stopped = threading.Event()
    work = threads._Crew._run_one

    def die(crew: threads._Crew, number: int) -> None:
        if number == 1:
            raise MemoryError
        work(crew, number)

    monkeypatch.setattr(threads._Crew, "_run_one", die)
    with pytest.raises(RuntimeError, match="a thread has died, perhaps for want of memory: call again"):
        run_threads(lambda number: stopped.wait(30), 3, stop=stopped.set)


def test_what_is_done_aside_returns_and_raises():
    assert aside(divmod, 7, 2) == (3, 1)
    assert aside(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        aside(divmod, 7, 0)
    # No signal reaches other threads: they need no further one.
    alone = for_each(lambda item, _: aside(threading.get_ident) == threading.get_ident(), range(2), 2)
    assert alone == [True, True]


def test_what_is_done_aside_is_not_broken_off():
    done = []

    def work() -> None:
        _thread.interrupt_main()
        time.sleep(0.8)
        done.append(1)

    since = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        aside(work)
    assert time.perf_counter() - since < 0.75
    while threading.active_count() > 1:
        time.sleep(0.001)
    assert done == [1]
