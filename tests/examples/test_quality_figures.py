"""The benchmark's figures: bootstrap, differences, tables, curves and extremes."""

from __future__ import annotations

import json
import math

import benchmark_quality
import numpy as np
import pytest
from quality import figures
from quality_runs import arguments, find
from scene_folder import CLASSES, KEYS

from dhr_refine import viz
from dhr_refine.files.writing import without_nan
from dhr_refine.metrics import ImageCounts, image_counts, image_scores

pytest.importorskip("PIL.Image", reason="needs Pillow")
pytest.importorskip("rich", reason="needs rich")


def test_figures_show_the_images_that_changed_most(folder, tmp_path, monkeypatch):
    drawn = {}

    def show_extremes(images, targets, before, after, *, titles, ignore_index):
        drawn.update(
            titles=titles,
            change=[image_miou(a, t) - image_miou(b, t) for t, b, a in zip(targets, before, after)],
        )
        return viz.show_tau([0.0, 1.0], [0.0, 1.0])

    def image_miou(mask, target):
        counts = image_counts(mask, target, num_classes=CLASSES)
        return float(image_scores(counts).miou[0])

    monkeypatch.setattr(viz, "show_extremes", show_extremes)
    drawings = tmp_path / "figures"
    line = arguments(
        folder, "--recipes", "default", "--taus", "1,0.5", "--figures", drawings, "--json", tmp_path / "j"
    )
    assert benchmark_quality.main(line) == 0
    assert sorted(path.name for path in drawings.iterdir()) == ["extremes.png", "tau.png"]
    assert sorted(drawn["titles"]) == list(KEYS)
    assert drawn["change"] == sorted(drawn["change"], reverse=True)
    summary = json.loads((tmp_path / "j").read_text())
    axes = figures.tau_figure(summary, (1.0, 0.5)).axes[0]
    (row,) = [row for row in summary["rows"] if row["variant"] == "tau=0.5"]
    curve = next(one for one in axes.get_lines() if one.get_label() == "mIoU")
    assert curve.get_xdata().tolist() == [0.5, 1.0]
    assert curve.get_ydata()[0] == pytest.approx(100 * row["minus_reference"]["miou"]["difference"])


def test_the_extremes_are_the_largest_changes_either_way():
    rows = [
        {"variant": "", "stage": "base", "per_image": [0.5] * 6},
        {"variant": "mine", "stage": "final", "per_image": [0.4, 0.9, 0.5, math.nan, 0.1, 0.6]},
    ]
    summary = {"reference": ["", "base"], "rows": rows}
    assert figures.extremes(summary, "mine", count=2) == [1, 5, 0, 4]
    assert figures.extremes(summary, "mine", count=9) == [1, 5, 2, 0, 4]


def random_counts(seed, images=60, classes=4):
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, (images, 8, 8))
    rows = {}
    for name, noise in (("reference", 0.5), ("other", 0.3)):
        share = noise * rng.random((images, 1, 1)) * 1.5
        pred = np.where(rng.random(target.shape) < share, rng.integers(0, classes, target.shape), target)
        rows[("", name)] = image_counts(pred, target, num_classes=classes)
    return rows


def test_a_summary_pairs_the_resamples():
    counts = random_counts(1)
    counts |= {("same", "final"): counts[("", "reference")], ("mine", "final"): counts[("", "other")]}
    summary = figures.summarise(counts, ("", "reference"), draws=200)
    assert find(summary, "same", "final")["minus_reference"]["miou"] == {
        "difference": 0.0,
        "standard_error": 0.0,
    }
    other = find(summary, "", "other")["minus_reference"]["miou"]
    assert find(summary, "mine", "final")["minus_reference"]["miou"] == other
    assert other["difference"] > 3 * other["standard_error"] > 0
    (versus,) = summary["comparisons"]
    assert versus["miou"]["difference"] == -other["difference"]
    assert versus["miou"]["standard_error"] == pytest.approx(other["standard_error"])
    again = figures.summarise(counts, ("", "reference"), draws=200)
    assert without_nan(again) == without_nan(summary)


def test_undefined_figures_are_null_and_dashes():
    counts = ImageCounts(*(np.full((1, 1), 4) for _ in range(3)))
    summary = figures.summarise({("", "base"): counts, ("x", "final"): counts}, ("", "base"), draws=5)
    row = find(summary, "x", "final")
    assert math.isnan(row["vanishing"])
    assert math.isnan(row["minus_reference"]["vanishing"]["standard_error"])
    assert json.loads(json.dumps(without_nan(summary), allow_nan=False))["rows"][1]["vanishing"] is None
    assert "| x | final | 100.0 (+0.0 ± 0.0) |" in figures.markdown(summary)
    assert figures.markdown(summary).strip().endswith("| - | - | - |")
