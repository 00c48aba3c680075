"""refine_folder, check_folder and the command line with segments of a folder."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from scene_folder import write_png
from small_sets import QUIET, made_base, read_png, refined, write_set

from dhr_refine.cli import main
from dhr_refine.errors import UsageError
from dhr_refine.folders import RunOptions, check_folder, refine_folder
from dhr_refine.sam import read_segments, segment_voting


@pytest.fixture
def data(tmp_path):
    """Five images, with segments in four forms."""
    data = write_set(tmp_path / "set", 5)
    folder = tmp_path / "segments"
    folder.mkdir()
    for number, (key, scene) in enumerate(data.scenes.items()):
        height, width = scene.mask.shape
        rows, columns = np.arange(height) // 9, np.arange(width) // 7
        labels = (rows[:, None] * 8 + columns + number) % 60
        stack = np.stack([labels == label for label in np.unique(labels)])
        if number == 0:
            np.savez(folder / f"{key}.npz", labels)
        elif number == 1:
            runs = {"size": [height, width], "counts": [height, 5 * height, (width - 6) * height]}
            (folder / f"{key}.json").write_text(json.dumps([{"segmentation": runs}]))
        elif number == 2:
            (folder / key).mkdir()
            for place, mask in enumerate(stack):
                write_png(folder / key / f"{place}.png", mask * 255)
        else:
            write_png(folder / f"{key}.png", labels)
    return data


def path_of(data, key):
    folder = data.root.parent / "segments"
    return next(path for path in folder.iterdir() if path.stem == key)


def options(data, **changes):
    boundary = f"sam:{data.root.parent / 'segments'}"
    return {**data.inputs, "boundary": boundary, "run": QUIET, **changes}


def test_masks_are_those_of_votes_after_the_crf(data, tmp_path):
    report = refine_folder(data.images, out=tmp_path / "out", **options(data))
    assert (report.done, report.failed) == (5, ())
    plain = 0
    for key in data.scenes:
        voting = segment_voting([path_of(data, key)])
        wanted = refined(data, key, boundary=voting)
        assert torch.equal(read_png(tmp_path / "out" / f"{key}.png"), wanted), key
        plain += torch.equal(wanted, refined(data, key, boundary="crf"))
    assert plain < 5
    told = json.loads((tmp_path / "out" / "dhr_refine.json").read_text())["arguments"]
    assert told["boundary"] == "crf"
    assert told["segments"].endswith("segments")


def test_base_masks_made_here_get_the_crf_alone(data, tmp_path):
    refine_folder(data.images, out=tmp_path / "out", **options(data, masks=None))
    for key in data.scenes:
        base = made_base(data, key, background=0.2, refine="crf")
        assert torch.equal(read_png(tmp_path / "out" / "base" / f"{key}.png"), base)
        wanted = refined(data, key, mask=base, boundary=segment_voting([path_of(data, key)]))
        assert torch.equal(read_png(tmp_path / "out" / f"{key}.png"), wanted)


def test_two_processes_and_probabilities(data, tmp_path):
    run = RunOptions(jobs=2, quiet=True)
    report = refine_folder(data.images, out=tmp_path / "out", **options(data, run=run, save_probs=True))
    assert (report.done, report.failed) == (5, ())
    key = next(iter(data.scenes))
    wanted = refined(data, key, boundary=segment_voting([path_of(data, key)]))
    assert torch.equal(read_png(tmp_path / "out" / f"{key}.png"), wanted)
    with np.load(tmp_path / "out" / "probs" / f"{key}.npz") as saved:
        assert np.allclose(saved["prob"].astype(float).sum(0), 1, atol=1e-2)


def test_missing_damaged_and_misfitting_segments_are_failures_of_their_image(data, tmp_path):
    keys = [*data.scenes]
    path_of(data, keys[0]).unlink()
    path_of(data, keys[1]).write_text("[{")
    write_png(path_of(data, keys[3]), np.ones((3, 3)))
    wanted = ["has no segments of image photo_00", "is no JSON", r"segments of (3, 3) but the image"]
    report = refine_folder(data.images, out=tmp_path / "out", **options(data))
    looked = check_folder(data.images, out=tmp_path / "none", **options(data))
    assert (report.done, report.exit_code, looked.exit_code) == (2, 3, 3)
    for failed in (report.failed, looked.failed):
        assert [one.key for one in failed] == [keys[0], keys[1], keys[3]]
        assert all(text in one.message for text, one in zip(wanted, failed, strict=True))


def test_the_command_line_takes_a_folder_of_segments(data, tmp_path, capsys):
    segments = data.root.parent / "segments"
    arguments = [str(data.images), "--cams", str(data.root / "cams"), "--masks", str(data.root / "masks")]
    arguments += ["--uss", str(data.root / "uss"), "--classes", "9", "--boundary", f"sam:{segments}"]
    assert main(["masks", *arguments, "--out", str(tmp_path / "out"), "--jobs", "1", "--quiet"]) == 0
    assert len([*(tmp_path / "out").glob("*.png")]) == 5
    assert main(["check", *arguments, "--jobs", "1", "--quiet"]) == 0
    shutil.rmtree(path_of(data, "photo_02"))
    assert main(["check", *arguments, "--jobs", "1", "--quiet"]) == 3
    assert "photo_02" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["masks", *arguments[:-1], "sams", "--out", str(tmp_path / "out")])
    assert "must be crf, par, pamr, none or sam:DIR, got 'sams'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("boundary", "text"),
    [
        ("sam:", "'sam:' names no folder: pass sam:DIR"),
        ("sam:/none/such", "is no folder: pass --boundary sam:DIR"),
        (segment_voting([np.ones((2, 2), bool)]), "boundary cannot be segment_voting.*pass 'sam:DIR'"),
    ],
)
def test_what_is_no_folder_of_segments_is_refused_before_the_work(data, tmp_path, boundary, text):
    with pytest.raises(UsageError, match=text):
        refine_folder(data.images, out=tmp_path / "out", **options(data, boundary=boundary))
    assert not (tmp_path / "out").exists()


def test_results_are_not_written_among_the_segments(data):
    with pytest.raises(UsageError, match=r"out .* would be written to the folder of segments"):
        refine_folder(data.images, out=data.root.parent / "segments", **options(data))


def test_segments_are_read_as_read_segments_does(data):
    sizes = {read_segments(path_of(data, key)).size for key in data.scenes}
    assert sizes == {tuple(scene.mask.shape) for scene in data.scenes.values()}
