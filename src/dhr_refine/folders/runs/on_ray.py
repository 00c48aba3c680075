"""A job on all images of a run by Ray: ids go to its actors and outcomes come back.

Actors read and write files themselves: no image passes through Ray's object store. Ray calls a list of images
again when the process that had it dies, without end; marks on disk tell what a dead process was at.
"""

from __future__ import annotations

import hashlib
import logging
import os
import secrets
import socket
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Any, TypeVar

import torch

from ...errors import UsageError, UserError, require
from .options import CHUNK
from .outcomes import Outcome, one_line
from .worker import Worker

Result = TypeVar("Result")

# What a user can mend is said in one line; any other error is a fault, which Ray reports with its traceback.
_MENDED_BY_USERS = (UserError, ImportError, OSError, MemoryError)
# For a cluster of the run's own: Ray tells nobody of it, and nothing but what is fatal of itself.
_SETTINGS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
# Seconds for a cluster to answer.
_PATIENCE = 10


def run_on_ray(
    open_job: Callable[[], Worker],
    keys: Sequence[str],
    *,
    address: str,
    jobs: int | None,
    device: str,
    marks: Path,
    give_up: Callable[[str, str], Outcome],
) -> Iterator[Outcome]:
    """What became of each image, in no order.

    Parameters
    ----------
    open_job : makes the job, once in each actor; it is sent there
    keys : ids of the images
    address : of a Ray cluster, as ``ray.init`` takes it; "" starts one here for the time of the run
    jobs : number of actors; None for one on each processor, or each GPU if ``device`` is CUDA
    device : where the job works; CUDA gives each actor a GPU of its own
    marks : folder that all actors see, for a mark of each list of images under way
    give_up : the outcome of an image whose process died when it was alone in it, from its id and the reason

    Raises
    ------
    UserError
        Ray is not installed, the cluster cannot be reached or has no GPU, or no image can be written.
    """
    if device != "cpu" and device != "cuda":
        raise UsageError(f"device (--device) with Ray is cpu or cuda, got {device!r}: Ray chooses the GPU")
    with connected(address, jobs) as ray:
        count = min(jobs or _places(ray, device), -(-len(keys) // CHUNK))
        name = secrets.token_hex(4)
        rows = ray.data.from_items(list(keys), override_num_blocks=-(-len(keys) // CHUNK)).map_batches(
            _Actor,
            fn_constructor_args=(open_job, marks, name, give_up),
            batch_size=None,  # a block, which is what is called again
            compute=ray.data.ActorPoolStrategy(size=count),
            num_cpus=1,
            num_gpus=int(device == "cuda"),
        )
        for row in rows.iter_rows():
            if row.pop("hopeless"):
                raise UserError(row["message"])
            yield Outcome(**{**row, "notes": tuple(row["notes"].splitlines())})


class _Actor:
    """A process that works on lists of images."""

    def __init__(
        self,
        open_job: Callable[[], Worker],
        marks: Path,
        name: str,
        give_up: Callable[[str, str], Outcome],
    ):
        """Make the job; an error is told when the first images come, as here it would only be tried again."""
        torch.set_num_threads(1)
        self.marks, self.name, self.give_up = marks, name, give_up
        self.job: Worker | Exception
        try:
            self.job = open_job()
        except Exception as error:
            self.job = error

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """A row for each image."""
        keys = [str(key) for key in batch["item"]]
        hopeless = False
        try:
            outcomes = self._work_on(keys)
        except _MENDED_BY_USERS as error:
            outcomes, hopeless = [Outcome(keys[0], "failed", "process", one_line(error))], True
        rows = [asdict(one) | {"notes": "\n".join(one.notes), "hopeless": hopeless} for one in outcomes]
        return {name: [row[name] for row in rows] for name in rows[0]}

    def _work_on(self, keys: Sequence[str]) -> list[Outcome]:
        if isinstance(self.job, Exception):
            raise self.job
        mark = self._mark("list", keys[0])
        if not mark.exists():
            there = [key for key in keys if self.job.steps.finished(key)]
            mark.write_text("\n".join(there), encoding="utf-8")
            outcomes = self.job(keys)
        else:  # the process that had them died: one by one, to find out which image it was
            there = mark.read_text(encoding="utf-8").splitlines()
            outcomes = [self._work_alone(key, there) for key in keys]
        for path in (mark, *(self._mark("image", key) for key in keys)):
            path.unlink(missing_ok=True)
        return outcomes

    def _work_alone(self, key: str, there: Sequence[str]) -> Outcome:
        assert isinstance(self.job, Worker)
        mark = self._mark("image", key)
        if self.job.steps.finished(key):
            return Outcome(key, "skipped" if key in there else "done")
        if mark.exists():
            return self.give_up(key, "its process died twice, perhaps for want of memory")
        mark.touch()
        return self.job([key])[0]

    def _mark(self, kind: str, key: str) -> Path:
        """The mark of an image, or of the list that begins with it."""
        code = hashlib.sha256(f"{kind} {key}".encode()).hexdigest()[:20]
        return self.marks / f".{self.name}-{code}.part"


def lists_on_ray(
    open_job: Callable[[], Callable[..., Result]],
    chunks: Sequence[Sequence[str]],
    *rest: Any,
    address: str,
    jobs: int | None,
    give_up: Callable[[str, str], Result],
) -> Iterator[Result]:
    """The result of a job for each list of images, in their order, each by a task of Ray.

    Parameters
    ----------
    open_job : makes the job, in every task; so it should take no time
    chunks : lists of ids
    rest : what the job is called with beside the ids
    address, jobs : as in :func:`run_on_ray`
    give_up : the result of an image whose process died when it was alone in it, from its id and the reason
    """
    with connected(address, jobs) as ray:
        died = ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError
        task = ray.remote(num_cpus=1, max_retries=0)(_open_and_call)
        shared = [ray.put(part) for part in rest]

        def result(keys: Sequence[str], reference: Any) -> Iterator[Result]:
            try:
                yield ray.get(reference)
            except died:
                if len(keys) == 1:
                    yield give_up(keys[0], "its process died twice, perhaps for want of memory")
                    return
                for key in keys:
                    yield from result([key], task.remote(open_job, [key], *shared))

        later = iter(chunks)
        coming: deque[tuple[Sequence[str], Any]] = deque()
        for count in chain([2 * (jobs or _places(ray, "cpu"))], repeat(1)):
            coming.extend((keys, task.remote(open_job, keys, *shared)) for keys in islice(later, count))
            if not coming:
                return
            yield from result(*coming.popleft())


def _open_and_call(open_job: Callable[[], Callable[..., Any]], keys: Sequence[str], *rest: Any) -> Any:
    torch.set_num_threads(1)
    return open_job()(keys, *rest)


@contextmanager
def connected(address: str, jobs: int | None) -> Iterator[Any]:
    """Ray, connected as it is already, or else for the time of the context; it says nothing but errors.

    Parameters
    ----------
    address, jobs : as in :func:`run_on_ray`, which finds a connection that was made here

    Raises
    ------
    UserError
        Ray is not installed, or the cluster cannot be reached.
    """
    ray = require("ray", by="sharing out work by Ray", extra="ray")
    require("ray.data", by="sharing out work by Ray", extra="ray")
    own = not ray.is_initialized()
    context, log = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    before = context.enable_progress_bars, log.level
    context.enable_progress_bars = False  # there is one of our own
    log.setLevel(logging.ERROR)
    try:
        if own:
            _start(ray, address, jobs)
        yield ray
    finally:
        context.enable_progress_bars = before[0]
        log.setLevel(before[1])
        if own:
            ray.shutdown()


def _start(ray: Any, address: str, jobs: int | None) -> None:
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    try:
        with _environment(_SETTINGS):
            if address:
                _knock(address)
                ray.init(address, **quiet)
            else:
                ray.init("local", num_cpus=jobs, include_dashboard=False, **quiet)
    except Exception as error:  # a cluster that does not answer, or is of another version
        where = f"the Ray cluster {address}" if address else "a Ray cluster of this machine"
        raise UserError(
            f"{where} cannot be had ({one_line(error)}): see to the address (--ray), or do without"
        ) from error


def _knock(address: str) -> None:
    """Raise an OSError if nobody answers, which Ray would try for many minutes."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    if host and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Variables that are set for a while, where the user has not set them."""
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _places(ray: Any, device: str) -> int:
    """How many actors the cluster has room for."""
    kind = "GPU" if device == "cuda" else "CPU"
    found = int(ray.cluster_resources().get(kind, 0))
    if not found:
        raise UserError(
            f"the Ray cluster has no {kind} by now: pass the number of processes (--jobs) if it will have "
            "one, or --device cpu"
        )
    return found
