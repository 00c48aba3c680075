"""What became of an image: finished, there already, or failed at a stage, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["done", "skipped", "failed"]


@dataclass(frozen=True)
class Outcome:
    """What became of an image."""

    key: str
    """Id of the image."""
    status: Status
    """``"done"``, ``"skipped"`` (finished by an earlier run) or ``"failed"``."""
    stage: str = ""
    """Where it failed: ``"read"``, ``"work"``, ``"write"``, or ``"process"`` if its process died."""
    message: str = ""
    """Why it failed, on one line."""
    seconds: float = 0.0
    """Time of the work, without reading and writing, which run beside it."""
    notes: tuple[str, ...] = ()
    """Warnings that came up, one line each."""


def one_line(error: BaseException) -> str:
    """What an error says, on one line; its type too where it is none that a user is expected to see."""
    text = " ".join(str(error).split())[:500]
    expected = isinstance(error, (ValueError, TypeError, OSError, RuntimeError, MemoryError))
    return text if expected and text else f"{type(error).__name__}: {text}".rstrip(": ")
