"""Ctrl-C in the process of a command: one line and code 130, at any moment.

While a command only starts, there is nothing to put in order: the process ends at once, whatever it is
importing (:func:`end_at_once`). While it works, KeyboardInterrupt ends what is under way in order
(:func:`raise_from_here`); one that foreign code swallows comes again. Those of the next second are the same
one, sent by a wrapper as well, say; a later one ends the process at once, and with it those that it started.
When all is said, and Python waits for threads, the process ends at once again. Processes that do not call
``end_at_once``, such as notebooks, keep what Ctrl-C does in them.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

STOPPED = 130
"""Exit code of a process that Ctrl-C ended, as shells have it."""
_AGAIN = 0.1  # seconds until a swallowed interrupt comes again
_ONE = 1.0  # seconds in which several interrupts are one


class _State:
    """What became of Ctrl-C in this process."""

    listening = False
    heard = False
    since: float | None = None  # when one was raised
    line, code = "", STOPPED
    held = 0
    waiting = False


def end_at_once(line: str = "", code: int = STOPPED) -> None:
    """From here on, Ctrl-C writes a line and ends the process with a code."""
    if threading.current_thread() is not threading.main_thread():  # another one cannot say what a signal does
        return
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell starts what runs in the background
        return
    if not _State.listening:
        # Python gives the signal back to the system in the end, which would kill the process.
        atexit.register(signal.signal, signal.SIGINT, signal.SIG_IGN)
        _State.listening = True

    _State.line, _State.code = line, code
    signal.signal(signal.SIGINT, _end)


def raise_from_here() -> None:
    """From here on, Ctrl-C raises KeyboardInterrupt, in a process that called :func:`end_at_once`."""
    if _State.listening:
        sys.unraisablehook = _not_raised
        signal.signal(signal.SIGINT, _interrupt)


def end_from_here(code: int) -> None:
    """From here on, Ctrl-C ends a process that called :func:`end_at_once` with a code, and says nothing."""
    if _State.listening:
        end_at_once(code=code)


def heard() -> bool:
    """Whether Ctrl-C came while the command worked, whatever error became of it."""
    return _State.heard


@contextmanager
def held() -> Iterator[None]:
    """Ctrl-C waits for the end of a block that must not be left half done."""
    _State.held += 1
    try:
        yield
    finally:
        _State.held -= 1
        if _State.waiting and not _State.held:
            _State.waiting, _State.since = False, time.monotonic()
            raise KeyboardInterrupt


def _end(number: int, frame: FrameType | None) -> None:
    with suppress(Exception):  # a handler may come in the middle of a print
        sys.stdout.flush()
    with suppress(OSError):
        os.write(2, _State.line.encode())
    os._exit(_State.code)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _State.heard = True
    if _State.held:
        _State.waiting = True
    elif _State.since is None:
        _State.since = time.monotonic()
        raise KeyboardInterrupt
    elif time.monotonic() - _State.since > _ONE:
        _end(number, frame)


def _not_raised(what: UnraisableHookArgs) -> None:
    """An error in a callback of foreign code, which goes on: an interrupt comes again, others are told."""
    if not issubclass(what.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(what)
        return
    again = threading.Timer(_AGAIN, _send)
    again.daemon = True
    again.start()


def _send() -> None:
    """Ctrl-C to the main thread, which may be waiting for something, as if it were the first."""
    _State.since = None
    main = threading.main_thread().ident
    if hasattr(signal, "pthread_kill") and main is not None:
        signal.pthread_kill(main, signal.SIGINT)
    else:
        signal.raise_signal(signal.SIGINT)
