"""Base masks with and without a random walk over USS features, before and after ``refine_mask``.

``propagation_quality.py --root VOC2012 --split val,aug --min-classes 2 --head head.pt --half check`` prints
the tables of docs/propagation.md. The options are those of examples/benchmark_quality.py that name images,
CAMs, features and the cache; what was computed is kept there, so that a stopped run goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import benchmark_quality
from quality.evaluation import Edges, Row, Variant, masks_of
from quality.figures import markdown, summarise
from quality.samples import Sample, prepare

from dhr_refine import base_mask, random_walk
from dhr_refine.errors import run_command
from dhr_refine.metrics import ImageCounts, image_counts
from dhr_refine.propagation import feature_affinity

LABELS = (0, 8, 10, 12, 13, 15, 17)
# Settings of the walk (radius, beta, steps) and background scores, chosen on the tuning half.
CHOSEN = (None, 16, 16)
KINDS: dict[str, tuple[tuple[float | None, float, int] | None, float, str | None]] = {
    "threshold": (None, 0.2, None),
    "threshold, crf": (None, 0.2, "crf"),
    "threshold 0.3": (None, 0.3, None),
    "threshold 0.3, crf": (None, 0.3, "crf"),
    "walk": (CHOSEN, 0.5, None),
    "walk, crf": (CHOSEN, 0.5, "crf"),
}
REFINED = ("threshold, crf", "threshold", "threshold 0.3, crf", "walk", "walk, crf")


def bases_of(sample: Sample, edges: Edges, kinds: dict[str, Any]) -> dict[str, Tensor]:
    """Base masks of every kind, (H, W)."""
    labels = torch.tensor([0, *(tag + 1 for tag in sample.tags)])
    walked: dict[Any, Tensor] = {None: sample.cams}
    bases = {}
    for name, (walk, background, tool) in kinds.items():
        if walk not in walked:
            radius, beta, steps = walk
            affinity = feature_affinity(sample.uss, radius=radius, beta=beta)
            walked[walk] = random_walk(sample.cams, affinity, steps=steps)
        refine = edges if tool == "crf" else None
        tags = range(len(sample.tags))
        made = base_mask(walked[walk], tags, sample.image, background=background, refine=refine)
        bases[name] = labels[made]
    return bases


def count(samples: Iterator[Sample], source: Any) -> dict[Row, ImageCounts]:
    """Counts of the base masks, and of what ``refine_mask`` makes of them."""
    counts: dict[Row, list[ImageCounts]] = {}
    variant = Variant(stages=("final",))
    for sample in samples:
        edges = Edges("crf")
        bases = bases_of(sample, edges, KINDS)
        rows: dict[Row, Tensor] = {("", name): mask for name, mask in bases.items()}
        for name in REFINED:
            one = replace(sample, base=bases[name])
            rows[name, "refined"] = masks_of(one, variant, edges, 255, source.cache)["final"]
        for row, mask in rows.items():
            counts.setdefault(row, []).append(image_counts(mask, sample.target, num_classes=21))
    return {row: ImageCounts(*map(np.concatenate, zip(*parts))) for row, parts in counts.items()}


def main() -> None:
    """Print the tables: against the usual base mask, and after refinement against its refined mask."""
    parser = benchmark_quality.parser()
    parser.prog, parser.description = "propagation_quality", __doc__
    options = parser.parse_args()

    def job() -> None:
        source = benchmark_quality.source_of(options)
        items = benchmark_quality.items_of(options, source.files)

        def samples() -> Iterator[Sample]:
            for place, item in enumerate(items):
                print(f"\r{place}/{len(items)}", end="", file=sys.stderr, flush=True)
                yield prepare(item, source, boundary=None)

        counts = count(samples(), source)
        finals = {(name, "final"): part for (name, stage), part in counts.items() if stage == "refined"}
        bases = {row: part for row, part in counts.items() if row[1] != "refined"}
        first = REFINED[0]
        for reference, rows in ((("", first), bases), ((first, "final"), finals)):
            summary = summarise(rows, reference, labels=LABELS, draws=options.draws)
            print(markdown(summary | {"reference": [reference[0], " ".join(filter(None, reference))]}))

    sys.exit(run_command("propagation_quality", job, stopped="stopped; the same command goes on from here"))


if __name__ == "__main__":
    main()
