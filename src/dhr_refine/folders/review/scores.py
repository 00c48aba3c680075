"""What is to be said of a folder of masks: figures, their standard errors, and what was left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ...datasets.classes import ClassSet
from ...files.regular import show_name
from ...metrics import ImageCounts, Scores, image_scores
from ...metrics.data_set import FIGURES
from ...metrics.per_image import Absent
from ...tables import Table, percent
from ..runs.outcomes import Outcome

_SHOWN = 10  # failures that the notes list


class Change(NamedTuple):
    """A figure's difference between the masks and those that they were refined from."""

    difference: Any
    """As a fraction, not in percent; an array (C,) of classes."""
    standard_error: Any
    """By a paired bootstrap over images; NaN where it is not defined."""


@dataclass(frozen=True, repr=False)
class FolderScores:
    """Scores of a folder of masks; shows itself as tables, see :func:`evaluate_folder`."""

    folders: dict[str, Path]
    """The folders, by ``"masks"``, ``"targets"`` and ``"base"``."""
    classes: ClassSet
    """The labels."""
    ignore_index: int
    """The label that is none of them."""
    absent: Absent
    """What a class is worth that is predicted, but not in the ground truth."""
    ids: tuple[str, ...]
    """The images that were scored."""
    counts: ImageCounts
    """Pixels of each class of each of them, to go on with by :mod:`dhr_refine.metrics`."""
    base_counts: ImageCounts | None
    """The same of the masks that were refined."""
    scores: Scores
    """Figures of the masks, the recovery rate among them where there is a base."""
    base_scores: Scores | None
    """Figures of the masks that were refined."""
    draws: int
    """Resamples behind the standard errors."""
    standard_errors: dict[str, Any]
    """Of each figure of ``scores``; of ``"iou"`` an array (C,)."""
    base_standard_errors: dict[str, Any] | None
    """Of each figure of ``base_scores``."""
    changes: dict[str, Change] | None
    """What refining changed of each figure but the recovery rate, and of each class by ``"iou"``."""
    failures: tuple[Outcome, ...]
    """Images that were left out because a file is missing or damaged."""
    unmatched: dict[str, int]
    """Files of masks without ground truth, and of ground truth without masks, that were passed over."""

    @property
    def tables(self) -> tuple[Table, ...]:
        """The figures of the data set, and those of each class, in percent; none of no image."""
        return (_figure_table(self), _class_table(self)) if self.ids else ()

    @property
    def notes(self) -> list[str]:
        """Lines that belong below the tables; the last one states the rules."""
        return _notes(self)

    def as_dict(self) -> dict[str, Any]:
        """Everything as dictionaries, lists and numbers, with NaN where a figure is not defined."""
        return _as_dict(self)

    def __repr__(self) -> str:
        """The tables as text, and what is to be known about them."""
        return "\n\n".join([*(table.text() for table in self.tables), "\n".join(self.notes)])

    def _repr_html_(self) -> str:
        notes = "".join(f"<div>{escape(note)}</div>" for note in self.notes)
        return "".join(table.html() for table in self.tables) + notes


def _figure_table(report: FolderScores) -> Table:
    base, changes = report.base_scores, report.changes
    rows = []
    for name, title in FIGURES.items():
        value = percent(getattr(report.scores, name), report.standard_errors[name])
        if base is None or changes is None or report.base_standard_errors is None:
            if name != "recovery":
                rows.append((title, value))
            continue
        before = change = ""
        if name != "recovery":  # the share of what vanished in the base that did not in the masks
            before = percent(getattr(base, name), report.base_standard_errors[name])
            change = percent(*changes[name], sign="+")
        rows.append((title, before, value, change))
    return Table(("in %", "masks") if base is None else ("in %", "base", "masks", "change"), rows)


def _class_table(report: FolderScores) -> Table:
    base, changes = report.base_scores, report.changes
    shown = report.counts.true.any(axis=0) | report.counts.predicted.any(axis=0)
    if report.base_counts is not None:
        shown |= report.base_counts.predicted.any(axis=0)
    images = (report.counts.true > 0).sum(axis=0)
    rows = []
    for label in np.flatnonzero(shown).tolist():
        cells = (report.classes.names[label], str(images[label]))
        value = percent(report.scores.iou[label])
        if base is None or changes is None:
            error = report.standard_errors["iou"][label]
            rows.append((*cells, percent(report.scores.iou[label], error)))
            continue
        difference, errors = changes["iou"]
        change = percent(difference[label], errors[label], sign="+")
        rows.append((*cells, percent(base.iou[label]), value, change))
    heads = ("IoU in %", "images", "masks")
    return Table(heads if base is None else (*heads[:2], "base", "masks", "change"), rows)


def _notes(report: FolderScores) -> list[str]:
    return [*_counted(report), *_failed(report.failures), _rules(report)]


def _counted(report: FolderScores) -> Iterator[str]:
    scores, names = report.scores, report.classes.names
    images = f"{len(report.ids)} image{'' if len(report.ids) == 1 else 's'}"
    line = f"{images}, {scores.pairs} image-tag pairs, {report.classes.name}"
    if np.isfinite(report.standard_errors["miou"]):
        line += f"; ± standard error by a bootstrap over images ({report.draws} resamples)"
    if report.base_scores is not None:
        line += f"; {scores.base_vanishing} pairs vanish in the base"
    yield f"{line}."
    never = np.flatnonzero(~report.counts.true.any(axis=0)).tolist()
    if never and report.ids:
        listed = ", ".join(names[label] for label in never[:_SHOWN])
        more = f" and {len(never) - _SHOWN} more" if len(never) > _SHOWN else ""
        yield f"Not in the ground truth: {listed}{more}."
    for stage, other in (("masks", "ground truth"), ("targets", "mask")):
        if report.unmatched[stage]:
            folder = show_name(report.folders[stage])
            yield f"Passed over: {report.unmatched[stage]} files of {folder} that have no {other}."


def _failed(failures: tuple[Outcome, ...]) -> Iterator[str]:
    for failure in failures[:_SHOWN]:
        yield f"Left out: {show_name(failure.key)} ({failure.stage}): {failure.message}"
    if len(failures) > _SHOWN:
        yield f"Left out: {len(failures) - _SHOWN} more."


def _rules(report: FolderScores) -> str:
    absent = {
        "skip": "a class without a pixel in the ground truth is left out of the means",
        "zero": "a class that is predicted but not in the ground truth has IoU 0, one in neither is left out "
        "of the means",
    }[report.absent]
    place = {"first": "label 0 is", "last": "the last label is", "none": "no label is"}[
        report.classes.background
    ]
    return (
        f"Rules: {report.ignore_index} in the ground truth is left out, in a mask it is a miss; {absent}; "
        f"pixels are summed over the images before dividing; {place} the background, which cannot vanish."
    )


def _as_dict(report: FolderScores) -> dict[str, Any]:
    def figures(scores: Scores, errors: dict[str, Any], counts: ImageCounts) -> dict[str, Any]:
        options: Any = {"background": report.classes.background, "absent": report.absent}
        return {
            **{name: getattr(scores, name) for name in FIGURES},
            "iou": scores.iou.tolist(),
            "standard_errors": {**errors, "iou": errors["iou"].tolist()},
            "per_image": dict(zip(report.ids, image_scores(counts, **options).miou.tolist())),
        }

    result: dict[str, Any] = {
        "folders": {stage: str(path) for stage, path in report.folders.items()},
        "classes": {"name": report.classes.name, "names": list(report.classes.names)},
        "background": report.classes.background,
        "ignore_index": report.ignore_index,
        "absent": report.absent,
        "draws": report.draws,
        "images": report.scores.images,
        "pairs": report.scores.pairs,
        "images_with_class": (report.counts.true > 0).sum(axis=0).tolist(),
        "masks": figures(report.scores, report.standard_errors, report.counts),
    }
    if report.base_scores and report.base_standard_errors and report.base_counts and report.changes:
        result["base"] = figures(report.base_scores, report.base_standard_errors, report.base_counts)
        result["base_vanishing"] = report.scores.base_vanishing
        result["changes"] = {
            name: {
                "difference": np.asarray(change.difference).tolist(),
                "standard_error": np.asarray(change.standard_error).tolist(),
            }
            for name, change in report.changes.items()
        }
    return result | {
        "unmatched": report.unmatched,
        "failures": [
            {"id": failure.key, "stage": failure.stage, "message": failure.message}
            for failure in report.failures
        ],
        "rules": report.notes[-1],
    }
