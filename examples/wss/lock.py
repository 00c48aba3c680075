"""One run per folder: a lock that the operating system takes back however its process ends."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dhr_refine.errors import UserError, reason, writing

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

NAME = "run.lock"
"""It stays in the folder: if it were deleted, two runs could each lock a file of that name."""
HELD = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, or raise a UserError that says who does."""
    path = folder / NAME
    with writing(path, "--out"):
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)  # closed in child processes
    try:
        _take(file, folder)
        with writing(path, "--out"):
            os.ftruncate(file, 0)
            os.lseek(file, 0, os.SEEK_SET)
            os.write(file, f"pid {os.getpid()}, started {time.strftime('%Y-%m-%d %H:%M:%S')}".encode())
        yield
    finally:
        os.close(file)


def _take(file: int, folder: Path) -> None:
    """Lock an open file."""
    try:
        if fcntl is not None:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        elif sys.platform == "win32":
            import msvcrt

            os.lseek(file, 1 << 20, os.SEEK_SET)  # behind the text: what is locked cannot be read there
            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
    except OSError as error:
        if error.errno not in HELD:  # a file system without locks
            print(
                f"{folder} cannot be locked ({reason(error)}): let no other run write there", file=sys.stderr
            )
            return
        os.lseek(file, 0, os.SEEK_SET)
        holder = os.read(file, 100).decode(errors="replace") or "just started"
        raise UserError(
            f"another run ({holder}) writes to {folder}: wait for it or choose another --out"
        ) from None
