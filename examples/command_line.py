"""What the scripts' command lines share: types of numbers, and one line on stderr for what a user can mend.

A ``UserError``, the operating system's refusal, a missing package and too little memory are such lines; every
other error is one of the program and keeps its traceback.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import torch

from dhr_refine.errors import UserError


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line, without all options before it."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2."""
        self.exit(2, f"{self.prog}: {' '.join(message.split())} (--help lists all options)\n")


def whole(least: int, most: int = 2**31 - 1) -> Callable[[str], int]:
    """Type of an argument: a whole number from ``least`` to ``most``."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = None
        if value is None or not least <= value <= most:
            raise argparse.ArgumentTypeError(
                f"must be a whole number from {least} to {most}, got {text[:50]!r}"
            )
        return value

    return parse


def number(least: float, most: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """Type of an argument: a finite number from ``least``, or ``above`` it, to ``most``."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and least <= value <= most) or (above and value == least):
            low = f"above {least:g}" if above else f"from {least:g}"
            high = f" {'and at most' if above else 'to'} {most:g}" if math.isfinite(most) else ""
            raise argparse.ArgumentTypeError(f"must be a number {low}{high}, got {text[:50]!r}")
        return value

    return parse


def run_command(name: str, job: Callable[[], object], *, stopped: str) -> int:
    """Run a command: 0, 1 after an error that its user can mend, 130 with the line ``stopped`` at Ctrl-C."""
    try:
        job()
    except KeyboardInterrupt:
        line, code = stopped, 130
    except (UserError, ImportError, OSError, MemoryError, RuntimeError) as error:
        line, code = _line(error), 1
        if line is None:
            raise
    else:
        return 0
    print(f"{name}: {line}", file=sys.stderr)
    return code


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
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)) or "DefaultCPUAllocator" in text:
        return f"out of memory ({reason(error)}): work on smaller or fewer images at a time"
    if isinstance(error, RuntimeError) and text.startswith("DataLoader worker"):
        return f"{reason(error)}: if memory has run out, fewer --workers need less"
    if isinstance(error, RuntimeError) and not isinstance(error, UserError):
        return None
    return " ".join(text.split()) or type(error).__name__
