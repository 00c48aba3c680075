"""What the demo says about its photos: shares of the pixels, classes lost and recovered, seconds."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ..datasets.photos import Photo
from ..errors import require
from ..pretrained.vit import VIT_NOTE
from ..viz.idle import SEED, USS, WSS

# Columns of the table -> the step that made them, if it is one that can do nothing.
STAGES = {"base": None, "M_init": SEED, "USS": USS, "WSS": WSS, "final": None}

LOST_SHARE = 0.005
"""A class counts as lost if fewer than this share of the photo's pixels carry it."""


@dataclass(frozen=True)
class Report:
    """What happened to one photo."""

    photo: Photo
    shares: dict[str, list[float]]  # of each of STAGES: share of the pixels per label 0..C
    files: list[Path]
    idle: Mapping[str, str]  # steps that did nothing -> why

    def lost(self, stage: str) -> set[int]:
        """Foreground labels below ``LOST_SHARE`` in a stage's mask."""
        return lost(self.shares[stage])

    @property
    def recovered(self) -> set[int]:
        """Labels that the base mask had lost and the final mask has."""
        return self.lost("base") - self.lost("final")


def lost(shares: Sequence[float]) -> set[int]:
    """Foreground labels whose share of the pixels is below ``LOST_SHARE``."""
    return {label for label, share in enumerate(shares) if label and share < LOST_SHARE}


def pixel_shares(mask: Tensor, classes: int) -> list[float]:
    """Share of the pixels that carry each of the labels 0 to ``classes`` - 1 (255 counts in the total)."""
    return [float((mask == label).sum()) / mask.numel() for label in range(classes)]


def winners(scores: Tensor, classes: Tensor) -> Tensor:
    """The label (h, w) with the highest of the scores (K, h, w)."""
    return classes[scores.argmax(dim=0)]


class Stages:
    """Seconds per stage, summed over the photos."""

    def __init__(self) -> None:
        """Start with none."""
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Add the seconds of a with block to a stage."""
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def share_table(reports: Sequence[Report]) -> Any:
    """A ``rich`` table of every class of every photo: its share of the pixels, and what happened to it."""
    escape = require("rich.markup").escape
    table = require("rich.table").Table(
        title="Share of the pixels per class, after each step (=: did nothing)"
    )
    for name in ("photo", "class"):
        table.add_column(name)
    for name in STAGES:
        table.add_column(name, justify="right")
    table.add_column("what happened")
    for report in reports:
        for label, name in enumerate(report.photo.names):
            shares = [
                "=" if step in report.idle else f"{report.shares[stage][label]:.1%}"
                for stage, step in STAGES.items()
            ]
            table.add_row(
                escape(report.photo.key) if label == 0 else "",
                escape(name),
                *shares,
                _verdict(report, label),
                end_section=label == len(report.photo.names) - 1,
            )
    return table


def _verdict(report: Report, label: int) -> str:
    before, after = label in report.lost("base"), label in report.lost("final")
    if before:
        return "[red]still lost[/]" if after else "[green]came back[/]"
    if after:
        return "[red]lost since[/]"
    base, final = (report.shares[stage][label] for stage in ("base", "final"))
    return "[yellow]halved[/]" if label and final < base / 2 else ""


def summary(reports: Sequence[Report]) -> str:
    """The classes that were lost and that came back, and how far that can be trusted."""

    def names(stage_labels: Sequence[tuple[Report, set[int]]]) -> str:
        found = [
            f"{report.photo.names[label]} ({report.photo.key})"
            for report, labels in stage_labels
            for label in sorted(labels)
        ]
        return ", ".join(found) or "none"

    before = names([(report, report.lost("base")) for report in reports])
    back = names([(report, report.recovered) for report in reports])
    since = names([(report, report.lost("final") - report.lost("base")) for report in reports])
    idle = "".join(
        f"{report.photo.key}, {step}: {reason}.\n"
        for report in reports
        for step, reason in report.idle.items()
    )
    return (
        f"Vanished from the base mask: {before}\nCame back: {back}\nLost since: {since}\n"
        f"Steps that did nothing:{' none' * (not idle)}\n{idle}"
        f"Shares are of all pixels; a class with fewer than {LOST_SHARE:.1%} counts as lost. There is no "
        f"ground truth here: whether a class sits where it should, the panels show.\n{VIT_NOTE}.\n"
    )


def time_table(stages: Stages) -> Any:
    """A ``rich`` table of the seconds per stage."""
    table = require("rich.table").Table(title="Seconds", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, seconds in stages.seconds.items():
        table.add_row(name, f"{seconds:.1f}")
    table.add_row("all", f"{sum(stages.seconds.values()):.1f}")
    return table
