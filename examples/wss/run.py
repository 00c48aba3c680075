"""This process among its peers: process group, progress bars, CSV and TensorBoard logs, checkpoints."""

from __future__ import annotations

import argparse
import csv
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from dhr_refine.errors import UserError, require
from dhr_refine.files.writing import write_atomic

WHERE_ONLY = {"out", "resume", "compare", "cache", "vit", "workers", "device", "tensorboard", "save_masks"}
"""Options that a resumed run may change; all others decide the result."""


class Run:
    """A context that joins torchrun's process group, if there is one; the first process keeps the logs."""

    def __init__(self, options: argparse.Namespace):
        """Read the place of this process from torchrun's environment variables."""
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.many = "RANK" in os.environ
        self.device = torch.device(options.device)
        if self.device.type == "cuda" and self.many:
            self.device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        self.options, self.out, self.board = options, Path(options.out), None

    def __enter__(self) -> Run:
        """Join the others, open the logs."""
        if self.many:
            dist.init_process_group("nccl" if self.device.type == "cuda" else "gloo")
        self.out.mkdir(parents=True, exist_ok=True)
        if self.options.tensorboard and self.rank == 0:
            writer = require("torch.utils.tensorboard").SummaryWriter
            self.board = writer(os.fspath(self.out / "tensorboard"))
        bars = require("rich.progress")
        columns = (*bars.Progress.get_default_columns(), bars.MofNCompleteColumn(), bars.TimeElapsedColumn())
        console = require("rich.console").Console(stderr=True)
        self.bars = bars.Progress(*columns, console=console, disable=self.rank > 0)
        self.bars.start()
        return self

    def __exit__(self, error: object, *_: object) -> None:
        """Close the logs, leave the group."""
        self.bars.stop()
        if self.board is not None:
            self.board.close()
        if self.many:
            if error is None:
                dist.barrier()  # one that leaves while others still talk to it can abort
            dist.destroy_process_group()

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
        with path.open("a", newline="") as file:
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
            write_atomic(self.out / "checkpoint.pt", to_bytes(state))

    def resume(self, **parts: Any) -> int:
        """Bring the parts to the last checkpoint, with --resume; the step to go on with."""
        path, step = self.out / "checkpoint.pt", 0
        if path.is_file():
            if not self.options.resume:
                raise UserError(f"{path} exists: pass --resume to go on from it, or another --out")
            state = torch.load(path, map_location=self.device, weights_only=True)
            before, now = state["options"], self._deciding()
            changed = [f"{name} (was {before.get(name)})" for name in now if now[name] != before.get(name)]
            if changed:
                raise UserError(
                    f"--resume needs the options of the stopped run; changed: {', '.join(changed)}"
                )
            for name, part in parts.items():
                part.load_state_dict(state[name])
            step = state["step"]
        if self.rank == 0:
            for name in ("log", "evaluation"):
                self._forget(self.out / f"{name}.csv", step)
        self.wait()  # no process may write a checkpoint before all have looked for one
        return step

    def _deciding(self) -> dict[str, str]:
        return {name: str(value) for name, value in vars(self.options).items() if name not in WHERE_ONLY}

    def _forget(self, path: Path, step: int) -> None:
        """Drop rows from a step on, which a stopped run has logged beyond its checkpoint."""
        if path.exists():
            with path.open(newline="") as file:
                head, *rows = csv.reader(file)
            text = io.StringIO(newline="")
            csv.writer(text).writerows([head, *(row for row in rows if int(row[0]) < step)])
            write_atomic(path, text.getvalue().encode())


def to_bytes(value: Any) -> bytes:
    """What torch.save would write."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()
