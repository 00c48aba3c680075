"""A task on all images of a run: which ones, by how many processes, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from ...errors import UsageError, UserError, writing
from ...files.regular import show_name
from .on_ray import connected, run_on_ray
from .options import CHUNK, RunOptions
from .outcomes import Outcome
from .pool import Pool
from .progress import Progress
from .record import Record
from .report import FolderReport
from .worker import Task, Worker

# A run whose first images fail, all of them, has a wrong argument.
_ALL_WRONG = 32


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

    def check(self, any_good: bool, *, before: int = 0) -> None:
        """Raise if it makes no sense to go on: many images failed, and none is good.

        Parameters
        ----------
        any_good : whether one did not fail
        before : number of images that failed in steps before, which say nothing of this one
        """
        failed = self.failed[before:]
        if len(failed) >= _ALL_WRONG and not any_good:
            first = failed[0]
            raise UserError(
                f"the first {len(failed)} images failed, all of them; {first.key} ({first.stage}): "
                f"{first.message}"
            )


class Files(Protocol):
    """The files that a task writes for each image."""

    def make_folders(self) -> None:
        """Make the folders that are not there."""
        ...

    def others(self, keys: Sequence[str]) -> list[str]:
        """Images whose files are there and that are not among ``keys``."""
        ...

    def remove(self, key: str) -> None:
        """Remove the files of an image."""
        ...


def _outcomes(task: Task, keys: Sequence[str], run: RunOptions, device: str, out: Path) -> Iterator[Outcome]:
    if run.ray is not None:
        yield from run_on_ray(
            partial(Worker, task),
            keys,
            address=run.ray,
            jobs=run.jobs,
            device=device,
            marks=out,
            give_up=given_up,
        )
        return
    chunks = [keys[start : start + CHUNK] for start in range(0, len(keys), CHUNK)]
    jobs = run.processes(len(keys), device)
    with Pool(partial(Worker, task), jobs, lambda key, why: [given_up(key, why)]) as pool:
        for outcomes in pool.run(chunks):
            yield from outcomes


def given_up(key: str, why: str) -> Outcome:
    """The outcome of an image whose process died."""
    return Outcome(key, "failed", "process", why)


class Run:
    """A run into a folder, with the record of it whatever happens; a context.

    Parameters
    ----------
    verb : what is done
    out : folder of the results
    arguments : what the results depend on
    run : how it is carried out

    Raises
    ------
    UserError
        The folder cannot be written.
    """

    def __init__(self, verb: str, out: Path, arguments: Mapping[str, Any], run: RunOptions):
        """Look at what is there."""
        self.out, self.run = out, run
        self.tally = Tally()
        self._cluster = ExitStack()
        self.record = Record(out, verb, arguments, part=run.place)
        self._differing = self.record.differing()
        self._has_room = False

    def __enter__(self) -> Run:
        """Nothing is said until there is room: what is there is of the arguments that its record names.

        A cluster stays for all steps.
        """
        if self.run.ray is not None:
            self._cluster.enter_context(connected(self.run.ray, self.run.jobs))
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        """Say how it ended; an interrupt says what is finished."""
        self._cluster.close()
        if not self._has_room:
            return
        self._save("stopped" if kind is not None else "failures" if self.tally.failed else "complete")
        if kind is KeyboardInterrupt:
            there = self.tally.done + self.tally.skipped
            raise KeyboardInterrupt(
                f"stopped with {there:,} images finished in {self.out}; the same command goes on from there"
            )

    def make_room(
        self, keys: Sequence[str], outputs: Sequence[Files], also: Callable[[bool], None] = lambda _: None
    ) -> None:
        """Make the folder of the results, and remove what is to be made anew; say that it runs.

        Results of the same arguments stay, unless they are to be overwritten. Where there are none, what a
        run of other arguments has left beside them is removed.

        Parameters
        ----------
        keys : ids of the images
        outputs : the results, and those of steps before
        also : removes what else is to be made anew; told whether that is of the same arguments

        Raises
        ------
        UsageError
            There are results of other arguments that are not to be overwritten, or not all; or files that no
            run has made.
        """
        there = outputs[0].others(())
        self._refuse(keys, there)
        with writing(self.out, "--out"):
            outputs[0].make_folders()
            if self.run.overwrite or self._differing:
                for part in outputs:
                    for key in {*keys, *(part.others(()) if self._differing else ())}:
                        part.remove(key)
                also(not self._differing)
            if self._differing:
                self.record.remove_others()
        self._has_room = True
        self._save("running")

    def _refuse(self, keys: Sequence[str], there: Sequence[str]) -> None:
        """Raise a UsageError if what is there must not be touched."""
        if there and self._differing and not self.run.overwrite:
            raise UsageError(
                f"{show_name(self.out)} holds results of another run ({'; '.join(self._differing)}): name "
                "another folder with --out, or make them anew with --overwrite"
            )
        others = sorted({*there} - {*keys})
        if others and self._differing:
            raise UsageError(
                f"{self.out} has results of {len(others)} other images ({others[0]}) that were made by other "
                "arguments: overwrite all of them, or name another folder with --out"
            )
        if not self.record.exists and (strange := sorted({*there} & {*keys})):
            raise UsageError(
                f"{show_name(self.out)} has files of {len(strange)} of these images ({strange[0]}) that no "
                "run has made: name another folder with --out"
            )

    def left(self, keys: Sequence[str]) -> list[str]:
        """The images that have not failed."""
        bad = {outcome.key for outcome in self.tally.failed}
        return [key for key in keys if key not in bad]

    def step(
        self, task: Task, keys: Sequence[str], *, device: str, what: str, last: bool = False
    ) -> list[str]:
        """Do a task for all images; the ids of those that are complete.

        Parameters
        ----------
        task : the task
        keys : ids of the images
        device : where it works
        what : what is done, for the progress
        last : whether the run is for the results of this task; of those before, failures alone are counted

        Raises
        ------
        UserError
            The first images failed, all of them, or nothing can be written.
        """
        complete, before = set(), len(self.tally.failed)
        with Progress(len(keys), what, quiet=self.run.quiet) as progress:
            for outcome in _outcomes(task, keys, self.run, device, self.out):
                progress.advance(outcome.status)
                if outcome.status != "failed":
                    complete.add(outcome.key)
                if last or outcome.status == "failed":
                    self.tally.add(outcome)
                self.tally.check(bool(complete), before=before)
        return [key for key in keys if key in complete]

    def report(self) -> FolderReport:
        """What came of it."""
        tally, failed = self.tally, tuple(self.tally.failed)
        return FolderReport(
            self.out, tally.done, tally.skipped, failed, tally.notes, tally.seconds, self.record.failed_path
        )

    def _save(self, status: str) -> None:
        tally = self.tally
        self.record.save(status, counts=tally.counts, failed=tally.failed, seconds=tally.seconds)
