"""Runs on several kinds of masks side by side: how much of the way from base masks to truth is gone."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from dhr_refine.datasets.texts import read_bytes
from dhr_refine.errors import UserError, reading
from dhr_refine.metrics import ImageCounts, bootstrap, scores_of, standard_error
from second_stage.evaluation import TRAINED_ON
from second_stage.prediction import KINDS

Arm = tuple[str, list[Path]]
FIX = "write it with `train_segmenter.py evaluate RUN --json FILE`"


def arm(text: str) -> Arm:
    """Type of an argument: NAME=FILE[,FILE...], evaluations of runs that differ in their seeds."""
    name, equals, files = text.partition("=")
    if not (name and equals and all(files.split(","))):
        raise argparse.ArgumentTypeError(f"must be NAME=FILE[,FILE...], got {text!r}")
    return name, [Path(file) for file in files.split(",")]


def read(path: Path) -> dict[str, ImageCounts]:
    """The counts of an evaluation, by what was evaluated."""
    with reading(path, FIX):
        scores = json.loads(read_bytes(path, FIX))["scores"]
        return {
            kind: ImageCounts(*(np.array(row["counts"][name], np.int64) for name in ImageCounts._fields))
            for kind, row in scores.items()
        }


def table(arms: Sequence[Arm], labels: tuple[int, ...] | None, draws: int) -> str:
    """A Markdown table: the first arm is the base masks, the last the ground truth.

    mIoU is in per cent, the mean over the seeds; the gap closed is (arm - first) / (last - first). Errors are
    of a bootstrap over the images, paired over arms and seeds.
    """
    if len(arms) < 3:
        raise UserError(f"{len(arms)} arms leave no gap to close: pass base masks, refined ones, the truth")
    read_arms = {name: [read(file) for file in files] for name, files in arms}
    if len(read_arms) < len(arms):
        raise UserError("two arms have one name: give each its own")
    every = [one for several in read_arms.values() for one in several]
    kinds = [kind for kind in (TRAINED_ON, *KINDS) if all(kind in one for one in every)]
    columns = {
        kind: _column({n: [one[kind] for one in s] for n, s in read_arms.items()}, labels, draws)
        for kind in kinds
    }
    heads = [head for kind in kinds for head in ([kind] if kind == TRAINED_ON else [kind, "gap closed"])]
    lines = [f"| trained on | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for name in read_arms:
        cells = [cell for kind in kinds for cell in columns[kind][name][: 1 if kind == TRAINED_ON else 2]]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _column(
    arms: dict[str, list[ImageCounts]], labels: tuple[int, ...] | None, draws: int
) -> dict[str, tuple[str, str]]:
    """mIoU with its difference to the first arm, and the gap closed, for each arm."""
    flat = {(name, seed): counts for name, several in arms.items() for seed, counts in enumerate(several)}
    try:
        sampled = bootstrap(flat, labels=labels, draws=draws)
    except (ValueError, TypeError) as error:
        raise UserError(f"the evaluations do not go together: {error}") from error

    def mean(name: str, draw: bool) -> np.ndarray:
        seeds = range(len(arms[name]))
        found = [sampled[name, i] if draw else scores_of(flat[name, i], labels=labels) for i in seeds]
        return 100 * np.mean([one.miou for one in found], axis=0)

    value = {name: (mean(name, False), mean(name, True)) for name in arms}
    first, *_, last = arms
    cells = {first: (f"{value[first][0]:.1f}", "0")}
    for name in list(arms)[1:]:
        gain, gains = (value[name][i] - value[first][i] for i in (0, 1))
        whole, wholes = (value[last][i] - value[first][i] for i in (0, 1))
        text = f"{value[name][0]:.1f} ({gain:+.1f} ± {standard_error(gains):.1f})"
        closed = "100"
        if name != last:
            apart = wholes != 0  # resamples that leave a gap
            error = standard_error(gains[apart] / wholes[apart])
            closed = f"{100 * gain / whole:.0f} ± {100 * error:.0f}" if whole and apart.sum() > 1 else "-"
        cells[name] = (text, closed)
    return cells
