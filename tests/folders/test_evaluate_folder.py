"""Scores of folders of masks: numbers against loops and torchmetrics, failures, tables and JSON."""

from __future__ import annotations

import json
import math
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL.Image", reason="needs Pillow")

import torch
from mask_folders import random_masks, slow_scores, write_masks
from places import shared_folder
from torchmetrics.classification import MulticlassJaccardIndex

from dhr_refine.datasets.classes import ClassSet
from dhr_refine.errors import UsageError
from dhr_refine.files.writing import without_nan
from dhr_refine.folders import evaluate_folder

CLASSES, ABSENT = 6, (4,)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three folders of masks, and what they hold: truth, base, masks."""
    root = tmp_path_factory.mktemp("masks")
    held = random_masks(0, classes=CLASSES, absent=ABSENT)
    paths = [write_masks(root / name, masks) for name, masks in zip(("truth", "base", "masks"), held)]
    return paths, held


@pytest.mark.parametrize(
    ("background", "label", "absent"),
    [("first", 0, "skip"), ("last", CLASSES - 1, "zero"), ("none", None, "skip")],
)
def test_figures_equal_loops_over_pixels(folders, background, label, absent):
    (truth, base, masks), (truths, bases, refined) = folders
    report = evaluate_folder(
        masks, truth, base=base, classes=CLASSES, background=background, absent=absent, draws=10
    )
    options = {"background": label, "zero": absent == "zero"}
    after, before = (slow_scores(one, truths, CLASSES, **options) for one in (refined, bases))
    for scores, wanted in ((report.scores, after), (report.base_scores, before)):
        for name in ("miou", "mfpr", "mfnr", "per_image_miou", "vanishing", "vanished"):
            assert getattr(scores, name) == pytest.approx(wanted[name], abs=1e-12), name
        finite = {k: iou for k, iou in enumerate(scores.iou) if math.isfinite(iou)}
        assert finite == pytest.approx(wanted["iou"])
    lost = before["lost"]
    assert len(lost) >= 3
    assert report.scores.recovery == pytest.approx(len(lost - after["lost"]) / len(lost))
    assert report.changes["miou"].difference == pytest.approx(after["miou"] - before["miou"])
    assert report.changes["iou"].difference[1] == pytest.approx(after["iou"][1] - before["iou"][1])
    assert "recovery" not in report.changes
    assert report.ids == tuple(truths)


def test_iou_equals_torchmetrics(folders):
    (truth, _, masks), (truths, _, refined) = folders
    report = evaluate_folder(masks, truth, classes=CLASSES, draws=0)
    # torchmetrics has no missing prediction: it gets a class of its own.
    metric = MulticlassJaccardIndex(CLASSES + 1, average=None, ignore_index=255)
    for key in truths:
        said = np.where(refined[key] == 255, CLASSES, refined[key])
        metric.update(torch.from_numpy(said)[None], torch.from_numpy(truths[key])[None])
    wanted = metric.compute()[:CLASSES].double().numpy()
    there = [label for label in range(CLASSES) if label not in ABSENT]
    np.testing.assert_allclose(report.scores.iou[there], wanted[there], rtol=1e-6)
    assert np.isnan(report.scores.iou[list(ABSENT)]).all()


def test_masks_are_read_from_arrays_too(folders, tmp_path):
    (truth, base, masks), (_, _, refined) = folders
    wanted = evaluate_folder(masks, truth, base=base, classes=CLASSES, draws=0)
    for suffix in (".npy", ".npz"):
        folder = write_masks(tmp_path / suffix[1:], refined, suffix)
        found = evaluate_folder(str(folder), truth, base=base, classes=CLASSES, draws=0)
        assert found.scores._replace(iou=0) == wanted.scores._replace(iou=0)


def test_standard_errors_are_those_of_the_images(folders):
    (truth, base, masks), (truths, bases, refined) = folders
    report = evaluate_folder(masks, truth, base=base, classes=CLASSES, draws=3000)
    means = []
    for key in truths:
        one, other = (
            slow_scores({key: part[key]}, {key: truths[key]}, CLASSES)["per_image_miou"]
            for part in (refined, bases)
        )
        means.append((one, one - other))
    spread = np.std(means, axis=0) / math.sqrt(len(means))
    assert report.standard_errors["per_image_miou"] == pytest.approx(spread[0], rel=0.1)
    assert report.changes["per_image_miou"].standard_error == pytest.approx(spread[1], rel=0.1)
    again = evaluate_folder(masks, truth, base=base, classes=CLASSES, draws=3000)
    assert again.standard_errors["miou"] == report.standard_errors["miou"] > 0


def test_what_has_no_spread_has_no_standard_error(folders, tmp_path):
    (truth, _, masks), _ = folders
    one = evaluate_folder(masks, truth, classes=CLASSES, limit=1)
    none = evaluate_folder(masks, truth, classes=CLASSES, draws=0)
    for report in (one, none):
        assert math.isnan(report.standard_errors["miou"])
        assert "±" not in repr(report)
    assert len(one.ids) == 1
    assert repr(one).count("1 image, ") == 1
    # A class of a single image: only whether it is drawn changes.
    few = {"a": np.zeros((4, 4), int), "b": np.eye(4, dtype=int)}
    report = evaluate_folder(
        write_masks(tmp_path / "m", few), write_masks(tmp_path / "t", few), classes=2, draws=50
    )
    assert np.isfinite(report.standard_errors["iou"]).tolist() == [True, False]


def damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:40])


def rescaled(path: Path) -> None:
    write_masks(path.parent, {path.stem: np.zeros((3, 5))})


def relabelled(path: Path) -> None:
    write_masks(path.parent, {path.stem: np.full((9, 9), 77)})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (Path.unlink, "has no file of image a: add a with one of .png"),
        (damaged, "cannot be read as a picture"),
        (rescaled, "resize the mask to its image by nearest neighbour"),
        (relabelled, "holds the label 77, but there are 3 classes"),
    ],
)
@pytest.mark.parametrize("stage", ["masks", "targets", "base"])
def test_an_image_that_cannot_be_scored_is_named_and_the_rest_is(stage, spoil, message, tmp_path):
    _, _, held = random_masks(1, classes=3, images=3)
    held = dict(zip("abc", held.values()))
    paths = {name: write_masks(tmp_path / name, held) for name in ("masks", "targets", "base")}
    spoil(paths[stage] / "a.png")
    report = evaluate_folder(**paths, classes=3, ids=["c", "a", "b", "c"], draws=5)
    (failure,) = report.failures
    assert (failure.key, failure.status) == ("a", "failed")
    # Which of two sizes is wrong cannot be known: the one that is read later is told.
    assert failure.stage == ("targets" if (stage, spoil) == ("masks", rescaled) else stage)
    assert message in failure.message
    assert "\n" not in failure.message
    assert report.ids == ("c", "b")
    assert report.scores.miou == 1.0
    assert f"Left out: a ({failure.stage}): {failure.message}" in report.notes


def test_many_failures_are_counted(tmp_path):
    masks = {f"i{number:02d}": np.zeros((2, 2)) for number in range(14)}
    paths = [write_masks(tmp_path / name, masks) for name in ("m", "t")]
    for path in paths[0].iterdir():
        damaged(path)
    report = evaluate_folder(*paths, classes=2)
    assert len(report.failures) == 14
    assert sum(note.startswith("Left out: ") for note in report.notes) == 11
    assert "Left out: 4 more." in report.notes
    assert report.ids == ()
    assert math.isnan(report.scores.miou)
    assert repr(report).startswith("0 images, 0 image-tag pairs")


def test_files_without_a_partner_are_counted(folders, tmp_path):
    (truth, _, _), (_, _, refined) = folders
    keys = list(refined)
    some = {key: refined[key] for key in keys[:5]} | {"other": np.zeros((2, 2))}
    report = evaluate_folder(write_masks(tmp_path / "some", some), truth, classes=CLASSES, draws=0)
    assert report.ids == tuple(keys[:5])
    assert report.unmatched == {"masks": 1, "targets": len(keys) - 5}
    assert f"Passed over: 1 files of {tmp_path / 'some'} that have no ground truth." in report.notes
    assert f"Passed over: {len(keys) - 5} files of {truth} that have no mask." in report.notes


def test_the_images_are_those_asked_for(folders, tmp_path):
    (truth, _, masks), (truths, _, _) = folders
    keys = list(truths)
    options = {"classes": CLASSES, "draws": 0}
    listed = tmp_path / "list.txt"
    listed.write_text(f"JPEGImages/{keys[3]}.jpg x\n\n{keys[1]}\n")
    assert evaluate_folder(masks, truth, ids=listed, **options).ids == (keys[3], keys[1])
    assert evaluate_folder(masks, truth, ids=f"{keys[2]},{keys[0]}", limit=1, **options).ids == (keys[2],)
    assert evaluate_folder(masks, truth, limit=2, **options).ids == tuple(keys[:2])


def test_errors(folders, tmp_path):
    (truth, _, masks), _ = folders
    (tmp_path / "empty").mkdir()
    other = write_masks(tmp_path / "other", {"other": np.zeros((2, 2))})
    with pytest.raises(UsageError, match=r"empty has no mask \(a file with one of .png"):
        evaluate_folder(tmp_path / "empty", truth)
    with pytest.raises(UsageError, match="nowhere cannot be read as a folder"):
        evaluate_folder(masks, tmp_path / "nowhere")
    with pytest.raises(
        UsageError, match=r"no image to work on: .*other has 1, .*truth has 12 files, and none"
    ):
        evaluate_folder(other, truth)
    with pytest.raises(UsageError, match="no image to work on"):
        evaluate_folder(masks, truth, ids=[])
    with pytest.raises(TypeError, match=r"masks must be a path of a folder, got .*: pass a str or a Path"):
        evaluate_folder(3, truth)
    with pytest.raises(TypeError, match="base must be a path of a folder"):
        evaluate_folder(masks, truth, base=[masks])
    with pytest.raises(TypeError, match=r"ids must be a list of image ids, got .*: pass \['2007_000033'\]"):
        evaluate_folder(masks, truth, ids=[1, 2])
    with pytest.raises(ValueError, match="limit must be"):
        evaluate_folder(masks, truth, limit=0)
    with pytest.raises(ValueError, match="draws must be"):
        evaluate_folder(masks, truth, draws=-1)
    with pytest.raises(ValueError, match="absent must be one of 'skip', 'zero', got 'one'"):
        evaluate_folder(masks, truth, absent="one")
    with pytest.raises(ValueError, match="classes is 'vox': pass one of voc"):
        evaluate_folder(masks, truth, classes="vox")
    with pytest.raises(ValueError, match="ignore_index 3 is one of the 6 classes"):
        evaluate_folder(masks, truth, classes=6, ignore_index=3)


def test_ground_truth_of_0_and_255_is_noticed(tmp_path):
    held = {"a": np.where(np.eye(6) > 0, 255, 0)}
    paths = [write_masks(tmp_path / name, held) for name in ("m", "t")]
    with pytest.warns(UserWarning, match="target has no pixel of label 1, and 255 where the foreground"):
        evaluate_folder(*paths, classes=2)


class Cells(HTMLParser):
    """Text of the cells and what else is shown; every tag is closed."""

    def __init__(self):
        super().__init__()
        self.open, self.texts = [], []

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def test_the_report_shows_itself(folders):
    (truth, base, masks), _ = folders
    hostile = ClassSet("<b>mine</b>", ("background", "<script>", "a&b", 'q"', "äß", "last"), "first")
    report = evaluate_folder(masks, truth, base=base, classes=hostile, draws=50)
    text = repr(report)
    lines = text.splitlines()
    assert lines[0].split() == ["in", "%", "base", "masks", "change"]
    (row,) = [line for line in lines if line.startswith("mIoU")]
    scores, change = report.scores, report.changes["miou"]
    assert f"{100 * scores.miou:.1f} ± {100 * report.standard_errors['miou']:.1f}" in row
    assert row.endswith(f"{100 * change.difference:+.1f} ± {100 * change.standard_error:.1f}")
    assert [line.split()[0] for line in lines if line.startswith(("<script>", "a&b", "äß"))]
    assert "Not in the ground truth: äß." in report.notes
    assert report.notes[-1].startswith("Rules: 255 in the ground truth is left out, in a mask it is a miss;")
    assert not any(line != line.rstrip() for line in lines)
    page = Cells()
    page.feed(report._repr_html_())
    assert page.open == []
    assert {"<script>", "a&b", 'q"'} <= set(page.texts)
    assert [note for note in report.notes if note in page.texts] == report.notes


def test_everything_is_written_as_numbers(folders):
    (truth, base, masks), (truths, _, refined) = folders
    report = evaluate_folder(masks, truth, base=base, classes=CLASSES, draws=20)
    told = json.loads(json.dumps(without_nan(report.as_dict()), allow_nan=False))
    assert told["folders"] == {"masks": str(masks), "targets": str(truth), "base": str(base)}
    assert told["classes"]["names"] == ["background", "1", "2", "3", "4", "5"]
    assert told["masks"]["miou"] == report.scores.miou
    assert told["masks"]["iou"][4] is None
    assert told["masks"]["iou"][3] == report.scores.iou[3]
    key = next(iter(truths))
    alone = slow_scores({key: refined[key]}, {key: truths[key]}, CLASSES)["per_image_miou"]
    assert told["masks"]["per_image"][key] == pytest.approx(alone)
    assert told["changes"]["miou"] == {
        "difference": report.changes["miou"].difference,
        "standard_error": report.changes["miou"].standard_error,
    }
    assert len(told["changes"]["iou"]["standard_error"]) == CLASSES
    assert told["images"] == len(truths)
    assert told["rules"] == report.notes[-1]
    alone = evaluate_folder(masks, truth, classes=CLASSES, draws=0).as_dict()
    assert "base" not in alone
    assert "changes" not in alone


def test_voc_images(voc):
    """Real masks: the parts fit together, and 255 is in the ground truth."""
    masks = voc / "strong_masks"
    report = evaluate_folder(masks / "mnv2", voc, base=masks / "mnv2_half", draws=20)
    assert len(report.ids) == 61
    assert report.scores.miou + report.scores.mfpr + report.scores.mfnr == pytest.approx(1)
    assert 0.3 < report.scores.miou < 0.9


@pytest.fixture
def voc():
    root = shared_folder() / "data" / "voc12"
    if not (root / "strong_masks").is_dir():
        pytest.skip("needs the VOC images that are kept outside the repository")
    return root
