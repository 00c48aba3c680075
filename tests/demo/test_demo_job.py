"""The demo's whole job: with stand-ins for the networks, and with the real ones on a real photo."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from dhr_refine import viz
from dhr_refine.datasets.photos import PHOTOS, Photo
from dhr_refine.demo import run
from dhr_refine.errors import UserError
from dhr_refine.files import writing
from dhr_refine.pretrained import Classifier, VisionTransformer
from dhr_refine.pretrained.classifier import ClassifierOutput


def read_png(path):
    """Pixels of a file, labels for an index PNG."""
    with Image.open(path) as picture:
        return np.asarray(picture)


class FakeClassifier:
    """CAMs of a left and a right half."""

    def __call__(self, image, groups):
        cams = torch.zeros(len(groups), 4, 6)
        for label in range(len(groups)):
            cams[label, 1:3, 2 * label : 2 * label + 2] = 1.0
        return ClassifierOutput(cams, [torch.rand(1, 5, 4, 6), torch.rand(1, 7, 2, 3)])


@pytest.fixture
def stand_ins(monkeypatch):
    """Networks without weights and one small photo."""
    image = torch.randint(0, 256, (40, 60, 3), dtype=torch.uint8).numpy()
    photo = Photo("small", "nowhere", {"left": {1: "one"}, "[b]": {2: "two", 3: "three"}}, lambda: image)
    monkeypatch.setitem(PHOTOS, "small", photo)
    monkeypatch.setattr(run, "vit_file", lambda cache, given, progress: progress(1, 2))
    monkeypatch.setattr(Classifier, "load", lambda: FakeClassifier())
    monkeypatch.setattr(VisionTransformer, "load", lambda path: lambda image: torch.rand(1, 9, 3, 4))
    return photo


@pytest.mark.parametrize("boundary", ["pamr", None])
@pytest.mark.parametrize("recipe", run.RECIPES)
def test_job_writes_panels_masks_and_tables(stand_ins, tmp_path, boundary, recipe):
    console = Console(file=io.StringIO(), width=100)
    options = run.Options(out=tmp_path / "new" / "out", photos=["small"], boundary=boundary, recipe=recipe)
    (report,) = run.run(options, console)
    names = {path.relative_to(options.out).as_posix() for path in options.out.rglob("*.png")}
    masks = {f"masks/small-{stage}.png" for stage in ("base", "seed", "init", "final")}
    assert names == {"small.png", *masks}
    assert {path.relative_to(options.out).as_posix() for path in report.files} == names
    assert read_png(options.out / "small.png").shape[1] == 1600
    for name in masks:
        labels = read_png(options.out / name)
        assert labels.shape == (40, 60)
        assert set(np.unique(labels)) <= {0, 1, 2, 255 if "seed" in name else 0}
    final = read_png(options.out / "masks/small-final.png")
    assert report.shares["final"] == pytest.approx([(final == label).mean() for label in range(3)])
    output = console.file.getvalue()
    for text in ("pip download", "small", "left", "[b]", "CAMs and WSS features", "Seconds", "Came back"):
        assert text in output


def test_panel_shows_the_steps_and_what_was_lost_and_recovered(stand_ins, tmp_path, monkeypatch):
    figures = []
    show_steps = viz.show_steps

    def keep(*arguments, **options):
        figures.append(show_steps(*arguments, **options))
        return figures[-1]

    monkeypatch.setattr(viz, "show_steps", keep)
    monkeypatch.setattr(run.Report, "recovered", {2})
    monkeypatch.setattr(run.Report, "lost", lambda report, stage: {1} if stage == "final" else set())
    console = Console(file=io.StringIO(), width=200)
    (report,) = run.run(run.Options(out=tmp_path, photos=["small"], boundary=None), console)
    for step, reason in report.idle.items():
        assert f"small, {step}: {reason}." in console.file.getvalue()
    (figure,) = figures
    shown = [axes.get_title() for axes in figure.axes]
    assert shown[:3] == ["Base mask", "Final mask", "Image"]
    notes = " ".join(text.get_text() for text in figure.texts[1:])
    for panel, step in (("OT seed", "OT seed"), ("After USS", "USS step"), ("After WSS", "WSS step")):
        assert (panel in shown) == (f"{step}: " not in notes) == (step not in report.idle)
    (star,) = figure.axes[1].texts
    assert star.get_text() == "★ [b]"
    colours = [patch.get_facecolor()[:3] for patch in figure.legends[0].get_patches()[:3]]
    assert np.allclose(colours, viz.palette(21, style="vivid")[:3] / 255)  # not VOC's dark ones
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend[:3] == ["background", "left (lost)", "[b] ★ recovered"]
    assert figure.texts[0].get_text() == "small: left, [b]"
    assert (tmp_path / "small.png").read_bytes() == writing.figure_png(figure)


def test_job_reports_a_folder_that_turned_unwritable(stand_ins, tmp_path, monkeypatch):
    def refuse(path, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing, "write_atomic", refuse)
    with pytest.raises(UserError, match=r"No space left on device.*--out"):
        run.run(run.Options(out=tmp_path, photos=["small"], boundary=None), Console(file=io.StringIO()))


# --------------------------------------------------------------------------------------------------
# With the real networks; skipped only if the weights cannot be had


def test_demo_on_a_real_photo(vit_path, tmp_path):
    console = Console(file=io.StringIO(), width=120)
    options = run.Options(out=tmp_path, photos=["officer"], vit=vit_path)
    (report,) = run.run(options, console)
    photo, image = PHOTOS["officer"], PHOTOS["officer"].load()
    assert read_png(tmp_path / "officer.png").shape[1] == 1600
    masks = {
        name: read_png(tmp_path / "masks" / f"officer-{name}.png")
        for name in ("base", "seed", "init", "final")
    }
    for name, mask in masks.items():
        assert mask.shape == image.shape[1:]
        assert set(np.unique(mask)) <= {0, 1, 2, 3, 4} | ({255} if name == "seed" else set())
    for name, shares in report.shares.items():
        assert sum(shares) == pytest.approx(1)
        if name in ("base", "M_init", "final"):
            mask = masks[{"M_init": "init"}.get(name, name)]
            assert shares == pytest.approx([(mask == label).mean() for label in range(5)])
    assert list(report.idle) == ["WSS step"]  # no pair is alike, and the output says so
    assert "at tau 0.8 (closest: uniform and tie, 0.7" in console.file.getvalue()

    # The uniform's CAM is strongest on the cap, so the base mask all but loses the cap; the refinement
    # gives it back, on the cap: the upper middle of the photo, nearly nowhere else.
    cap = photo.names.index("cap")
    assert cap in report.lost("base")
    assert cap in report.recovered
    rows, columns = np.nonzero(masks["final"] == cap)
    on_cap = (rows < 200) & (columns > 130) & (columns < 370)
    assert on_cap.mean() > 0.8
    lines = console.file.getvalue().splitlines()
    (row,) = (line for line in lines if "│ cap" in line)
    assert "came back" in row
    assert f"{report.shares['base'][cap]:.1%}" in row
    assert f"{report.shares['final'][cap]:.1%}" in row
