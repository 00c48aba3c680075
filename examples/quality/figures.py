"""Figures out of pixel counts: scores, differences with standard errors, tables and curves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from dhr_refine import viz
from dhr_refine.metrics import ImageCounts, bootstrap, image_scores, scores_of, standard_error
from dhr_refine.metrics.data_set import FIGURES
from dhr_refine.tables import percent
from quality.evaluation import Row

METRICS, TITLES = tuple(FIGURES), tuple(FIGURES.values())


def summarise(
    counts: Mapping[Row, ImageCounts],
    reference: Row,
    *,
    labels: Sequence[int] | None = None,
    draws: int = 1000,
) -> dict[str, Any]:
    """Figures of all rows, differences against the reference and of the first variant against the others."""
    scores = {row: scores_of(part, base=counts[reference], labels=labels) for row, part in counts.items()}
    sampled = bootstrap(counts, base=counts[reference], labels=labels, draws=draws)

    def minus(one: Row, other: Row) -> dict[str, dict[str, float]]:
        return {
            name: {
                "difference": getattr(scores[one], name) - getattr(scores[other], name),
                "standard_error": standard_error(getattr(sampled[one], name) - getattr(sampled[other], name)),
            }
            for name in METRICS
        }

    variants = list(dict.fromkeys(name for name, _ in counts if name))
    finals = [(name, "final") for name in variants]
    return {
        "images": scores[reference].images,
        "pairs": scores[reference].pairs,
        "reference": list(reference),
        "rows": [
            {
                "variant": row[0],
                "stage": row[1],
                **{name: getattr(score, name) for name in METRICS},
                "iou": score.iou.tolist(),
                "minus_reference": None if row == reference else minus(row, reference),
                "per_image": image_scores(counts[row]).miou.tolist(),
            }
            for row, score in scores.items()
        ],
        "comparisons": [
            {"variant": finals[0][0], "minus": other[0], **minus(finals[0], other)} for other in finals[1:]
        ],
    }


def cells(summary: Mapping[str, Any], changes: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """Text of the table, in percent, with the changes of some figures in brackets."""
    for row in summary["rows"]:
        against = row["minus_reference"]
        texts = []
        for name in METRICS:
            text = percent(row[name])
            if against is not None and name in changes and math.isfinite(row[name]):
                text += f" ({_change(against[name])})"
            texts.append(text)
        yield row["variant"], row["stage"], *texts
    for row in summary["comparisons"]:
        texts = [_change(row[name]) for name in METRICS]
        yield f"{row['variant']} - {row['minus']}", "final", *texts


def _change(value: Mapping[str, float]) -> str:
    return percent(value["difference"], value["standard_error"], sign="+")


def markdown(summary: Mapping[str, Any]) -> str:
    """The table as Markdown, with a line on what it shows."""
    heads = ("recipe", "stage", *TITLES)
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    changes = [name for name in METRICS if name != "recovery"]
    lines += ["| " + " | ".join(texts) + " |" for texts in cells(summary, changes)]
    return f"{caption(summary)}\n\n" + "\n".join(lines) + "\n"


def caption(summary: Mapping[str, Any]) -> str:
    """What the table shows, in a line."""
    return (
        f"{summary['images']} images, {summary['pairs']} image-tag pairs, all figures in percent; in "
        f"brackets the difference to {summary['reference'][1]} ± its standard error (bootstrap over images)."
    )


def extremes(summary: Mapping[str, Any], variant: str, count: int = 3) -> list[int]:
    """Numbers of the images whose mIoU a variant changes most, the best and the worst ones."""
    per_image = {(row["variant"], row["stage"]): row["per_image"] for row in summary["rows"]}
    change = np.subtract(per_image[variant, "final"], per_image[tuple(summary["reference"])])
    order = [int(place) for place in np.argsort(-change, kind="stable") if math.isfinite(change[place])]
    return order[:count] + order[count:][-count:]


def tau_figure(summary: Mapping[str, Any], taus: Sequence[float]) -> Any:
    """Change in two figures against the base mask over tau, with the standard error of the change."""
    rows = {row["variant"]: row["minus_reference"] for row in summary["rows"] if row["stage"] == "final"}
    ordered = sorted(set(taus))
    curves: dict[str, dict[str, list[float]]] = {}
    for name, title in (("miou", "mIoU"), ("per_image_miou", "per-image mIoU")):
        for part in ("difference", "standard_error"):
            points = [100 * rows[f"tau={tau:g}"][name][part] for tau in ordered]
            curves.setdefault(part, {})[title] = points
    label = f"change against {summary['reference'][1]} (points)"
    return viz.show_tau(ordered, curves["difference"], errors=curves["standard_error"], ylabel=label)
