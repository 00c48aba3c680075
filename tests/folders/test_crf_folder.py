"""The boundary step alone on folders: that of the functions, image by image."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
import torch
from small_sets import QUIET, made_base, read_png, write_set

from dhr_refine import cli, dense_crf, pamr, par, probs_from_labels
from dhr_refine.folders import crf_folder, refine_folder

# Of the codebases' own scripts: Gaussian width and weight, bilateral widths (place, colour) and weight; then
# the background score beside CAMs.
CONSTANTS = {
    "seam": ((3, 3, 80, 13, 10), {"background": "power", "alpha": 4.0}),
    "irn": ((3, 3, 50, 5, 10), {"background": 0.2}),
    "dhr": ((1, 3, 67, 3, 4), {"background": 0.2}),
    "toco": ((1, 1, 121, 5, 4), {"background": 0.2}),
    "weaktr": ((4, 3, 83, 5, 3), {"background": 0.2}),
}


def crf_of(preset):
    names = ("gauss_sxy", "gauss_compat", "sxy", "srgb", "compat")
    options = dict(zip(names, CONSTANTS[preset][0]))
    return lambda image, probs: dense_crf(image, probs, **options)


@pytest.fixture
def data(tmp_path):
    return write_set(tmp_path / "set", 6)


@pytest.mark.parametrize("preset", CONSTANTS)
def test_from_cams(data, tmp_path, preset):
    out = tmp_path / "out"
    options = {"cams": data.root / "cams", "classes": 9, "preset": preset, "save_probs": True}
    assert crf_folder(data.images, out=out, **options, run=QUIET).done == 6
    for key, scene in data.scenes.items():
        mask = made_base(data, key, refine=crf_of(preset), **CONSTANTS[preset][1])
        assert torch.equal(read_png(out / f"{key}.png"), mask), key
        with np.load(out / "probs" / f"{key}.npz") as kept:
            assert kept["keys"].tolist() == [0, *(tag + 1 for tag in scene.tags)]
            np.testing.assert_allclose(kept["prob"].sum(0), 1, atol=2e-3)
            best = torch.from_numpy(kept["keys"])[torch.from_numpy(kept["prob"]).float().argmax(0)]
        assert (best == mask).float().mean() > 0.99  # half precision ties
    told = json.loads((out / "dhr_refine.json").read_text())
    assert told["cam_background"]["background"] == "none"


def test_a_score_of_the_background_goes_before_the_preset(data, tmp_path):
    options = {"cams": data.root / "cams", "classes": 9, "preset": "seam", "method": "pamr"}
    crf_folder(data.images, out=tmp_path / "out", **options, base_score=0.4, run=QUIET)
    for key in data.scenes:
        mask = made_base(data, key, refine="pamr", background=0.4)
        assert torch.equal(read_png(tmp_path / "out" / f"{key}.png"), mask)


@pytest.mark.parametrize("gt_prob", [0.7, 0.55])
def test_from_masks(data, tmp_path, gt_prob):
    out = tmp_path / "out"
    options = {"masks": data.root / "masks", "classes": 9, "preset": "irn", "gt_prob": gt_prob}
    assert crf_folder(data.images, out=out, **options, run=QUIET).done == 6
    changed = False
    for key, scene in data.scenes.items():
        labels = [label for label in scene.mask.unique().tolist() if label != 255]
        local = torch.full_like(scene.mask, 255)
        for place, label in enumerate(labels):
            local[scene.mask == label] = place
        probs = probs_from_labels(local, num_classes=len(labels), gt_prob=gt_prob)
        mask = torch.tensor(labels)[crf_of("irn")(scene.image, probs).argmax(0)]
        assert torch.equal(read_png(out / f"{key}.png"), mask), key
        changed |= bool((mask != scene.mask).any())
    assert changed


def test_masks_of_one_label_or_none_stay(data, tmp_path):
    for key, label in (("photo_00", 0), ("photo_01", 255), ("photo_02", 4)):
        content = np.full(tuple(data.scenes[key].mask.shape), label, np.uint8)
        content[:3] = 255
        (data.root / "masks" / f"{key}.png").unlink()
        np.save(data.root / "masks" / f"{key}.npy", content)
    options = {"masks": data.root / "masks", "classes": 9, "method": "par", "save_probs": True}
    assert crf_folder(data.images, out=tmp_path / "out", **options, run=QUIET).failed == ()
    for key, label in (("photo_00", 0), ("photo_01", 255), ("photo_02", 4)):
        mask = read_png(tmp_path / "out" / f"{key}.png")
        assert (mask[:3] == 255).all()
        assert (mask[3:] == label).all()


@pytest.mark.parametrize("method", ["par", "pamr"])
def test_from_probabilities_of_a_run(data, tmp_path, method):
    refine_folder(data.images, out=tmp_path / "masks", **data.inputs, save_probs=True, run=QUIET)
    out, tool = tmp_path / "out", {"par": par, "pamr": pamr}[method]
    options = {"probs": tmp_path / "masks" / "probs", "classes": 9, "method": method}
    assert crf_folder(data.images, out=out, **options, run=QUIET).done == 6
    for key, scene in data.scenes.items():
        with np.load(tmp_path / "masks" / "probs" / f"{key}.npz") as kept:
            labels, probs = torch.from_numpy(kept["keys"]), torch.from_numpy(kept["prob"]).float()
        mask = labels[tool(scene.image, probs).argmax(0)]
        assert torch.equal(read_png(out / f"{key}.png"), mask)


def test_probabilities_in_other_forms(data, tmp_path):
    key, scene = next(iter(data.scenes.items()))
    height, width = scene.mask.shape
    whole = torch.rand(9, height, width).softmax(0)
    few = torch.rand(2, height, width).softmax(0)
    forms = {
        "whole.npy": (whole, range(9)),
        "pickled.npy": (few, (3, 7)),
        "one.npz": (whole, range(9)),
        "keys.pt": (few, (3, 7)),
    }
    for name, (probs, labels) in forms.items():
        folder = tmp_path / name.replace(".", "_")
        folder.mkdir()
        path = folder / f"{key}.{name.rpartition('.')[2]}"
        if name == "whole.npy":
            np.save(path, probs.numpy())
        elif name == "pickled.npy":
            np.save(path, {"keys": np.array(labels), "prob": probs.numpy()})
        elif name == "one.npz":
            np.savez(path, prob=probs.numpy())
        else:
            torch.save({"keys": torch.tensor(labels), "prob": probs}, path)
        out = tmp_path / f"{folder.name}_out"
        options = {"probs": folder, "classes": 9, "method": "par"}
        assert crf_folder(data.images, out=out, **options, run=QUIET).failed == ()
        mask = torch.tensor([*labels])[par(scene.image, probs).argmax(0)]
        assert torch.equal(read_png(out / f"{key}.png"), mask), name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.ones((9, 5, 5)), r"holds \(9, 5, 5\): \(K, 36, 50\) is needed, as the image"),
        (np.ones((36, 50)), r"holds \(36, 50\)"),
        (np.ones((4, 36, 50)), "has 4 maps for 9 labels: save keys beside them"),
        ({"keys": [1, 2, 3], "prob": np.ones((2, 36, 50))}, r"has 2 maps and the keys \[1, 2, 3\]"),
        ({"keys": [1, 9], "prob": np.ones((2, 36, 50))}, r"has 2 maps and the keys \[1, 9\]"),
        ({"keys": [1, 1], "prob": np.ones((2, 36, 50))}, r"has 2 maps and the keys \[1, 1\]"),
        ({"keys": [1.5, 2], "prob": np.ones((2, 36, 50))}, r"the keys \[1.5, 2.0\]"),
        ({"keys": ["a", "b"], "prob": np.ones((2, 36, 50))}, "no array of numbers"),
        ({"keys": [], "prob": np.ones((0, 36, 50))}, r"has 0 maps and the keys \[\]"),
        ({"keys": [1, 2], "a": 1, "b": 2}, r"has the entries \['a', 'b'\] beside keys"),
        (np.full((9, 36, 50), np.nan), "NaN or infinity"),
        (-np.ones((9, 36, 50)), "negative|-1"),
    ],
)
def test_probabilities_that_are_none(data, tmp_path, content, message):
    folder = tmp_path / "probs"
    folder.mkdir()
    np.save(folder / "photo_00.npy", content)
    options = {"probs": folder, "classes": 9, "method": "par"}
    (failed,) = crf_folder(data.images, out=tmp_path / "out", **options, run=QUIET).failed
    assert failed.key == "photo_00"
    assert re.search(message, failed.message), failed.message
    assert not failed.message.startswith(("KeyError", "IndexError", "ValueError"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "pass one of cams"),
        ({"cams": "x", "masks": "y"}, "pass one of cams"),
        ({"cams": "x", "preset": "sam"}, "preset must be one of 'seam'"),
        ({"cams": "x", "method": "crv"}, "method must be one of 'crf'"),
        ({"masks": "x", "gt_prob": 1.5}, r"gt_prob must lie in \[0.0, 1.0\]"),
        ({"masks": "x", "gt_prob": 0}, "gt_prob must lie between 0 and 1, got 0: pass 0.7"),
        ({"masks": "x", "gt_prob": 1.0}, "gt_prob must lie between 0 and 1, got 1.0"),
        ({"masks": "x", "base_score": 0.3}, r"base_score \(--base-score\) says how cams .* leave it out"),
        ({"probs": "x", "alpha": 2.0}, r"alpha \(--alpha\) says how cams"),
        ({"probs": "x", "cam_background": "none"}, r"cam_background \(--cam-background\) says how cams"),
        ({"cams": "x", "gt_prob": 0.6}, r"gt_prob \(--gt-prob\) is the trust in masks"),
        (
            {"masks": "x", "method": "par", "preset": "irn"},
            r"preset \(--preset\) has no part in method='par'",
        ),
        ({"cams": "x", "base_score": -1}, "base_score must lie in"),
        ({"cams": "x", "alpha": -1}, "alpha must be above 0"),
        ({"cams": "x", "cam_background": "last"}, "cam_background must be one of"),
    ],
)
def test_arguments_that_cannot_be(data, tmp_path, options, message):
    with pytest.raises((ValueError, RuntimeError), match=message):
        crf_folder(data.images, out=tmp_path / "out", **options, run=QUIET)
    assert not (tmp_path / "out").exists()


def test_the_verb(data, tmp_path, capsys):
    line = ["crf", str(data.images), "--masks", str(data.root / "masks"), "--classes", "9", "--method", "par"]
    assert cli.main([*line, "--out", str(tmp_path / "out"), "--quiet", "--jobs", "1"]) == 0
    assert "6 done" in capsys.readouterr().out
    crf_folder(
        data.images, out=tmp_path / "own", masks=data.root / "masks", classes=9, method="par", run=QUIET
    )
    for key in data.scenes:
        assert torch.equal(
            read_png(tmp_path / "out" / f"{key}.png"), read_png(tmp_path / "own" / f"{key}.png")
        )
