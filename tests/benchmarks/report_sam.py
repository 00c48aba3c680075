"""Votes of segments after the default DHR step: superpixels of scikit-image, regions of the ground truth.

``report_sam.py --root VOC2012 --split val,aug --min-classes 2 --head head.pt --half check`` prints the table
of docs/sam.md. The options are those of examples/benchmark_quality.py that name images, CAMs, features and
the cache; what was computed is kept there, so that a stopped run goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skimage.measure import label
from skimage.segmentation import felzenszwalb, slic
from torch import Tensor

from dhr_refine import refine_steps
from dhr_refine.datasets.cache import Cache
from dhr_refine.errors import run_command
from dhr_refine.metrics import ImageCounts, image_counts
from dhr_refine.sam import Segments, as_segments, sam_vote

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples"))

import benchmark_quality
from quality.evaluation import Row
from quality.figures import markdown, summarise
from quality.samples import Sample, prepare

LABELS = (0, 8, 10, 12, 13, 15, 17)
BEFORE = ("", "DHR, no votes")
# Names of the segments, and the parts that they are made of.
SETS = {
    "about 100 superpixels (SLIC)": ("slic100",),
    "about 300 superpixels (SLIC)": ("slic300",),
    "about 1000 superpixels (SLIC)": ("slic1000",),
    "superpixels (Felzenszwalb, scale 300)": ("felzenszwalb",),
    "all four, which overlap": ("slic100", "slic300", "slic1000", "felzenszwalb"),
    "regions of the ground truth": ("regions",),
    "regions and their parts": ("regions", "parts"),
    "regions, parts and two sizes of superpixels": ("regions", "parts", "slic100", "felzenszwalb"),
}


def steps_of(sample: Sample, cache: Cache) -> dict[str, Tensor]:
    """Mask, scores (half precision) and classes of the default step with the CRF."""

    def make() -> dict[str, np.ndarray]:
        maps = (sample.cams, sample.base, sample.uss, sample.wss, sample.image)
        steps = refine_steps(*maps, labels=list(sample.tags))
        arrays = {"mask": steps.mask.to(torch.uint8), "probs": steps.probs.half(), "classes": steps.classes}
        return {name: array.numpy() for name, array in arrays.items()}

    made_from = (sample.image, sample.cams, sample.base, sample.uss, *sample.wss, sample.tags)
    return {
        name: torch.from_numpy(array) for name, array in cache("steps", sample.key, made_from, make).items()
    }


def segments_of(sample: Sample, cache: Cache) -> dict[str, Segments]:
    """Superpixels, the regions of the ground truth, and these cut by the largest superpixels."""

    def make() -> dict[str, np.ndarray]:
        image = sample.image.movedim(0, -1).numpy()
        maps = {f"slic{count}": slic(image, n_segments=count, start_label=1) for count in (100, 300, 1000)}
        maps["felzenszwalb"] = felzenszwalb(image, scale=300, sigma=0.8, min_size=50) + 1
        truth = sample.target.numpy()
        regions = label(np.where(truth == 255, 0, truth + 1), connectivity=2)
        cut = np.where(regions > 0, regions * (maps["slic100"].max() + 1) + maps["slic100"], 0)
        parts = np.unique(cut, return_inverse=True)[1].reshape(cut.shape) if (cut == 0).any() else cut
        return {
            name: made.astype(np.int32) for name, made in {**maps, "regions": regions, "parts": parts}.items()
        }

    arrays = cache("segments", sample.key, (sample.image, sample.target), make)
    return {name: as_segments(array) for name, array in arrays.items()}


def join(parts: list[Segments]) -> Segments:
    """All of these."""
    pixels, lengths = ([getattr(one, name) for one in parts] for name in ("pixels", "lengths"))
    return Segments(torch.cat(pixels), torch.cat(lengths), parts[0].size)


def rows_of(sample: Sample, cache: Cache) -> dict[Row, Tensor]:
    """The mask before the votes, and after those of each rule."""
    steps, segments = steps_of(sample, cache), segments_of(sample, cache)
    mask = steps["mask"].long()
    scores: Mapping[str, Any] = {"probs": steps["probs"].float(), "classes": steps["classes"].tolist()}
    rows = {BEFORE: mask}
    for name, parts in SETS.items():
        own = join([segments[part] for part in parts])
        rows["", f"{name}: scores"] = sam_vote(mask, own, **scores)
        rows["", f"{name}: SEPL"] = sam_vote(mask, own, rule="sepl")
    return rows


def main() -> None:
    """Print the table."""
    parser = benchmark_quality.parser()
    parser.prog, parser.description = "report_sam", __doc__
    options = parser.parse_args()

    def job() -> None:
        source = benchmark_quality.source_of(options)
        counts: dict[Row, list[ImageCounts]] = {}
        for item in benchmark_quality.items_of(options, source.files):
            sample = prepare(item, source)
            for row, mask in rows_of(sample, source.cache).items():
                counts.setdefault(row, []).append(image_counts(mask, sample.target, num_classes=21))
        joined = {row: ImageCounts(*map(np.concatenate, zip(*parts))) for row, parts in counts.items()}
        print(markdown(summarise(joined, BEFORE, labels=LABELS, draws=options.draws)))

    sys.exit(run_command("report_sam", job, stopped="stopped; the same command goes on from here"))


if __name__ == "__main__":
    main()
