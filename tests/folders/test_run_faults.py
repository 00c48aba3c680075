"""What a run says of images that fail, of processes that die and of arguments that cannot be."""

from __future__ import annotations

import errno
import json
import pickle
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from ray_tasks import Copying
from small_sets import QUIET, command, files_of, read_png, refined, write_set

from dhr_refine import cli
from dhr_refine.datasets.items import read_list
from dhr_refine.errors import UsageError, UserError
from dhr_refine.folders import RunOptions, crf_folder, refine_folder
from dhr_refine.folders.runs import record
from dhr_refine.folders.runs.job import given_up
from dhr_refine.folders.runs.pool import Pool
from dhr_refine.folders.runs.worker import Worker
from dhr_refine.folders.work import outputs

TWO = RunOptions(jobs=2, quiet=True)


@pytest.fixture
def data(tmp_path):
    return write_set(tmp_path / "set", 9)


def record_of(out, name="dhr_refine.json"):
    return json.loads((out / name).read_text())


def damage(data):
    """One fault for each of five images; where each is noticed, and how it is told."""
    root = data.root
    (root / "cams" / "photo_00.npy").write_bytes(b"damaged")
    (root / "masks" / "photo_02.png").unlink()
    Image.fromarray(np.zeros((10, 10), np.uint8)).save(root / "masks" / "photo_04.png")
    (root / "images" / "photo_05.png").write_text("no image")
    (root / "wss0" / "photo_07.npy").unlink()
    return {
        "photo_00": "photo_00.npy cannot be read",
        "photo_02": "has no file of image photo_02",
        "photo_04": "is (10, 10) but the image (40, 48)",
        "photo_05": "photo_05.png",
        "photo_07": "wss0 has no file of image photo_07",
    }


def mend(data):
    write_set(data.root.parent / "mended", 9)
    for name in ("cams", "masks", "images", "wss0"):
        for path in (data.root.parent / "mended" / name).iterdir():
            (data.root / name / path.name).write_bytes(path.read_bytes())


@pytest.mark.parametrize("memory", [(), ("--memory", "auto", "--rounds", "0")], ids=["plain", "memory"])
def test_faults_are_listed_and_the_rest_is_done(data, tmp_path, capsys, memory):
    faults, out = damage(data), tmp_path / "out"
    assert cli.main(command(data, out, *memory)) == 3
    told = capsys.readouterr().out
    assert "4 done" in told
    assert "5 failed" in told
    found = {one["id"]: one for one in record_of(out)["failed"]}
    assert found.keys() == faults.keys()
    for key, words in faults.items():
        assert words in found[key]["message"], key
        assert found[key]["stage"] in (("read", "memory") if memory else ("read",))
        assert "\n" not in found[key]["message"]
    assert record_of(out)["status"] == "failures"
    assert record_of(out)["counts"] == {"done": 4, "skipped": 0, "failed": 5}
    listed = out / "dhr_refine-failed.txt"
    lines = listed.read_text().splitlines()
    assert [line.split("\t") for line in lines] == [
        [key, one["stage"], f"# {one['message']}"] for key, one in found.items()
    ]
    assert sorted(path.stem for path in out.glob("*.png")) == sorted(data.scenes.keys() - faults.keys())
    # Mended, they are what the list names.
    mend(data)
    assert cli.main(command(data, out, *memory, "--ids", str(listed))) == 0
    assert "5 done" in capsys.readouterr().out
    assert not listed.exists()
    assert sorted(path.stem for path in out.glob("*.png")) == sorted(data.scenes)
    assert cli.main(command(data, out, *memory)) == 0
    assert record_of(out)["counts"] == {"done": 0, "skipped": 9, "failed": 0}


def test_an_image_of_a_damaged_cam_is_mended_in_a_run_that_makes_base_masks_and_memory(data, tmp_path):
    options = {**data.inputs, "masks": None, "memory": "auto", "rounds": 0, "out": tmp_path / "out"}
    path = data.root / "cams" / "photo_03.npy"
    content = path.read_bytes()
    path.write_bytes(b"damaged")
    report = refine_folder(data.images, **options, run=QUIET)
    assert [(one.key, one.stage) for one in report.failed] == [("photo_03", "read")]
    path.write_bytes(content)
    report = refine_folder(data.images, **options, run=replace(QUIET, ids=report.failed_list))
    assert (report.done, report.failed) == (1, ())


@pytest.mark.parametrize(
    "key",
    ["my image", "a,b", "a;b", "a#b", "patch[1, 0]", "a (2)", "naïve", 'say_"x'],
)
def test_the_list_of_failures_names_any_image(tmp_path, key):
    (tmp_path / "images").mkdir()
    (tmp_path / "cams").mkdir()
    (tmp_path / "images" / f"{key}.png").write_text("no image")
    np.save(tmp_path / "cams" / f"{key}.npy", {1: np.ones((2, 2))})
    inputs = {"cams": tmp_path / "cams", "out": tmp_path / "out"}
    report = crf_folder(tmp_path / "images", **inputs, run=QUIET)
    assert [one.key for one in report.failed] == [key]
    assert read_list(report.failed_list) == [key]
    again = crf_folder(tmp_path / "images", **inputs, run=replace(QUIET, ids=report.failed_list))
    assert [one.message for one in again.failed] == [report.failed[0].message]


def test_a_name_that_is_no_text_is_told_with_its_bytes(tmp_path):
    for name in ("images", "cams"):
        (tmp_path / name).mkdir()
    (tmp_path / "images" / b"bad\xff.png".decode("utf-8", "surrogateescape")).write_text("no image")
    np.save(tmp_path / "cams" / b"bad\xff.npy".decode("utf-8", "surrogateescape"), {1: np.ones((2, 2))})
    report = crf_folder(tmp_path / "images", cams=tmp_path / "cams", out=tmp_path / "out", run=QUIET)
    assert len(report.failed) == 1
    assert record_of(tmp_path / "out")["failed"][0]["id"].startswith("bad")
    assert "dcff" in report.failed_list.read_text()


def outcomes(task, keys, jobs=2):
    chunks = [keys[start : start + 4] for start in range(0, len(keys), 4)]
    with Pool(partial(Worker, task), jobs, lambda key, why: [given_up(key, why)]) as pool:
        return {one.key: one for found in pool.run(chunks) for one in found}


KEYS = [f"image_{number:02d}" for number in range(20)]


@pytest.fixture
def tasks_at_hand(monkeypatch):
    """Processes find the tasks of these tests."""
    import os
    import sys

    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))


@pytest.mark.slow
@pytest.mark.usefixtures("tasks_at_hand")
class TestProcessesThatDie:
    def test_once_costs_no_image(self, tmp_path):
        found = outcomes(Copying(tmp_path, deadly_once=("image_03", "image_12")), KEYS)
        assert list(found) == KEYS
        assert {one.status for one in found.values()} <= {"done", "skipped"}
        assert [(tmp_path / key).read_text() for key in KEYS] == KEYS
        assert (tmp_path / "died-image_03").exists()

    def test_always_costs_that_image_alone(self, tmp_path):
        found = outcomes(Copying(tmp_path, deadly=("image_03", "image_19")), KEYS)
        assert sorted(found) == KEYS
        bad = {key: one for key, one in found.items() if one.status == "failed"}
        assert sorted(bad) == ["image_03", "image_19"]
        for one in bad.values():
            assert (one.stage, one.message) == (
                "process",
                "its process died twice, perhaps for want of memory",
            )
        assert [key for key in KEYS if not (tmp_path / key).exists()] == sorted(bad)

    def test_a_full_disk_ends_the_run(self, tmp_path):
        with pytest.raises(UserError, match=r"^nothing can be written any more .*No space left"):
            outcomes(Copying(tmp_path, full_at="image_05"), KEYS)

    def test_what_cannot_be_opened_is_told(self, tmp_path):
        with pytest.raises(UserError, match=r"^pip install something$"):
            outcomes(Copying(tmp_path, missing=UserError("pip install something")), KEYS)

    def test_a_memory_goes_without_the_image(self, tmp_path, monkeypatch):
        from dying_sources import DyingSources

        from dhr_refine.datasets.classes import class_set
        from dhr_refine.folders.runs.job import Tally
        from dhr_refine.folders.work.learn import learn

        data = write_set(tmp_path / "set", 17)
        places = {name: data.root / name for name in ("images", "cams", "masks", "uss")}
        sources = DyingSources(**places, classes=class_set(9), cam_background="none", deadly="photo_02")
        tally = Tally()
        found = learn(sources, list(data.scenes), TWO, tally, rounds=1)
        assert [(one.key, one.stage) for one in tally.failed] == [("photo_02", "process")]
        rest = [key for key in data.scenes if key != "photo_02"]
        wanted = learn(replace(sources, deadly=""), rest, QUIET, Tally(), rounds=1)
        for name, value in wanted.state_dict().items():
            if isinstance(value, torch.Tensor):
                torch.testing.assert_close(found.state_dict()[name], value, rtol=1e-6, atol=1e-6)


def full(path, data):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(outputs, "write_atomic", full)
    assert cli.main(command(data, tmp_path / "out")) == 1
    err = capsys.readouterr().err
    assert err.startswith("dhr-refine: nothing can be written any more")
    assert "No space left on device): make room" in err
    assert err.count("\n") == 1
    assert record_of(tmp_path / "out")["status"] == "stopped"
    monkeypatch.setattr(record, "write_atomic", full)
    assert cli.main(command(data, tmp_path / "other")) == 1
    assert "cannot be written (No space left on device)" in capsys.readouterr().err


def test_a_folder_that_is_read_only(data, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(record.os, "access", lambda path, mode: False)
    assert cli.main(command(data, tmp_path / "out")) == 1
    assert "out cannot be written (permission denied): make room or see to" in capsys.readouterr().err


def test_one_file_that_cannot_be_written_fails_its_image(data, tmp_path, monkeypatch):
    write = outputs.write_atomic

    def refuse(path, content):
        if path.stem == "photo_04":
            raise PermissionError(errno.EACCES, "Permission denied")
        write(path, content)

    monkeypatch.setattr(outputs, "write_atomic", refuse)
    report = refine_folder(data.images, out=tmp_path / "out", **data.inputs, run=QUIET)
    assert [(one.key, one.stage) for one in report.failed] == [("photo_04", "write")]
    assert report.done == 8


def test_a_run_whose_first_images_all_fail_stops(tmp_path, capsys):
    data = write_set(tmp_path / "set", 40)
    for path in (data.root / "wss1").iterdir():
        path.write_bytes(b"damaged")
    assert cli.main(command(data, tmp_path / "out")) == 1
    assert "the first 32 images failed, all of them; photo_00 (read): " in capsys.readouterr().err
    assert record_of(tmp_path / "out")["counts"]["failed"] == 32


def test_failures_of_a_step_do_not_stop_the_next(tmp_path):
    data = write_set(tmp_path / "set", 44)
    keys = list(data.scenes)
    for key in keys[4:40]:
        (data.root / "cams" / f"{key}.npy").write_bytes(b"damaged")
    (data.root / "wss0" / f"{keys[0]}.npy").write_bytes(b"damaged")
    options = {**data.inputs, "masks": None}
    report = refine_folder(data.images, out=tmp_path / "out", **options, run=QUIET)
    assert (report.done, len(report.failed)) == (7, 37)


def test_features_of_another_size_fail_alone(data, tmp_path):
    np.save(data.root / "uss" / "photo_08.npy", np.ones((5, 8, 11)))  # the first of the second list
    options = {**data.inputs, "memory": "auto", "rounds": 1}
    report = refine_folder(data.images, out=tmp_path / "out", **options, run=QUIET)
    assert [(one.key, one.stage) for one in report.failed] == [("photo_08", "memory")]
    assert report.done == 8


def test_results_of_other_arguments_are_kept_apart(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(command(data, out)) == 0
    before, told = files_of(out), record_of(out)
    assert cli.main(command(data, out, "--tau", "0.5")) == 2
    assert "holds results of another run (tau was 0.8, now 0.5)" in capsys.readouterr().err
    # Of some images alone it would be a mixture; what is there stays, and says of which arguments it is.
    assert cli.main(command(data, out, "--tau", "0.5", "--overwrite", "--ids", "photo_01")) == 2
    assert "has results of 8 other images (photo_00) that were made by other" in capsys.readouterr().err
    assert files_of(out) == before
    assert record_of(out)["arguments"] == told["arguments"]
    assert cli.main(command(data, out, "--tau", "0.5", "--ids", "photo_01")) == 2
    capsys.readouterr()
    assert cli.main(command(data, out, "--tau", "0.5", "--overwrite")) == 0
    assert record_of(out)["arguments"]["tau"] == 0.5
    for key in data.scenes:
        assert torch.equal(read_png(out / f"{key}.png"), refined(data, key, tau=0.5))


def test_records_of_parts_go_with_the_results_that_are_made_anew(data, tmp_path, capsys):
    out = tmp_path / "out"
    for part in ("1/2", "2/2"):
        assert cli.main(command(data, out, "--part", part)) == 0
    assert cli.main(command(data, out, "--tau", "0.5", "--overwrite")) == 0
    assert cli.main(command(data, out, "--tau", "0.5")) == 0
    assert "9 there before" in capsys.readouterr().out


def test_some_images_are_made_anew_by_the_memory_of_all(data, tmp_path):
    out, more = tmp_path / "out", ("--memory", "auto", "--rounds", "0")
    assert cli.main(command(data, out, *more)) == 0
    before = files_of(out)
    assert cli.main(command(data, out, *more, "--overwrite", "--ids", "photo_01")) == 0
    assert files_of(out) == before
    assert cli.main(command(data, out, *more, "--overwrite")) == 0
    assert files_of(out) == before
    # The list of images of other arguments is no reason to keep their memory.
    other = ("--memory", "auto", "--rounds", "1")
    for key in ("photo_00", "photo_02"):
        (out / f"{key}.png").unlink()
    rest = ",".join(sorted(data.scenes.keys() - {"photo_00", "photo_02"}))
    assert cli.main(command(data, out, *other, "--overwrite", "--ids", rest)) == 0
    assert len((out / "memory" / "all.txt").read_text().split()) == 7


def test_base_masks_that_a_run_is_given_are_never_removed(data, tmp_path):
    out = tmp_path / "out"
    options = {**data.inputs, "masks": None}
    refine_folder(data.images, out=out, **options, run=QUIET)
    base = {name: content for name, content in files_of(out).items() if name.startswith("base")}
    options["masks"] = out / "base"
    report = refine_folder(data.images, out=out, **options, run=replace(QUIET, overwrite=True))
    assert (report.done, report.failed) == (9, ())
    assert {name: content for name, content in files_of(out).items() if name.startswith("base")} == base


@pytest.mark.parametrize("name", ["images", "cams", "masks", "uss", "wss"])
@pytest.mark.parametrize("below", ["", "colour", "probs"])
def test_results_are_not_written_among_what_is_read(data, tmp_path, name, below):
    place = data.root / ("wss1" if name == "wss" else name)
    if below:
        (tmp_path / "out").mkdir()
    (tmp_path / "out" / below).symlink_to(place)
    with pytest.raises(UsageError, match=rf"would be written to the folder of {name}, .*: name another one"):
        refine_folder(data.images, out=tmp_path / "out", **data.inputs, run=QUIET)


def test_probabilities_are_not_written_among_those_that_are_read(data):
    with pytest.raises(UsageError, match="would be written to the folder of probs"):
        crf_folder(data.images, probs=data.root / "uss", out=data.root / "uss", run=QUIET)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--part", "3/2"], "part must be K/N with K from 1 to N, as 2/4, got '3/2'"),
        (["--part", "0/2"], "part must be K/N"),
        (["--part", "half"], "part must be K/N"),
        (["--part", "7/9", "--limit", "3"], "no image is left to work on"),
        (["--device", "cuda:77"], "device (--device) 'cuda:77' cannot be used"),
        (["--device", "fast"], "device (--device) 'fast' cannot be used"),
        (["--ignore-index", "3"], "--ignore-index 3 is a class: labels go from 0 to 8"),
        (["--ignore-index", "-1"], "must be from 0 to 255"),
        (["--ids", ","], "ids (--ids) must be ids with commas or a file of them"),
        (["--save-memory", "x.npz"], "keeps what memory='auto' learns"),
    ],
)
def test_arguments_that_cannot_be_are_code_2(data, tmp_path, capsys, more, message):
    assert cli.main(command(data, tmp_path / "out", *more)) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_features_come_from_one_place(data, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        cli.main(command(data, tmp_path / "out", "--uss-model", "facebook/dinov2-small"))
    assert stopped.value.code == 2
    assert "argument --uss-model: not allowed with argument --uss" in capsys.readouterr().err
    with pytest.raises(UsageError, match=r"USS features come from uss .* or uss_model .*: pass one"):
        refine_folder(data.images, out=tmp_path / "out", **data.inputs, uss_model="x")
    with pytest.raises(UsageError, match=r"WSS features come from wss .* or wss_model .*: pass one"):
        refine_folder(data.images, out=tmp_path / "out", **data.inputs, wss_model="x")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"tau": 2}, ValueError, r"tau must lie in \[-1.0, 1.0\]"),
        ({"reg": 0}, ValueError, "reg must be above 0"),
        ({"rounds": -1}, ValueError, "rounds must be at least 0"),
        ({"base_score": 2}, ValueError, r"base_score must lie in \[0.0, 1.0\]"),
        ({"base_score": "powder"}, ValueError, "base_score must be one of 'power'"),
        ({"alpha": 0}, ValueError, "alpha must be above 0"),
        ({"boundary": "crv"}, ValueError, "boundary must be .*got 'crv'"),
        ({"recipe": "mine"}, ValueError, "recipe must be one of 'default'"),
        ({"cam_background": "last"}, ValueError, "cam_background must be one of 'first', 'none'"),
        ({"background": "middle"}, ValueError, "background must be one of"),
        (
            {"tags": {"photo_00": [8]}},
            UsageError,
            "tag 8 for photo_00, but the foreground classes are 0 to 7",
        ),
        ({"run": RunOptions(ids=[1])}, TypeError, "ids must be a list of image ids"),
        ({"run": RunOptions(ids=["../x"])}, UserError, r"ids \(--ids\) has the image id '../x'"),
        ({"run": RunOptions(ids="../x")}, UserError, r"ids \(--ids\) has the image id '../x'"),
    ],
)
def test_arguments_that_no_image_could_be_refined_with(data, tmp_path, options, error, message):
    with pytest.raises(error, match=message):
        refine_folder(data.images, out=tmp_path / "out", **(data.inputs | options))
    assert not (tmp_path / "out").exists()


def test_run_options_that_cannot_be():
    with pytest.raises(UsageError, match="limit must be at least 1, got 0"):
        RunOptions(limit=0)
    with pytest.raises(UsageError, match="jobs must be at least 1, got 0"):
        RunOptions(jobs=0)
    with pytest.raises(ValueError, match="wait must lie in"):
        RunOptions(wait=float("nan"))


class Hostile:
    """Leaves a trace when it is unpickled."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return (open, (self.trace, "w"))


@pytest.mark.parametrize("name", ["cams", "uss", "wss0", "masks"])
@pytest.mark.parametrize("suffix", ["npy", "pkl", "pt"])
def test_files_execute_nothing(data, tmp_path, name, suffix):
    trace = tmp_path / "trace"
    for path in (data.root / name).glob("photo_03.*"):
        path.unlink()
    path = data.root / name / f"photo_03.{suffix}"
    if suffix == "npy":
        np.save(path, np.array(Hostile(trace), object), allow_pickle=True)
    elif suffix == "pt":
        torch.save(Hostile(trace), path)
    else:
        path.write_bytes(pickle.dumps(Hostile(trace)))
    options = {**data.inputs, "memory": "auto", "rounds": 0}
    report = refine_folder(data.images, out=tmp_path / "out", **options, run=QUIET)
    (failed,) = report.failed
    assert failed.key == "photo_03"
    assert f"photo_03.{suffix} cannot be read" in failed.message
    assert not trace.exists()
    assert report.done == 8


def test_a_record_that_is_damaged_is_named(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(command(data, out)) == 0
    for content in ("damaged", "[]", "{}", '{"arguments": 1}', "[" * 100000):
        (out / "dhr_refine.json").write_text(content)
        assert cli.main(command(data, out)) == 1
        err = capsys.readouterr().err
        assert "dhr_refine.json cannot be read (" in err
        assert "remove it" in err
