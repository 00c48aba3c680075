"""A task on all images of a run: which ones, by how many processes, and what came of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ..datasets.items import read_list
from ..errors import UsageError, UserError
from . import pool
from .outcomes import Outcome
from .progress import Progress
from .record import Record
from .worker import Task, Worker

# Images that a process gets at a time: few, so that all end together, but enough to read ahead.
_CHUNK = 8
# A run whose first images fail, all of them, has a wrong argument.
_ALL_WRONG = 32


@dataclass(frozen=True)
class Selection:
    """Which images of a data set a run is for, and how it is carried out."""

    listed: Path | None = None
    ids: Sequence[str] | str | Path | None = None
    limit: int | None = None
    part: tuple[int, int] | None = None
    jobs: int | None = None
    overwrite: bool = False
    quiet: bool = False
    ray: str | None = None

    def choose(self, there: Callable[[], Iterable[str]]) -> list[str]:
        """The ids: those asked for, else all that are ``there``; of them the first ones, and the part.

        Raises
        ------
        UsageError
            None is left.
        """
        if self.ids is not None:
            keys = read_ids(self.ids)
        elif self.listed is not None:
            keys = read_list(self.listed)
        else:
            keys = list(there())
        keys = [*dict.fromkeys(keys)][: self.limit]
        if self.part is not None:
            keys = keys[self.part[0] - 1 :: self.part[1]]
        if not keys:
            raise UsageError("no image is left to work on: see to --list, --ids, --part and the folders")
        return keys

    def processes(self, images: int, device: str) -> int:
        """How many processes to use: as many as cores, one for an accelerator, never more than needed."""
        jobs = self.jobs or (_cores() if device == "cpu" else 1)
        return max(1, min(jobs, -(-images // _CHUNK)))


def read_ids(ids: Sequence[str] | str | Path) -> list[str]:
    """Ids given as a sequence, as a text with commas, or as a file with one at the start of each line."""
    if isinstance(ids, (str, Path)):
        if Path(ids).is_file():
            return read_list(Path(ids))
        return [part.strip() for part in str(ids).split(",") if part.strip()]
    return list(ids)


def read_part(text: str | tuple[int, int] | None) -> tuple[int, int] | None:
    """``"2/4"`` as (2, 4).

    Raises
    ------
    UsageError
        It is no part of a whole.
    """
    if text is None or isinstance(text, tuple):
        return text
    number, slash, count = text.partition("/")
    if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise UsageError(f"--part must be K/N with K from 1 to N, as 2/4, got {text[:50]!r}")
    return int(number), int(count)


@dataclass
class Tally:
    """What came of the images of a run so far."""

    done: int = 0
    skipped: int = 0
    failed: list[Outcome] = field(default_factory=list)
    notes: dict[str, int] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def add(self, outcome: Outcome) -> None:
        """Count one image."""
        self.done += outcome.status == "done"
        self.skipped += outcome.status == "skipped"
        if outcome.status == "failed":
            self.failed.append(outcome)
        for note in outcome.notes:
            self.notes[note] = self.notes.get(note, 0) + 1

    @property
    def counts(self) -> dict[str, int]:
        """Number of images by what became of them."""
        return {"done": self.done, "skipped": self.skipped, "failed": len(self.failed)}

    @property
    def seconds(self) -> float:
        """Time since the start."""
        return time.monotonic() - self.started

    def check(self) -> None:
        """Raise if it makes no sense to go on."""
        if len(self.failed) >= _ALL_WRONG and not self.done + self.skipped:
            first = self.failed[0]
            raise UserError(
                f"the first {len(self.failed)} images failed, all of them; {first.key} ({first.stage}): "
                f"{first.message}"
            )


def work_through(
    task: Task, keys: Sequence[str], selection: Selection, *, device: str, what: str, tally: Tally
) -> list[str]:
    """Do a task for all images; the ids of those that are complete.

    Raises
    ------
    UserError
        The first images failed, all of them, or nothing can be written.
    """
    complete = []
    with Progress(len(keys), what, quiet=selection.quiet) as progress:
        for outcome in _outcomes(task, keys, selection, device):
            tally.add(outcome)
            progress.advance(outcome.status)
            if outcome.status != "failed":
                complete.append(outcome.key)
            tally.check()
    place = {key: number for number, key in enumerate(keys)}
    return sorted(complete, key=place.__getitem__)


def _outcomes(task: Task, keys: Sequence[str], selection: Selection, device: str) -> Iterator[Outcome]:
    chunks = [keys[start : start + _CHUNK] for start in range(0, len(keys), _CHUNK)]
    for outcomes in pool.run(
        partial(Worker, task), chunks, jobs=selection.processes(len(keys), device), give_up=given_up
    ):
        yield from outcomes


def given_up(key: str, why: str) -> list[Outcome]:
    """The outcome of an image whose process died, as a worker would have returned it."""
    return [Outcome(key, "failed", "process", why)]


def recorded(record: Record, tally: Tally, run: Callable[[], Any]) -> Any:
    """Do a run, and keep the record of it whatever happens."""

    def save(status: str) -> None:
        record.save(status, counts=tally.counts, failed=tally.failed, seconds=tally.seconds)

    save("running")
    try:
        result = run()
    except BaseException:
        save("stopped")
        raise
    save("failures" if tally.failed else "complete")
    return result


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
