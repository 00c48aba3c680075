"""The benchmark's errors: one line that says what to do."""

# ruff: noqa: E501  (tables of errors, one case a line)

from __future__ import annotations

import benchmark_quality
import numpy as np
import pytest
import torch
from quality_runs import arguments
from scene_folder import write_png

Image = pytest.importorskip("PIL.Image", reason="needs Pillow")
pytest.importorskip("rich", reason="needs rich")


def break_png(folder, mode="RGB", size=(48, 40)):
    Image.new(mode, size).save(folder / "targets" / "a.png")


def save(path, value):
    np.save(path, value, allow_pickle=True)


ERRORS = [
    (("images",), (), None, "the data set is missing: pass --root VOC2012, or --images DIR and --targets DIR"),
    ((), ("--root", "."), None, "has no image .*, nor have its folders JPEGImages, .*: pass the folder of the images"),
    ((), ("--list", "none.txt"), None, "none.txt"),
    ((), ("--min-classes", "9"), None, "no image is left to work on: check --split"),
    (("cams",), (), None, "CAMs need --head FILE, a linear head for EfficientNet-lite0, or --cams DIR"),
    ((), ("--classes", "3"), None, r"a.png holds the label \d, but there are 3 classes and ignore 255: pass --classes N"),
    ((), (), break_png, "a.png is a RGB picture: labels come from index or grey PNGs"),
    ((), (), lambda f: write_png(f / "targets" / "a.png", np.ones((4, 4))), r"a.png is \(4, 4\) but a.png \(40, 48\)"),
    ((), (), lambda f: (f / "images" / "b.png").unlink(), "images has no file of image b: add b with one of .jpg"),
    ((), (), lambda f: (f / "uss" / "b.pt").unlink(), "uss has no file of image b: add b with one of .npy, .npz"),
    ((), (), lambda f: torch.save(torch.zeros(4, 4), f / "uss" / "a.pt"), r"a.pt holds an array of shape \(4, 4\): \(D, h, w\) is needed"),
    ((), (), lambda f: (f / "uss" / "a.pt").write_bytes(b"PK nothing"), "a.pt cannot be read"),
    ((), (), lambda f: save(f / "cams" / "a.npy", {1: np.ones((4, 4))}), r"a.npy has no CAM of the tags \[2, 6\] \(0-based"),
    ((), (), lambda f: save(f / "cams" / "a.npy", {0: np.ones((4, 4)), 2: np.ones((4, 4))}), "--cam-background"),
    ((), (), lambda f: save(f / "cams" / "a.npy", {1: print}), "a.npy cannot be read .*allow_pickle=True is --allow-pickle"),
    ((), ("--tags", "{}/tags.npy"), lambda f: save(f / "tags.npy", {"a": np.ones(3)}), "has 3 zeros and ones for a but --classes 9 needs 8"),
    ((), ("--tags", "{}/tags.npy"), lambda f: save(f / "tags.npy", np.ones(3)), "tags.npy holds no dictionary of image ids and tags"),
    ((), ("--tags", "{}/tags.npy"), lambda f: save(f / "tags.npy", {"a": np.ones(8)}), "the tags file has no entry for image b"),
    ((), ("--masks", "{}/masks"), lambda f: write_png(f / "masks" / "a.png", np.ones((4, 4))), r"masks/a.png is \(4, 4\) but the image \(40, 48\) \(H, W\): save masks at the size"),
    ((), ("--masks", "{}/masks"), lambda f: write_png(f / "masks" / "a.png", np.full((40, 48), 77)), "a.png holds the label 77"),
    (("cams",), ("--head", "{}/head.pt"), lambda f: torch.save({"weight": torch.ones(3, 4)}, f / "head.pt"), r"head.pt must hold weight \(8, 1280\), a row per foreground class of --classes 9, got \(3, 4\)"),
    ((), ("--cache", "{}/images/a.png"), None, "cannot be written .*: name another folder with --cache"),
]  # fmt: skip


@pytest.mark.parametrize(("leave_out", "more", "prepare", "text"), ERRORS, ids=range(len(ERRORS)))
def test_errors_are_one_line_that_says_what_to_do(folder, capsys, leave_out, more, prepare, text):
    if prepare is not None:
        prepare(folder)
    more = [part.format(folder) for part in more]
    assert benchmark_quality.main(arguments(folder, *more, leave_out=leave_out)) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith("benchmark_quality: ")
    with pytest.raises(AssertionError, match=text):
        raise AssertionError(message)


def test_a_root_without_a_list(folder, capsys):
    (folder / "images").rename(folder / "JPEGImages")
    (folder / "targets").rename(folder / "SegmentationClassAug")
    assert benchmark_quality.main(arguments(folder, "--root", folder, leave_out=("images", "targets"))) == 1
    assert (
        "neither ImageSets/Segmentation/val.txt nor index.json: pass --list FILE" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    ("option", "value"), [("--recipes", "best"), ("--miou-labels", "a,b"), ("--half", "third")]
)
def test_wrong_options(folder, option, value):
    with pytest.raises(SystemExit) as exit_:
        benchmark_quality.main(arguments(folder, option, value))
    assert exit_.value.code == 2
