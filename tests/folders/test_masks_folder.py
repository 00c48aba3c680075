"""Masks of a folder: those of a plain loop over its images, whatever the number of processes."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from small_sets import QUIET, files_of, made_base, memory_of, own_cams, read_png, refined, write_set

from dhr_refine import ClassMemory, Recipe, refine_steps
from dhr_refine.folders import RunOptions, refine_folder
from dhr_refine.palettes import palette

TWO = RunOptions(jobs=2, quiet=True)


@pytest.fixture
def data(tmp_path):
    return write_set(tmp_path / "set", 9)


def assert_masks(out, masks):
    for key, mask in masks.items():
        assert torch.equal(read_png(out / f"{key}.png"), mask), key
    assert sorted(path.stem for path in out.glob("*.png")) == sorted(masks)


@pytest.mark.parametrize("background", ["first", "last", "none"])
def test_masks_are_those_of_a_plain_loop(tmp_path, background):
    data = write_set(tmp_path / "set", 9, background=background)
    report = refine_folder(data.images, out=tmp_path / "out", **data.inputs, run=QUIET)
    assert (report.done, report.skipped, report.failed, report.exit_code) == (9, 0, (), 0)
    masks = {key: refined(data, key) for key in data.scenes}
    assert_masks(tmp_path / "out", masks)
    assert any((masks[key] != data.scenes[key].mask).any() for key in masks)


def test_the_number_of_processes_changes_nothing(data, tmp_path):
    options = {**data.inputs, "memory": "auto", "rounds": 1, "save_probs": True, "palette": True}
    for name, run in (("one", QUIET), ("two", TWO)):
        report = refine_folder(data.images, out=tmp_path / name, **options, run=run)
        assert (report.done, report.failed) == (9, ())
    one, two = files_of(tmp_path / "one"), files_of(tmp_path / "two")
    assert len(one) == 3 * 9 + 2
    assert one == two


def test_base_masks_are_made_of_the_cams(data, tmp_path):
    options = {**data.inputs, "boundary": "par", "base_score": 0.35, "tau": 0.5, "recipe": "paper"}
    del options["masks"]
    refine_folder(data.images, out=tmp_path / "out", **options, run=QUIET)
    base = {key: made_base(data, key, background=0.35, refine="par") for key in data.scenes}
    assert_masks(tmp_path / "out" / "base", base)
    more = {"boundary": "par", "tau": 0.5, "recipe": Recipe.paper()}
    assert_masks(tmp_path / "out", {key: refined(data, key, mask=base[key], **more) for key in base})
    told = json.loads((tmp_path / "out" / "dhr_refine.json").read_text())
    assert (told["arguments"]["base_score"], told["arguments"]["alpha"]) == (0.35, 1.0)


def test_a_power_of_the_cams_may_be_the_background_of_base_masks(data, tmp_path):
    options = {**data.inputs, "base_score": "power", "alpha": 3.0, "masks": None}
    refine_folder(data.images, out=tmp_path / "out", **options, run=QUIET)
    base = {key: made_base(data, key, background="power", alpha=3.0) for key in data.scenes}
    assert_masks(tmp_path / "out" / "base", base)
    assert_masks(tmp_path / "out", {key: refined(data, key, mask=base[key]) for key in base})


@pytest.mark.parametrize("run", [QUIET, TWO], ids=["one", "two"])
@pytest.mark.parametrize("rounds", [0, 2])
def test_a_memory_of_the_folder_is_that_of_fit(data, tmp_path, rounds, run):
    options = {**data.inputs, "memory": "auto", "rounds": rounds, "save_memory": tmp_path / "kept.npz"}
    refine_folder(data.images, out=tmp_path / "out", **options, run=run)
    memory = memory_of(data, data.scenes, rounds)
    masks = {key: refined(data, key, memory=memory) for key in data.scenes}
    assert_masks(tmp_path / "out", masks)
    assert any((masks[key] != refined(data, key)).any() for key in masks)
    found = ClassMemory.load(tmp_path / "kept.npz")
    state, wanted = found.state_dict(), memory.state_dict()
    assert state.keys() == wanted.keys()
    for name, value in wanted.items():
        if isinstance(value, torch.Tensor):
            # Sums of eight images each are added up, those of fit one by one.
            torch.testing.assert_close(state[name], value, rtol=1e-6, atol=1e-6)
        else:
            assert state[name] == value
    kept = tmp_path / "out" / "memory"
    assert (kept / "all.npz").read_bytes() == (tmp_path / "kept.npz").read_bytes()
    assert (kept / "all.txt").read_text().split() == list(data.scenes)


def test_a_memory_that_there_is_serves(data, tmp_path):
    memory = memory_of(data, data.scenes, 1)
    memory.save(tmp_path / "memory.npz")
    refine_folder(data.images, out=tmp_path / "out", **data.inputs, memory=tmp_path / "memory.npz", run=QUIET)
    assert_masks(tmp_path / "out", {key: refined(data, key, memory=memory) for key in data.scenes})
    assert not (tmp_path / "out" / "memory").exists()


def test_probabilities_and_colours_beside_the_masks(data, tmp_path):
    out = tmp_path / "out"
    refine_folder(data.images, out=out, **data.inputs, save_probs=True, palette=True, run=QUIET)
    for key, scene in data.scenes.items():
        arguments = (own_cams(scene), scene.mask, scene.uss, scene.wss, scene.image)
        steps = refine_steps(*arguments, labels=scene.tags, boundary=None)
        assert torch.equal(read_png(out / f"{key}.png"), steps.mask)
        with np.load(out / "probs" / f"{key}.npz") as kept:
            assert kept["keys"].tolist() == steps.classes.tolist()
            np.testing.assert_array_equal(kept["prob"], steps.probs.half().numpy())
        with Image.open(out / "colour" / f"{key}.png") as picture:
            assert picture.mode == "P"
            np.testing.assert_array_equal(np.asarray(picture), steps.mask.numpy())
            colours = np.asarray(picture.convert("RGB"))
        np.testing.assert_array_equal(colours, palette(data.num_classes)[steps.mask.numpy()])


def test_171_classes_without_background(tmp_path):
    data = write_set(tmp_path / "set", 4, background="none", classes=171, shift=163)
    options = {**data.inputs, "classes": "stuff", "background": None, "memory": "auto", "rounds": 1}
    report = refine_folder(data.images, out=tmp_path / "out", **options, run=QUIET)
    assert (report.done, report.failed) == (4, ())
    memory = memory_of(data, data.scenes, 1)
    masks = {key: refined(data, key, memory=memory) for key in data.scenes}
    assert_masks(tmp_path / "out", masks)
    assert max(int(mask[mask != 255].max()) for mask in masks.values()) == 170


@pytest.mark.parametrize("own", [True, False])
def test_images_without_tags_keep_their_base_mask(data, tmp_path, own):
    tags = {key: () if key == "photo_03" else scene.tags for key, scene in data.scenes.items()}
    (data.root / "cams" / "photo_03.npy").unlink()
    (data.root / "uss" / "photo_03.npy").unlink()
    run = replace(QUIET, ids=list(data.scenes))
    options = {**data.inputs, "tags": tags, "save_probs": True, "memory": "auto", "rounds": 0, "run": run}
    if not own:
        del options["masks"]
    report = refine_folder(data.images, out=tmp_path / "out", **options)
    assert (report.done, report.failed) == (9, ())
    kept = read_png(tmp_path / "out" / "photo_03.png")
    assert torch.equal(kept, data.scenes["photo_03"].mask if own else torch.zeros_like(kept))
    with np.load(tmp_path / "out" / "probs" / "photo_03.npz") as probs:
        labels = kept.unique().tolist()
        assert probs["keys"].tolist() == [label for label in labels if label != 255]
        np.testing.assert_array_equal(
            probs["prob"], np.stack([kept.numpy() == label for label in probs["keys"]])
        )


def test_an_unknown_base_mask_stays_unknown(data, tmp_path):
    Image.fromarray(np.full((36, 50), 255, np.uint8)).save(data.root / "masks" / "photo_00.png")
    tags = {"photo_00": ()}
    run = replace(QUIET, ids="photo_00")
    refine_folder(
        data.images, out=tmp_path / "out", **data.inputs, tags=tags, save_probs=True, palette=True, run=run
    )
    assert (read_png(tmp_path / "out" / "photo_00.png") == 255).all()
    with np.load(tmp_path / "out" / "probs" / "photo_00.npz") as probs:
        assert not probs["prob"].any()


@pytest.mark.parametrize("levels", [0, 1, 2])
def test_features_of_the_classifier_come_from_any_number_of_folders(data, tmp_path, levels):
    options = data.inputs | {"wss": data.inputs["wss"][:levels] if levels != 1 else data.inputs["wss"][0]}
    refine_folder(data.images, out=tmp_path / "out", **options, run=QUIET)
    masks = {
        key: refined(data, key, wss=scene.wss[:levels] or [scene.uss]) for key, scene in data.scenes.items()
    }
    assert_masks(tmp_path / "out", masks)


def test_images_of_a_list(data, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("/JPEGImages/photo_07.jpg /SegmentationClassAug/photo_07.png\nphoto_02\nphoto_05\n")
    run = replace(QUIET, listed=listed, limit=2)
    report = refine_folder(data.images, out=tmp_path / "out", **data.inputs, run=run)
    assert report.done == 2
    assert_masks(tmp_path / "out", {key: refined(data, key) for key in ("photo_07", "photo_02")})


def test_inputs_stay_as_they_are(data, tmp_path):
    before = {path: path.read_bytes() for path in data.root.rglob("*") if path.is_file()}
    options = {**data.inputs, "memory": "auto", "rounds": 0}
    refine_folder(data.images, out=tmp_path / "out", **options, run=QUIET)
    assert {path: path.read_bytes() for path in data.root.rglob("*") if path.is_file()} == before
