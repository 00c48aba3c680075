"""``dhr-refine eval``: what it prints and writes, and its exit codes."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("PIL.Image", reason="needs Pillow")
pytest.importorskip("rich", reason="needs rich")

from mask_folders import random_masks, write_masks

from dhr_refine import cli, folders

CLASSES = 5


@pytest.fixture
def root(tmp_path):
    for name, masks in zip(("truth", "base", "masks"), random_masks(3, classes=CLASSES, images=4)):
        write_masks(tmp_path / name, masks)
    return tmp_path


def line(root, *more):
    return ["eval", f"{root / 'masks'}", "--targets", f"{root / 'truth'}", *map(str, more)]


def test_it_prints_tables_and_rules(root, capsys):
    assert cli.main(line(root, "--classes", CLASSES, "--base", root / "base", "--draws", 20)) == 0
    told = capsys.readouterr()
    report = folders.evaluate_folder(
        root / "masks", root / "truth", base=root / "base", classes=CLASSES, draws=20
    )
    assert told.out.splitlines()[-1] == report.notes[-1]
    assert "Rules: 255 in the ground truth is left out" in told.out
    for table in report.tables:
        for row in table.rows:
            assert any(all(cell in one for cell in row) for one in told.out.splitlines()), row
    assert told.err == ""


def test_options_reach_the_scores(root, monkeypatch, capsys):
    asked = {}
    evaluate = folders.evaluate_folder

    def note(masks, targets, **options):
        asked.update(options)
        return evaluate(masks, targets, **options)

    monkeypatch.setattr(folders, "evaluate_folder", note)
    (root / "list.txt").write_text("photo_02\nphoto_00\n")
    options = "--classes 5 --background last --absent zero --limit 1 --draws 0 --ignore-index -1 --quiet"
    for folder in ("masks", "truth"):
        for path in (root / folder).iterdir():
            mask = np.full((4, 4), 3)
            path.unlink()
            np.save(path.with_suffix(".npy"), mask)
    assert cli.main(line(root, *options.split(), "--list", root / "list.txt")) == 0
    assert asked.pop("classes").names == ("0", "1", "2", "3", "background")
    assert asked == {
        "base": None,
        "absent": "zero",
        "draws": 0,
        "quiet": True,
        "ignore_index": -1,
        "ids": ["photo_02", "photo_00"],
        "limit": 1,
    }
    assert "1 image, 1 image-tag pairs, 5 labels." in capsys.readouterr().out


def test_json_has_everything_and_no_nan(root):
    path = root / "scores.json"
    assert cli.main(line(root, "--classes", 8, "--json", path, "--draws", 5)) == 0
    told = json.loads(path.read_text(), parse_constant=pytest.fail)
    report = folders.evaluate_folder(root / "masks", root / "truth", classes=8, draws=5)
    assert told["masks"]["miou"] == report.scores.miou
    assert told["masks"]["iou"][7] is None
    assert list(root.glob(".*part")) == []


def test_a_damaged_mask_is_named_and_the_code_is_3(root, capsys):
    (root / "masks" / "photo_01.png").write_bytes(b"no picture")
    path = root / "scores.json"
    assert cli.main(line(root, "--classes", CLASSES, "--draws", 0, "--json", path)) == 3
    out = capsys.readouterr().out
    assert "3 images, " in out
    assert "Left out: photo_01 (masks): " in out
    (failure,) = json.loads(path.read_text())["failures"]
    assert failure["id"] == "photo_01"
    assert failure["stage"] == "masks"
    assert "cannot be read as a picture" in failure["message"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--classes", "vox"], "--classes is 'vox': pass one of voc, coco"),
        (["--classes", "5", "--ignore-index", "2"], "--ignore-index 2 is a class: labels go from 0 to 4"),
        (["--limit", "0"], "argument --limit: must be a whole number from 1"),
        (["--draws", "-1"], "argument --draws: must be a whole number from 0"),
        (["--ids", " , "], "ids (--ids) must be ids with commas"),
        (["--ids", "a", "--list", "b"], "not allowed with argument"),
        (["--background", "middle"], "invalid choice: 'middle'"),
        (["--absent", "one"], "invalid choice: 'one'"),
        (["--json", "/"], "--json / is no place for a file: name a file in a folder that there is"),
        (["--json", "no/where/a.json"], "--json no/where/a.json is no place for a file"),
        (["--targets", "nowhere"], "nowhere cannot be read as a folder"),
        (["--base", "nowhere"], "nowhere cannot be read as a folder"),
    ],
)
def test_usage_errors_are_one_line_and_code_2(root, more, message, capsys):
    assert code_of(line(root, *more)) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.err.count("\n") == 1
    assert told.out == ""


def code_of(arguments):
    try:
        return cli.main(arguments)
    except SystemExit as error:  # argparse's own way
        return error.code


def test_nothing_that_matches_is_code_2(root, capsys):
    other = write_masks(root / "other", {"other": np.zeros((2, 2))})
    assert cli.main(["eval", str(other), "--targets", str(root / "truth")]) == 2
    assert "no image to work on" in capsys.readouterr().err


def test_a_list_that_cannot_be_read_is_an_error(root, capsys):
    assert cli.main(line(root, "--list", root / "nothing.txt")) == 1
    assert "nothing.txt cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["eval"])
def test_help_imports_nothing_heavy(verb):
    code = (
        "import sys\nfrom dhr_refine import cli\n"
        f"try:\n    cli.main(['{verb}', '--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'numpy', 'PIL', 'rich'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"
