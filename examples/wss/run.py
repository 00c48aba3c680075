"""This process among its peers: process group, progress bars, CSV and TensorBoard logs, checkpoints."""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dhr_refine.errors import UserError, reading, reason, require, writing
from dhr_refine.files.writing import write_atomic
from wss.lock import locked

WHERE_ONLY = {"out", "resume", "compare", "cache", "vit", "workers", "device", "tensorboard", "save_masks"}
"""Options that a resumed run may change; all others decide the result."""
STARTING = "start the script alone or by torchrun --nproc-per-node N"


class Run:
    """A context that joins torchrun's process group, if there is one; the first process keeps the logs."""

    def __init__(self, options: argparse.Namespace):
        """Read the place of this process from torchrun's environment variables."""
        self.many = "RANK" in os.environ
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        try:
            places = [int(os.environ[name]) for name in names] if self.many else [0, 1, 0]
        except (KeyError, ValueError) as error:
            raise UserError(
                f"RANK is set, but not all of {', '.join(names)} are numbers: {STARTING}"
            ) from error
        self.rank, self.world, local = places
        if not 0 <= self.rank < self.world:
            raise UserError(f"RANK {self.rank} is not below WORLD_SIZE {self.world}: {STARTING}")
        self.device = torch.device(options.device)
        if self.device.type == "cuda" and self.many:
            if local >= torch.cuda.device_count():
                raise UserError(
                    f"{torch.cuda.device_count()} GPUs are too few: lower --nproc-per-node to that"
                )
            self.device = torch.device("cuda", local)
        self.options, self.out, self.board = options, Path(options.out), None

    def __enter__(self) -> Run:
        """Join the others, lock the folder, open the logs."""
        with ExitStack() as stack:
            if self.many:
                self._join()
                stack.callback(dist.destroy_process_group)
            self._first(lambda: self._claim(stack))
            if self.options.tensorboard and self.rank == 0:
                writer = require("torch.utils.tensorboard").SummaryWriter
                self.board = writer(os.fspath(self.out / "tensorboard"))
                stack.callback(self.board.close)
            bars = require("rich.progress")
            columns = bars.Progress.get_default_columns()
            columns = (*columns, bars.MofNCompleteColumn(), bars.TimeElapsedColumn())
            console = require("rich.console").Console(stderr=True)
            shown = console.is_terminal and self.rank == 0  # in a file they are nothing but noise
            self.bars = bars.Progress(*columns, console=console, disable=not shown)
            self.bars.start()
            stack.callback(self.bars.stop)
            self._closing = stack.pop_all()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        """Close the logs, unlock the folder, leave the group."""
        with self._closing:
            if self.many and error is None:
                dist.barrier()  # one that leaves while others still talk to it can abort

    def _join(self) -> None:
        cuda = self.device.type == "cuda"
        try:
            if cuda:
                torch.cuda.set_device(self.device)
            dist.init_process_group("nccl" if cuda else "gloo")
        except (ValueError, RuntimeError) as error:
            raise UserError(f"the processes do not find each other ({reason(error)}): {STARTING}") from error

    def _claim(self, stack: ExitStack) -> None:
        """Make and lock the folder, if it is free."""
        with writing(self.out, "--out"):
            self.out.mkdir(parents=True, exist_ok=True)
        stack.enter_context(locked(self.out))
        path = self.out / "checkpoint.pt"
        if path.exists() and not self.options.resume:
            raise UserError(f"{path} exists: pass --resume to go on from it, or another --out")

    def _first(self, action: Callable[[], None]) -> None:
        """Let the first process do something; its UserError is everybody's."""
        problem: list[str | None] = [None]
        if self.rank == 0:
            try:
                action()
            except UserError as error:
                problem = [str(error)]
        if self.many:
            dist.broadcast_object_list(problem)
        if problem[0] is not None:
            raise UserError(problem[0])

    def track(self, items: Sequence[Any], what: str, done: int = 0) -> Iterator[Any]:
        """Go through items behind a progress bar, of which some are done already."""
        task = self.bars.add_task(what, total=done + len(items), completed=done)
        for item in items:
            yield item
            self.bars.advance(task)

    def say(self, text: str) -> None:
        """Print once, not once per process."""
        if self.rank == 0:
            print(text, flush=True)

    def wait(self) -> None:
        """Wait for the other processes."""
        if self.many:
            dist.barrier()

    def gather(self, items: Mapping[Any, Any]) -> dict[Any, Any]:
        """Join the dictionaries of all processes."""
        parts: list[Any] = [items]
        if self.many:
            parts = [None] * self.world
            dist.all_gather_object(parts, items)
        return {key: value for part in parts for key, value in part.items()}

    def mean(self, *values: torch.Tensor) -> list[float]:
        """Mean of numbers over the processes (waits for the device)."""
        total = torch.stack([value.detach().float() for value in values])
        if self.many:
            dist.all_reduce(total)
        return (total / self.world).tolist()

    def log(self, name: str, row: dict[str, Any]) -> None:
        """Add a row to a CSV file, and to TensorBoard."""
        if self.rank:
            return
        path = self.out / f"{name}.csv"
        fresh = not path.exists()
        with writing(path, "--out"), path.open("a", newline="") as file:
            writer = csv.DictWriter(file, row)
            if fresh:
                writer.writeheader()
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})
        if self.board is not None:
            tag = "/".join([name, *(v for v in row.values() if isinstance(v, str))])
            for key, value in row.items():
                if isinstance(value, float):
                    self.board.add_scalar(f"{tag}/{key}", value, row["step"])

    def save(self, step: int, **parts: Any) -> None:
        """Write the checkpoint of a step in one piece."""
        if self.rank == 0:
            state = {name: part.state_dict() for name, part in parts.items()}
            state |= {"step": step, "options": self._deciding()}
            path = self.out / "checkpoint.pt"
            with writing(path, "--out"):
                write_atomic(path, to_bytes(state))

    def resume(self, **parts: Any) -> int:
        """Bring the parts to the last checkpoint, with --resume; the step to go on with."""
        path = self.out / "checkpoint.pt"
        step = self._restore(path, parts) if path.exists() else 0
        self.wait()  # no process may write a checkpoint before all have looked for one

        def forget() -> None:
            for name in ("log", "evaluation"):
                self._forget(self.out / f"{name}.csv", step)

        self._first(forget)
        return step

    def _restore(self, path: Path, parts: Mapping[str, Any]) -> int:
        """Read a checkpoint into the parts; its step."""
        fix = "delete it to start anew, or choose another --out"
        if not path.is_file():
            raise UserError(f"{path} is no file: {fix}")
        with reading(path, fix):
            state = torch.load(path, map_location=self.device, weights_only=True)
            before, step = dict(state["options"]), state["step"]
            if type(step) is not int or step < 0:
                raise ValueError(f"it says step {step!r}")
        now = self._deciding()
        changed = [f"{name} (was {before.get(name)})" for name in now if now[name] != before.get(name)]
        if changed:
            raise UserError(f"--resume needs the options of the stopped run; changed: {', '.join(changed)}")
        for name, part in parts.items():
            try:
                part.load_state_dict(state[name])
                check_state(part)
            except Exception as error:  # torch has many words for it
                raise UserError(
                    f"{path} does not fit the {name} of this run ({reason(error)}): {fix}"
                ) from error
        return step

    def _deciding(self) -> dict[str, str]:
        return {name: str(value) for name, value in vars(self.options).items() if name not in WHERE_ONLY}

    def _forget(self, path: Path, step: int) -> None:
        """Drop rows from a step on, which a stopped run has logged beyond its checkpoint."""
        rows: list[list[str]] = []
        if path.exists() and not path.is_file():  # a pipe would wait for a writer
            raise UserError(f"{path} is no file: move it away, or choose another --out")
        if path.exists():
            with reading(path, "delete it (the run then logs what is to come), or choose another --out"):
                whole, _, _ = path.read_bytes().decode().rpartition("\n")  # a last line may be torn
                head, *rows = csv.reader(io.StringIO(whole + "\n", newline="")) if whole else [[]]
                if whole and (head[0] != "step" or any(len(row) != len(head) for row in rows)):
                    raise ValueError("it is no log of this script, or lines are damaged")
                rows = [row for row in rows if int(row[0]) < step]
            text = io.StringIO(newline="")
            csv.writer(text).writerows([head, *rows] if whole else [])
            with writing(path, "--out"):
                write_atomic(path, text.getvalue().encode())
                if not rows:
                    path.unlink()  # the next row writes the heads anew
        if path.stem == "log" and [int(row[0]) for row in rows] != list(range(step)):
            print(
                f"{path} does not hold steps 0 to {step - 1} once each: it goes on from step {step}",
                file=sys.stderr,
            )


def check_state(part: Any) -> None:
    """Raise a ValueError if an optimiser's averages are not of its parameters' shapes, which torch takes."""
    if isinstance(part, torch.optim.Optimizer):
        for parameter, state in part.state.items():
            for name, value in state.items():
                if torch.is_tensor(value) and value.ndim and value.shape != parameter.shape:
                    shapes = f"{tuple(value.shape)} for a parameter {tuple(parameter.shape)}"
                    raise ValueError(f"{name} is {shapes}")


def to_bytes(value: Any) -> bytes:
    """What torch.save would write."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
