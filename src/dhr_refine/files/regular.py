"""Opening files of a disk alone: a pipe would wait for a writer, and a device never end."""

from __future__ import annotations

import os
import stat
from typing import IO


class NotRegularError(ValueError):
    """A path that leads to no file of a disk."""


def show_name(path: str | os.PathLike[str]) -> str:
    """A path for messages, on one line."""
    name = os.fsdecode(path)
    return name if name.isprintable() else ascii(name)[1:-1]


def open_regular(path: str | os.PathLike[str]) -> IO[bytes]:
    """Open a regular file to read its bytes.

    Raises
    ------
    NotRegularError
        The path leads to a pipe, a socket or a device, or is none.
    OSError
        The file cannot be opened, or is a folder.
    """
    name = show_name(path)
    try:
        _check_regular(os.stat(path).st_mode, name)
        # Between the two looks the path may have come to mean something else: do not wait for it.
        flags = (
            os.O_RDONLY
            | getattr(os, "O_NONBLOCK", 0)
            | getattr(os, "O_BINARY", 0)
            | getattr(os, "O_CLOEXEC", 0)
        )
        file = os.fdopen(os.open(path, flags), "rb")
    except NotRegularError:
        raise
    except ValueError as error:  # a null character in the path
        raise NotRegularError(f"{name} is no path of a file: {error}") from error
    try:
        _check_regular(os.fstat(file.fileno()).st_mode, name)
    except BaseException:
        file.close()
        raise
    return file


def _check_regular(mode: int, name: str) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(21, "Is a directory", name)
    if not stat.S_ISREG(mode):
        raise NotRegularError(f"{name} is a pipe, socket or device: pass a regular file")
