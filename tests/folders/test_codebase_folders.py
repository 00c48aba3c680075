"""Folders as the field's codebases write them: masks come out, and ``check`` says what is wrong."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from small_sets import QUIET, read_png, write_set

from dhr_refine.folders import check_folder, refine_folder


@pytest.fixture
def data(tmp_path):
    return write_set(tmp_path / "set", 9)


def cams_of(data):
    """The maps of the tags of each image, enlarged to it."""
    for key, scene in data.scenes.items():
        maps = scene.cams[scene.tags][None]
        yield (
            key,
            scene.tags,
            torch.nn.functional.interpolate(maps, scene.mask.shape, mode="bilinear")[0].clamp_min(0),
        )


def irn(folder, key, tags, maps):
    content = {"keys": torch.tensor(tags), "cam": maps[:, ::4, ::4], "high_res": maps.numpy()}
    np.save(folder / f"{key}.npy", content)


def seam(folder, key, tags, maps):
    np.save(folder / f"{key}.npy", dict(zip(tags, maps.numpy())))


def seam_crf(folder, key, tags, maps):
    whole = torch.cat((0.3 * torch.ones_like(maps[:1]), maps)).numpy()
    np.save(folder / f"{key}.npy", dict(zip([0, *(tag + 1 for tag in tags)], whole)))


def clip_es(folder, key, tags, maps):
    half = maps.numpy().astype(np.float16)
    np.save(folder / f"{key}.npy", {"keys": np.array(tags), "attn_highres": half})


def pot(folder, key, tags, maps):
    whole = torch.cat((0.3 * torch.ones_like(maps[:1]), maps))
    keys = np.array([0, *(tag + 1 for tag in tags)])
    np.save(folder / f"{key}.npy", {"keys": keys, "high_res": whole.numpy()})


def rsepm(folder, key, tags, maps):
    whole = torch.cat((0.3 * torch.ones_like(maps[:1]), maps))
    content = {"keys": np.array([0, *(tag + 1 for tag in tags)]), "seed": whole.numpy()}
    (folder / f"{key}.pkl").write_bytes(pickle.dumps(content))


WRITERS = {
    irn: "none",
    seam: "none",
    seam_crf: "first",
    clip_es: "none",
    pot: "first",
    rsepm: "first",
}


def write_cams(data, write):
    folder = data.root / write.__name__
    folder.mkdir()
    for key, tags, maps in cams_of(data):
        write(folder, key, tags, maps)
    return folder


def read(data, options, out):
    refine_folder(data.images, out=out, **options, run=QUIET)
    return {key: read_png(out / f"{key}.png") for key in data.scenes}


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__)
def test_masks_come_out_of_any_codebase(data, tmp_path, write):
    options = {**data.inputs, "cams": write_cams(data, write), "masks": None}
    report = refine_folder(data.images, out=tmp_path / "out", **options, run=QUIET)
    assert (report.done, report.failed) == (9, ())
    told = json.loads((tmp_path / "out" / "dhr_refine.json").read_text())
    assert told["cam_background"]["background"] == WRITERS[write]
    assert "of 9 files have the number 0" in told["cam_background"]["why"]
    for key, scene in data.scenes.items():
        labels = set(read_png(tmp_path / "out" / f"{key}.png").unique().tolist())
        assert labels <= {0, *(tag + 1 for tag in scene.tags)}, key
    found = check_folder(data.images, out=tmp_path / "other", **options, run=QUIET)
    assert (found.images, found.failed, found.warnings) == (9, (), [])
    assert found.exit_code == 0
    meaning = {"first": "it is the background", "none": "it is the first class"}[WRITERS[write]]
    assert meaning in repr(found)
    assert not (tmp_path / "other").exists()
    # Those of the same maps in another form are the same, but for half precision.
    if write is not clip_es:
        other = {**options, "cams": write_cams(data, irn)} if write is not irn else options
        masks = read(data, other, tmp_path / "again")
        for key, mask in masks.items():
            assert torch.equal(mask, read_png(tmp_path / "out" / f"{key}.png"))


def test_features_as_dhr_keeps_them(data, tmp_path):
    (data.root / "pt").mkdir()
    (data.root / "rounded").mkdir()
    for key, scene in data.scenes.items():
        torch.save(scene.uss.half(), data.root / "pt" / f"{key}.pt")
        np.save(data.root / "rounded" / f"{key}.npy", scene.uss.half().float().numpy())
    masks = [
        read(data, {**data.inputs, "uss": data.root / name}, tmp_path / f"from_{name}")
        for name in ("pt", "rounded")
    ]
    for key in data.scenes:
        assert torch.equal(masks[0][key], masks[1][key])


def test_tags_settle_what_number_0_means(data, tmp_path):
    tags = {key: scene.tags for key, scene in data.scenes.items()}
    options = {**data.inputs, "cams": write_cams(data, pot), "tags": tags, "run": QUIET}
    found = check_folder(data.images, out=tmp_path / "out", **options)
    assert "so the classes of 9 of 9 files fit the tags, so it is the background" in found.notes[0]
    # Tags of other images settle nothing, and the files speak for themselves.
    others = {key + "x": own for key, own in tags.items()}
    report = refine_folder(data.images, out=tmp_path / "out", **{**options, "tags": others})
    told = json.loads((tmp_path / "out" / "dhr_refine.json").read_text())
    assert told["cam_background"] == {"background": "first", "why": "all of 9 files have the number 0"}
    assert len(report.failed) == 9


def test_too_few_files_to_tell(data, tmp_path):
    folder = write_cams(data, pot)
    for number in range(4, 9):
        (folder / f"photo_{number:02d}.npy").unlink()
    with pytest.raises(RuntimeError, match="4 are too few to tell: pass --cam-background first or none"):
        refine_folder(data.images, out=tmp_path / "out", **{**data.inputs, "cams": folder}, run=QUIET)


def test_check_names_classes_beyond_those_of_the_data_set(data, tmp_path):
    folder = data.root / "shifted"
    folder.mkdir()
    for key, tags, maps in cams_of(data):
        irn(folder, key, [tag + 1 for tag in tags], maps)
    options = {**data.inputs, "cams": folder}
    found = check_folder(data.images, out=tmp_path / "out", **options, run=QUIET)
    assert found.exit_code == 3
    assert {one.key for one in found.failed} == {"photo_03", "photo_07"}
    assert "has a map of class 8, but the foreground classes are 0 to 7" in found.failed[0].message
    report = refine_folder(data.images, out=tmp_path / "out", **(options | {"masks": None}), run=QUIET)
    assert {one.key: one.stage for one in report.failed} == {"photo_03": "read", "photo_07": "read"}
    told = repr(found)
    assert "base masks have labels that are no tags of their image" in told


def test_check_names_masks_that_count_from_another_label(data, tmp_path):
    for key, scene in data.scenes.items():
        mask = torch.where((scene.mask > 0) & (scene.mask < 255), scene.mask - 1, scene.mask)
        Image.fromarray(mask.numpy().astype(np.uint8)).save(data.root / "masks" / f"{key}.png")
    found = check_folder(data.images, out=tmp_path / "out", **data.inputs, run=QUIET)
    assert any("base masks have labels that are no tags" in text for text in found.warnings)
    assert "image-tag pairs have no pixel in the base masks" in found.notes[-1]


def test_check_names_what_a_run_would_stumble_over(data, tmp_path):
    (data.root / "masks" / "photo_02.png").unlink()
    (data.root / "uss" / "photo_04.npy").write_bytes(b"damaged")
    refine_folder(data.images, out=tmp_path / "out", **data.inputs, run=QUIET)
    before = sorted(tmp_path.rglob("*"))
    found = check_folder(data.images, out=tmp_path / "out", **data.inputs, tau=0.5, run=QUIET)
    assert [(one.key, one.stage) for one in found.failed] == [("photo_02", "read"), ("photo_04", "read")]
    assert any("holds results of another run (tau was 0.8, now 0.5)" in text for text in found.warnings)
    assert "2 of 9 images would fail" in repr(found)
    assert "<li>" in found._repr_html_()
    assert sorted(tmp_path.rglob("*")) == before
