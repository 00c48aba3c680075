"""Ctrl-C while a script's imports run, which take seconds; it is imported before them."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable


def end_at_ctrl_c(name: str) -> Callable[[], object]:
    """From now on Ctrl-C ends the process with one line and code 130; the result gives Python its own back.

    An interrupt that is raised within an import may be caught there, and what is half imported fail later.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.default_int_handler:  # a process in the background may not hear it at all
        return lambda: None

    def end(*_: object) -> None:
        os.write(2, f"{name}: stopped\n".encode())
        os._exit(130)

    signal.signal(signal.SIGINT, end)
    return lambda: signal.signal(signal.SIGINT, before)
