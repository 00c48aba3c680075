"""One process's share of a job: images are read ahead and written behind while the work goes on."""

from __future__ import annotations

import errno
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain, islice, repeat
from typing import Any, Protocol

from ...errors import UserError
from .outcomes import Outcome, one_line

# What no other image would be spared.
_HOPELESS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}


class Steps(Protocol):
    """What is done with an image. Any error fails that image alone."""

    @property
    def together(self) -> bool:
        """Whether ``work`` gains from several images at once, as on an accelerator."""
        ...

    def finished(self, key: str) -> bool:
        """Whether all that would be written is there."""
        ...

    def read(self, key: str) -> Any:
        """Everything that the work needs; runs in a thread beside it."""
        ...

    def work(self, items: Sequence[Any]) -> Sequence[Any]:
        """The results of some images, in their order."""
        ...

    def write(self, key: str, result: Any) -> None:
        """Write the results of an image, the one that ``finished`` goes by last; runs in a thread too."""
        ...


class Task(Protocol):
    """A job, small enough to be sent to other processes and machines."""

    def open(self) -> Steps:
        """Load what the job needs; once in each process."""
        ...


class Worker:
    """Works on some images at a time: what is called in each process of a pool, and in actors of Ray.

    Parameters
    ----------
    task : the job
    """

    def __init__(self, task: Task):
        """Load what the job needs."""
        self.steps = task.open()
        self._reader, self._writer = ThreadPoolExecutor(1, "read"), ThreadPoolExecutor(1, "write")

    def __call__(self, keys: Sequence[str]) -> list[Outcome]:
        """What became of each image, in their order.

        Raises
        ------
        UserError
            No image can be written.
        """
        wanted = [key for key in keys if not self.steps.finished(key)]
        skipped = [Outcome(key, "skipped") for key in keys if key not in set(wanted)]
        step = len(wanted) or 1 if self.steps.together else 1
        reading = self._read_ahead(wanted, step)
        writing: list[tuple[Outcome, Future[None] | None]] = []
        for start in range(0, len(wanted), step):
            writing += self._work_on([next(reading) for _ in wanted[start : start + step]])
        outcomes = {outcome.key: outcome for outcome in skipped}
        outcomes |= {outcome.key: _written(outcome, future) for outcome, future in writing}
        return [outcomes[key] for key in keys]

    def close(self) -> None:
        """End the threads."""
        self._reader.shutdown()
        self._writer.shutdown()

    def _read_ahead(self, keys: Sequence[str], step: int) -> Iterator[tuple[str, Future[Any]]]:
        """Each image with what is read of it, while the next ones are on their way."""
        later = iter(keys)
        coming: deque[tuple[str, Future[Any]]] = deque()
        for count in chain([step + 1], repeat(1)):
            coming.extend((key, self._reader.submit(self.steps.read, key)) for key in islice(later, count))
            if not coming:
                return
            yield coming.popleft()

    def _work_on(self, read: list[tuple[str, Future[Any]]]) -> list[tuple[Outcome, Future[None] | None]]:
        """Outcomes, with what is on its way to the disk."""
        items, failed = {}, []
        for key, future in read:
            try:
                items[key] = future.result()
            except Exception as error:
                failed.append((_failure(key, "read", error), None))
        return failed + self._results(items)

    def _results(self, items: dict[str, Any]) -> list[tuple[Outcome, Future[None] | None]]:
        if not items:
            return []
        start = time.perf_counter()
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                results = self.steps.work(list(items.values()))
        except Exception as error:
            if len(items) > 1:  # one of them, or too many for the memory
                return [part for key, item in items.items() for part in self._results({key: item})]
            return [(_failure(next(iter(items)), "work", error), None)]
        seconds = (time.perf_counter() - start) / len(items)
        notes = tuple(dict.fromkeys(" ".join(str(warning.message).split()) for warning in caught))
        return [
            (
                Outcome(key, "done", seconds=seconds, notes=notes),
                self._writer.submit(self.steps.write, key, result),
            )
            for key, result in zip(items, results, strict=True)
        ]


def _written(outcome: Outcome, future: Future[None] | None) -> Outcome:
    if future is None:
        return outcome
    try:
        future.result()
    except OSError as error:
        if error.errno in _HOPELESS:
            raise UserError(f"nothing can be written any more ({one_line(error)}): make room") from error
        return _failure(outcome.key, "write", error)
    except Exception as error:
        return _failure(outcome.key, "write", error)
    return outcome


def _failure(key: str, stage: str, error: Exception) -> Outcome:
    return Outcome(key, "failed", stage, one_line(error))
