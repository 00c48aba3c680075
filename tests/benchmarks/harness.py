"""Interleaved timing of peers, and the facts about the machine that a result table must state."""

from __future__ import annotations

import argparse
import datetime
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from decimal import Decimal
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch


class Timing(NamedTuple):
    """Seconds of one peer in one interleaved run."""

    cpu: float  # median CPU time of the process
    wall: float  # median wall-clock time
    low: float  # 10th percentile of the wall-clock times
    high: float  # 90th percentile
    rounds: int


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run with a number of torch threads, and put the old number back."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def interleave(
    peers: Mapping[str, Callable[[], object]], *, rounds: int = 7, seconds: float = 60.0
) -> dict[str, Timing]:
    """Time peers in turn, round after round, so that what else the machine does meets all of them alike.

    The first round warms up and does not count. Stops early once ``seconds`` are spent and three rounds done.
    """
    cpu: dict[str, list[float]] = {name: [] for name in peers}
    wall: dict[str, list[float]] = {name: [] for name in peers}
    begin = time.perf_counter()
    for number in range(rounds + 1):
        for name, call in peers.items():
            _wait()
            cpu_start, wall_start = time.process_time(), time.perf_counter()
            call()
            _wait()
            if number:
                cpu[name].append(time.process_time() - cpu_start)
                wall[name].append(time.perf_counter() - wall_start)
        if number >= 3 and time.perf_counter() - begin > seconds:
            break
    return {name: _summary(cpu[name], wall[name]) for name in peers}


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _summary(cpu: list[float], wall: list[float]) -> Timing:
    ordered = sorted(wall)
    tenth = len(ordered) // 10
    return Timing(
        statistics.median(cpu), statistics.median(wall), ordered[tenth], ordered[-1 - tenth], len(ordered)
    )


def seconds(timing: Timing) -> str:
    """A timing as a table cell: median and half the spread of the wall-clock time."""
    spread = (timing.high - timing.low) / timing.wall / 2
    return f"{figures(1e3 * timing.wall)} ms (± {100 * spread:.0f} %)"


def figures(value: float, digits: int = 3) -> str:
    """A few significant figures, without an exponent: 0.0000123, 1.23, 1,230."""
    short = f"{value:.{digits}g}"
    return f"{float(short):,.0f}" if abs(float(short)) >= 1000 else f"{Decimal(short):f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([lines[0], "|" + "---|" * len(head), *lines[1:]])


def publish(name: str, tables: Iterable[str], measured: str, page: Path | None) -> None:
    """Print tables as they come, and put them into a page of the docs, in place of those of that name.

    The page says where: between the lines ``<!-- table: name -->`` and ``<!-- end -->``.
    """
    parts = []
    for part in tables:
        print(f"\n{part}", flush=True)
        parts.append(part)
    if page is None:
        return
    before, mark, rest = page.read_text(encoding="utf-8").partition(f"<!-- table: {name} -->\n")
    _, end, after = rest.partition("<!-- end -->\n")
    if not end:
        raise ValueError(f"{page} has no lines <!-- table: {name} --> and <!-- end --> to write between")
    text = "\n\n".join([*parts, f"*{measured}*"])
    page.write_text(f"{before}{mark}\n{text}\n\n{end}{after}", encoding="utf-8")


def report(
    tables: Mapping[str, Callable[[int], Iterable[str]]],
    description: str | None,
    *,
    rounds: int,
    packages: Sequence[str],
    note: str = "",
) -> None:
    """The command line of a report: measure the tables asked for, each a function of the number of rounds."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--rounds", type=int, default=rounds)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page as well")
    parser.add_argument("tables", nargs="*", default=list(tables), help=f"of {', '.join(tables)}")
    options = parser.parse_args()
    measured = f"{environment(*packages)}; {note}{options.rounds} rounds."
    print(measured)
    for name in options.tables:
        print(f"\n### {name}: {tables[name].__doc__}")
        publish(name, tables[name](options.rounds), measured, options.write)


def peak_of(call: Callable[[], object]) -> int:
    """Megabytes at the peak of a call above what was there before (Linux; in a process of its own)."""
    Path("/proc/self/clear_refs").write_text("5")  # start the peak anew
    before = _status("VmRSS")
    call()
    return round((_status("VmHWM") - before) / 1000)


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name)))


def environment(*packages: str) -> str:
    """Date, machine, versions and commit, for the head of a result table."""
    root = Path(__file__).parents[2]
    try:
        asked = ["git", "rev-parse", "--short", "HEAD"]
        commit = subprocess.run(asked, cwd=root, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:  # no git here
        commit = ""
    names = ("torch", "numpy", *packages)
    versions = ", ".join(f"{name} {version(name)}" for name in names)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    return (
        f"{datetime.date.today()}, commit {commit or 'unknown'}, {_cpu()}, {device}, "
        f"Python {platform.python_version()}, {versions}"
    )


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{models[0]}, {len(models)} cores" if models else platform.machine()
