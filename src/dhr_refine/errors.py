"""What command lines print in one line: errors that their user can put right, missing packages among them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import interrupts
from .extras import import_optional

__all__ = ["Unfinished", "UsageError", "UserError"]


class UserError(RuntimeError):
    """Something that the user of a command can put right; the text says what is wrong and what to do."""

    code = 1


class UsageError(UserError):
    """A command line that asks for what cannot be: code 2, as for an option that does not exist."""

    code = 2


class Unfinished(UserError):
    """A run that has to wait for others: code 3, as for one that some images failed in."""

    code = 3


def require(module: str, *, by: str = "this", extra: str = "demo", install: str = "") -> Any:
    """Import an optional package for a command, whose user is told in one line how to get it.

    Parameters
    ----------
    module, by, extra, install
        As in :func:`dhr_refine.extras.import_optional`.

    Raises
    ------
    UserError
        The module cannot be imported.
    """
    try:
        return import_optional(module, by=by, extra=extra, install=install)
    except ImportError as error:
        raise UserError(str(error)) from error


def run_command(name: str, job: Callable[[], object], *, stopped: str) -> int:
    """Run a command: the code that it returns, or 0; that of an error that its user can mend, 1 as a rule;
    at Ctrl-C 130 with what the interrupt says, or the line ``stopped``, whatever foreign code made of it."""
    try:
        code = job()
    except KeyboardInterrupt as interrupt:
        line, code = str(interrupt) or stopped, interrupts.STOPPED
    except Exception as error:
        line, code = _line(error), error.code if isinstance(error, UserError) else 1
        if interrupts.heard():
            line, code = stopped, interrupts.STOPPED
        if line is None:
            raise
    else:
        return code if isinstance(code, int) else 0
    interrupts.end_from_here(code)
    print(f"{name}: {line}", file=sys.stderr)
    return code


@contextmanager
def usage() -> Iterator[None]:
    """A folder or file that is none is the fault of who named it: a UserError becomes a UsageError."""
    try:
        yield
    except UserError as error:
        raise UsageError(str(error)) from error


@contextmanager
def reading(what: Path | str, fix: str) -> Iterator[None]:
    """Whatever fails inside is a damaged file's fault: a UserError that names it and what to do."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(f"{what} cannot be read ({reason(error)}): {fix}") from error


@contextmanager
def explained(key: str) -> Iterator[None]:
    """What the library's functions refuse inside is in the files of an image: a UserError that names it."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise UserError(f"image {key}: {' '.join(str(error).split())}") from error


@contextmanager
def writing(path: Path, option: str) -> Iterator[None]:
    """The operating system's refusal to write becomes a UserError that names the path and its option."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({reason(error)}): make room or see to the permissions there, or name "
            f"another place with {option}"
        ) from error


def reason(error: Exception) -> str:
    """What an error says, in short: torch's texts go on with advice, some of it to trust any file."""
    text = str(getattr(error, "strerror", None) or error)
    return " ".join(text.split()).split(". ")[0][:200] or type(error).__name__


def _line(error: Exception) -> str | None:
    """What to tell the user in one line, None if only a programmer can help."""
    text = str(error).strip()
    if text.startswith("Caught ") and "DataLoader worker" in text:  # the worker's traceback, its error last
        text = text.rpartition("\n")[2].partition(": ")[2]
    if (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "DefaultCPUAllocator" in text
    ):
        return f"out of memory ({reason(error)}): work on smaller or fewer images at a time"
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker"):
        return f"{reason(error)}: if memory has run out, fewer --workers need less"
    if not isinstance(error, (UserError, ImportError, OSError, MemoryError)):
        return None
    return " ".join(text.split()) or type(error).__name__
