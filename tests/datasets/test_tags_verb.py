"""``dhr-refine tags``: what it writes and says, and its exit codes."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from scene_folder import write_png

from dhr_refine import cli
from dhr_refine.datasets.tags import read_tags


@pytest.fixture
def labels(tmp_path):
    rows = {"2007_000032": [1, 0, 1], "a": [0, 0, 0], "b": [0, 1, 0]}
    np.save(tmp_path / "cls_labels.npy", {key: np.array(row) for key, row in rows.items()})  # type: ignore[arg-type]
    return tmp_path / "cls_labels.npy"


def test_it_writes_a_table_and_says_what_it_read(labels, tmp_path, capsys):
    out = tmp_path / "tags.csv"
    assert cli.main(["tags", f"{labels}", "--out", f"{out}"]) == 0
    assert out.read_text() == "id,tags\n2007_000032,0 2\na,\nb,1\n"
    said = (
        "3 images with 0 to 2 tags each (1.00 on average, 3 classes), read as a dictionary of multi-hot rows"
    )
    assert capsys.readouterr().out == f"{said}: {out}\n"
    again = tmp_path / "again.csv"
    assert cli.main(["tags", f"{out}", "--out", f"{again}"]) == 0
    assert again.read_text() == out.read_text()
    assert "read as class numbers from 0" in capsys.readouterr().out


def test_options_reach_the_reader(tmp_path, capsys):
    pytest.importorskip("PIL.Image", reason="needs Pillow")
    out = tmp_path / "tags.csv"

    def table(*words):
        assert cli.main(["tags", *map(str, words), "--out", f"{out}"]) == 0
        return read_tags(out).table

    (tmp_path / "numbers.txt").write_text("a 1 2\nb 2\nc 2\n")
    (tmp_path / "list.txt").write_text("c\n")
    assert table(tmp_path / "numbers.txt", "--first", 1) == {"a": (0, 1), "b": (1,), "c": (1,)}
    assert table(tmp_path / "numbers.txt", "--classes", 3, "--list", tmp_path / "list.txt") == {"c": (1,)}
    assert "1 image with 1 tags each" in capsys.readouterr().out
    (tmp_path / "names.txt").write_text("a cat person\n")
    assert table(tmp_path / "names.txt", "--classes", "voc") == {"a": (7, 14)}
    (tmp_path / "masks").mkdir()
    write_png(tmp_path / "masks" / "m.png", np.array([[0, 1, 2, 9]]))
    last = ("--classes", 3, "--background", "last", "--ignore-index", 9)
    assert table(tmp_path / "masks", *last) == {"m": (0, 1)}
    assert table(tmp_path / "masks", "--background", "none") == {"m": (0, 1, 2, 9)}
    (tmp_path / "empty.csv").write_text("id,tags\n")
    assert table(tmp_path / "empty.csv") == {}
    counted = Counter({"a": np.array([1, 0])})
    np.save(tmp_path / "counter.npy", counted)  # type: ignore[arg-type]
    assert table(tmp_path / "counter.npy", "--allow-pickle") == {"a": (0,)}


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["none.npy", "--out", "t.csv"], 2, "none.npy"),
        (["cls_labels.npy", "--out", "t.csv", "--classes", "21"], 1, "but --classes 21 needs 20"),
        (["cls_labels.npy", "--out", "t.csv", "--classes", "pets"], 2, "--classes is 'pets': pass one of"),
        (["cls_labels.npy", "--out", "none/t.csv"], 2, "--out none/t.csv is no place for a file"),
        (["cls_labels.npy", "--out", "."], 2, "--out . is no place for a file"),
        (["cls_labels.npy", "--out", "t.csv", "--list", "list.txt"], 1, "no tags of 2 of the 3 images of --list"),  # noqa: E501
        (["counter.npy", "--out", "t.csv"], 1, "counter.npy cannot be read"),
        (["masks", "--out", "t.csv", "--background", "last"], 1, "last label: pass --classes N"),
    ],
)  # fmt: skip
def test_errors_are_one_line(labels, monkeypatch, capsys, words, code, said):
    monkeypatch.chdir(labels.parent)
    (labels.parent / "list.txt").write_text("y\nb\nz\n")
    (labels.parent / "masks").mkdir()
    (labels.parent / "masks" / "m.png").touch()
    np.save(labels.parent / "counter.npy", Counter({"a": np.array([1, 0])}))  # type: ignore[arg-type]
    assert cli.main(["tags", *words]) == code
    told = capsys.readouterr()
    assert told.err.startswith("dhr-refine: ")
    assert told.err.count("\n") == 1
    assert said in told.err
    assert not (labels.parent / "t.csv").exists()


def test_a_disk_that_takes_nothing(labels, monkeypatch, capsys):
    from dhr_refine.datasets import tags

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tags, "write_atomic", full)
    assert cli.main(["tags", f"{labels}", "--out", f"{labels.parent / 't.csv'}"]) == 1
    assert "t.csv cannot be written (No space left on device): make room" in capsys.readouterr().err


def test_help_imports_nothing_that_takes_long():
    code = (
        "import sys; from dhr_refine import cli\n"
        "try: cli.main(['tags', '--help'])\n"
        "except SystemExit: print(*{'torch', 'numpy'} & set(sys.modules), 'none')"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.splitlines()[-1].split() == ["none"]
    assert "SOURCE" in told.stdout


@pytest.mark.parametrize("classes", ["21", "81", "coco"])
def test_the_table_of_this_verb_is_read_as_numbers_whatever_the_classes(classes, tmp_path):
    table = tmp_path / "own.csv"
    table.write_text("id,tags\na,1 4\nb,5\nc,0 12\n")
    out = tmp_path / "again.csv"
    assert cli.main(["tags", str(table), "--out", str(out), "--classes", classes]) == 0
    assert out.read_text().splitlines()[1:] == ["a,1 4", "b,5", "c,0 12"]
