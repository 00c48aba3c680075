"""``dhr-refine show``: which images it asks for, what it says, and its exit codes."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("PIL.Image", reason="needs Pillow")

from mask_folders import random_masks, write_masks
from page_reader import PageReader
from PIL import Image

from dhr_refine import cli, folders

CLASSES = 4


@pytest.fixture
def root(tmp_path):
    held = random_masks(5, classes=CLASSES, images=6)
    for name, masks in zip(("truth", "base", "masks"), held):
        write_masks(tmp_path / name, masks)
    (tmp_path / "images").mkdir()
    for key, mask in held[0].items():
        Image.new("RGB", mask.shape[::-1], (90, 120, 30)).save(tmp_path / "images" / f"{key}.jpg")
    return tmp_path


def line(root, *more):
    start = ["show", root / "images", root / "masks", "--out", root / "page.html", "--classes", CLASSES]
    return [str(part) for part in (*start, *more)]


def code_of(arguments):
    try:
        return cli.main(arguments)
    except SystemExit as error:  # argparse's own way
        return error.code


def test_it_writes_the_page_and_says_how_large_it_is(root, capsys):
    assert cli.main(line(root, "--base", root / "base", "--targets", root / "truth", "--worst", 3)) == 0
    told = capsys.readouterr()
    size = (root / "page.html").stat().st_size
    assert told.out == f"{root / 'page.html'}: 3 of 6 images, {size / 1e6:.1f} MB\n"
    assert told.err == ""
    page = PageReader((root / "page.html").read_text(encoding="utf-8"))
    assert len(page.cards) == 3
    assert "3 of 6 images, the worst by mean IoU." in page.texts


@pytest.mark.parametrize(
    ("more", "order", "count"),
    [
        ([], None, 24),
        (["--worst", "7", "--targets", "truth"], "worst", 7),
        (["--changed", "8", "--base", "base"], "changed", 8),
        (["--first", "9"], "listed", 9),
    ],
)
def test_options_reach_the_page(root, more, order, count, monkeypatch):
    asked = {}
    show = folders.show_folder

    def note(images, masks, out, **options):
        asked.update(options)
        return show(images, masks, out, **options)

    monkeypatch.setattr(folders, "show_folder", note)
    monkeypatch.chdir(root)
    (root / "list.txt").write_text("photo_03\nphoto_01\n")
    options = ["--background", "none", "--limit", "1", "--list", "list.txt", "--quiet"]
    assert cli.main(line(root, *more, *options)) == 0
    assert asked.pop("classes").names == ("0", "1", "2", "3")
    assert (asked.pop("order"), asked.pop("count")) == (order, count)
    for name in ("base", "targets"):
        assert (asked.pop(name) is not None) == (f"--{name}" in more)
    asked.pop("ids")
    assert asked == {"quiet": True, "ignore_index": 255, "limit": 1}
    assert PageReader((root / "page.html").read_text(encoding="utf-8")).titles == ["photo_03"]


def test_a_damaged_image_is_named_and_the_code_is_3(root, capsys):
    (root / "images" / "photo_02.jpg").write_bytes(b"none")
    assert cli.main(line(root, "--first", 4)) == 3
    told = capsys.readouterr()
    assert told.err.startswith("dhr-refine show: left out: photo_02 (images): ")
    assert told.err.count("\n") == 1
    assert "3 of 6 images, 1 left out, " in told.out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--worst", "3"], "--worst needs --targets: pass the folder"),
        (["--changed", "3"], "--changed needs --base: pass the folder"),
        (["--worst", "3", "--first", "3"], "not allowed with argument"),
        (["--first", "0"], "argument --first: must be a whole number from 1"),
        (["--first", "501"], "501 images are too many for a page: ask for 500 at most"),
        (["--classes", "255"], "--classes 255: there are colours for 254 labels alone"),
        (["--classes", "vox"], "--classes is 'vox'"),
        (["--out", "no/where/page.html"], "--out no/where/page.html is no place for a file"),
        (["--targets", "nowhere"], "nowhere cannot be read as a folder"),
    ],
)
def test_usage_errors_are_one_line_and_code_2(root, more, message, capsys):
    assert code_of(line(root, *more)) == 2
    told = capsys.readouterr()
    assert message in told.err
    assert told.err.count("\n") == 1
    assert not (root / "page.html").exists()


def test_nothing_that_matches_is_code_2(root, capsys):
    other = write_masks(root / "other", {"other": np.zeros((2, 2))})
    arguments = ["show", str(root / "images"), str(other), "--out", str(root / "page.html")]
    assert cli.main(arguments) == 2
    assert "no image to work on" in capsys.readouterr().err


def test_help_imports_nothing_heavy():
    code = (
        "import sys\nfrom dhr_refine import cli\n"
        "try:\n    cli.main(['show', '--help'])\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'numpy', 'PIL', 'rich'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-1] == "[]"
