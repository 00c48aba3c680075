"""examples/benchmark_quality.py: numbers that make no sense, damaged files, and a cache that holds other things."""

# ruff: noqa: E501  (tables of faults, one case a line)

from __future__ import annotations

import errno
import io
import os

import benchmark_quality
import numpy as np
import pytest
import torch
from quality_runs import arguments, run
from scene_folder import write_png

Image = pytest.importorskip("PIL.Image", reason="needs Pillow")
pytest.importorskip("rich", reason="needs rich")

ARGUMENTS = [
    *((option, value) for option in ("--classes", "--limit", "--draws", "--threads") for value in ("0", "-1", "nan", "1.5", "", "9" * 5000)),
    ("--classes", "1"),
    ("--min-classes", "-1"),
    *(("--background", value) for value in ("nan", "inf", "-0.1", "1.1", "x")),
    *(("--taus", value) for value in ("nan", "0.5,inf", "2", "", "0.5,,1")),
    *(("--miou-labels", value) for value in ("9", "-1", "1,1", "nan")),
    ("--ignore-index", "0"),
    ("--ignore-index", "x"),
    ("--json", "same"),
]  # fmt: skip


@pytest.mark.parametrize(("option", "value"), ARGUMENTS, ids=lambda text: text[:12])
def test_arguments_that_make_no_sense(tmp_path, capsys, option, value):
    more = ("--markdown", "same", f"{option}={value}")
    with pytest.raises(SystemExit) as exit_:
        benchmark_quality.main(arguments(tmp_path, *more))
    message = capsys.readouterr().err
    assert exit_.value.code == 2
    assert message.startswith("benchmark_quality: ")
    assert option in message
    assert message.count("\n") == 1
    assert len(message) < 400


def replace(path, content=b"no such thing"):
    path.write_bytes(content)


def folder_instead(path):
    path.unlink()
    path.mkdir()


def cut(path):
    path.write_bytes(path.read_bytes()[:-40])


def cams(folder, value, dtype=np.float32):
    np.save(folder / "cams" / "a.npy", np.full((8, 5, 6), value, dtype))


FAULTS = [
    ((), lambda f: replace(f / "images/a.png"), "images/a.png cannot be read as a picture .*: replace it"),
    ((), lambda f: cut(f / "images/a.png"), "images/a.png cannot be read"),
    ((), lambda f: replace(f / "targets/a.png"), "targets/a.png"),
    ((), lambda f: cut(f / "targets/a.png"), "truncated|targets"),
    ((), lambda f: cams(f, np.nan), r"cams/a.\* cannot be read \(it holds NaN or infinity\)|a.npy holds NaN"),
    ((), lambda f: cams(f, -np.inf), r"NaN or infinity"),
    ((), lambda f: cams(f, 1j, np.complex64), "a.npy|real numbers"),
    ((), lambda f: replace(f / "cams/a.npy"), "cams/a.npy cannot be read"),
    ((), lambda f: torch.save(torch.full((3, 4, 4), torch.nan), f / "uss/a.pt"), "NaN or infinity"),
    ((), lambda f: torch.save(torch.zeros(3, 0, 4), f / "uss/a.pt"), "real numbers|is needed"),
    ((), lambda f: torch.save({"name": "text"}, f / "uss/a.pt"), r"uss/a.* (cannot be read|holds)"),
    ((), lambda f: torch.save([], f / "uss/a.pt"), "real numbers|holds no array|cannot be read"),
    ((), lambda f: torch.save(torch.zeros(3, 4, 4, dtype=torch.complex64), f / "uss/a.pt"), "real|complex"),
    ((), lambda f: cut(f / "wss/a.npz"), "wss/a.npz cannot be read"),
    (("--list", "{}/list"), lambda f: replace(f / "list", b"\xff\xfe\x00"), "list (cannot be read|is no text).*: pass a"),
    (("--list", "{}/list"), lambda f: replace(f / "list", b"\n"), "no image is left"),
    (("--list", "{}/list"), lambda f: replace(f / "list", b""), "no image is left"),
    (("--list", "{}/list"), lambda f: replace(f / "list", b"a\n..\n"), "list has the image id '..': an id is the name of a file"),
    (("--list", "{}"), lambda f: None, "Is a directory|cannot be read"),
    (("--list", "{}/list"), lambda f: os.mkfifo(f / "list"), "list is a pipe, socket or device"),
    ((), lambda f: replace(f / "images/a.png", b""), "images/a.png cannot be read as a picture .*: replace it"),
    ((), lambda f: replace(f / "targets/a.png", b""), "targets/a.png cannot be read as a picture .*: replace it"),
    (("--list", "{}/list"), lambda f: folder_instead(f / "targets/a.png") or replace(f / "list", b"a\n"), "targets has no file of image a"),
    ((), lambda f: folder_instead(f / "images/a.png"), "images has no file of image a"),
    ((), lambda f: np.savez(f / "cams/a.npz") or (f / "cams/a.npy").unlink(), "a.npz has no CAM of the tags"),
    ((), lambda f: np.savez(f / "wss/a.npz"), "a.npz holds no array"),
    ((), lambda f: np.save(f / "cams/a.npy", np.array([None, {}])), "cams/a.npy"),
    ((), lambda f: np.save(f / "wss/a.npy", np.array([print])), "wss/a.npy cannot be read .*allow_pickle=True is --allow-pickle"),
    (("--tags", "{}/tags.npy"), lambda f: np.save(f / "tags.npy", {"a": [[1], [1, 2]]}), "tags.npy holds list, no array of numbers"),
    (("--tags", "{}/tags.npy"), lambda f: np.save(f / "tags.npy", {"a": np.full(8, np.nan)}), "tags.npy holds NaN"),
    (("--tags", "{}/tags.npy"), lambda f: os.mkfifo(f / "tags.npy"), "tags.npy is a pipe"),
    (("--masks", "{}/masks"), lambda f: np.save(f / "masks/a.npy", np.full((40, 48), 0.5)) or (f / "masks/a.png").unlink(), "masks/a.npy must hold an array"),
    (("--list", "{}/list"), lambda f: replace(f / "list", b"nowhere\n"), "has no file of image nowhere"),
    (("--tags", "{}/tags.npy"), lambda f: replace(f / "tags.npy"), "tags.npy"),
    (("--masks", "{}/masks"), lambda f: replace(f / "masks/a.png"), "masks/a.* cannot be read"),
    (("--ignore-index", "3"), lambda f: np.save(f / "tags.npy", {k: np.eye(8)[2] for k in "abcd"}), "a has the tag of --ignore-index 3"),
    (("--json", "{}"), lambda f: None, r"cannot be written \(it is a folder\).*--json"),
    (("--markdown", "{}/images/a.png/x"), lambda f: None, "images/a.png/x cannot be written .*--markdown"),
    (("--figures", "{}/images/a.png"), lambda f: None, "images/a.png cannot be written .*--figures"),
    (("--cache", "/proc/cache"), lambda f: None, "cannot be written .*--cache"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "prepare", "text"), FAULTS, ids=range(len(FAULTS)))
def test_faults_are_one_line_that_says_what_to_do(folder, capsys, more, prepare, text):
    prepare(folder)
    more = [part.format(folder) for part in more]
    if "--ignore-index" in more:
        more += ["--tags", folder / "tags.npy", "--allow-pickle"]
    assert benchmark_quality.main(arguments(folder, "--recipes", "paper", *more)) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert message.startswith("benchmark_quality: ")
    with pytest.raises(AssertionError, match=text):
        raise AssertionError(message)
    assert not list(folder.rglob("*.part"))


def test_a_cache_that_holds_other_things(folder):
    """Damaged files are made anew; no figure is made of them."""

    def rows():
        return repr(run(folder, "--recipes", "paper")["rows"])

    def other(change):
        with np.load(path) as file:
            np.savez(path, **{name: change(array) for name, array in file.items()})

    def flip(place):
        path.write_bytes(good[:place] + bytes([good[place] ^ 255]) + good[place + 1 :])

    before = rows()
    for kind in ("masks", "base"):
        (path,) = (folder / "cache" / kind).glob("b-*")
        good = path.read_bytes()
        damages = [
            lambda: other(lambda mask: mask[:4]),
            lambda: other(lambda mask: mask.astype(float)),
            lambda: other(lambda mask: np.full_like(mask, 77)),
            lambda path=path: np.savez(path, other=np.zeros((40, 48), np.uint8)),
            *(lambda place=place: flip(place) for place in (3, 45, 200, 260, len(good) // 2, len(good) - 9)),
        ]
        for damage in damages:
            damage()
            assert rows() == before
            with np.load(path) as file, np.load(io.BytesIO(good)) as first:
                assert all(np.array_equal(file[name], first[name]) for name in first.files)
            path.write_bytes(good)


def test_a_full_disk_and_ctrl_c(folder, capsys, monkeypatch):
    line = arguments(folder, "--recipes", "paper", "--json", folder / "q.json")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(benchmark_quality, "write_atomic", full)
        assert benchmark_quality.main(line) == 1
        assert "q.json cannot be written (No space left on device): make room" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(
            benchmark_quality, "summarise", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt())
        )
        assert benchmark_quality.main(line) == 130
        message = capsys.readouterr().err
        assert message == "benchmark_quality: stopped; the same command goes on from here\n"
    assert benchmark_quality.main(line) == 0
    assert (folder / "q.json").is_file()


def test_errors_of_the_program_keep_their_traceback(folder, monkeypatch):
    for error in (ValueError("shape"), RuntimeError("shape"), KeyError("name")):
        monkeypatch.setattr(
            benchmark_quality, "summarise", lambda *_, e=error, **__: (_ for _ in ()).throw(e)
        )
        with pytest.raises(type(error)):
            benchmark_quality.main(arguments(folder, "--recipes", "paper"))


def test_labels_that_are_no_tags_are_no_traceback(folder, capsys):
    """Base masks of other classes than the tags, and of nothing but 255."""
    write_png(folder / "masks" / "a.png", np.full((40, 48), 5))
    write_png(folder / "masks" / "b.png", np.full((40, 48), 255))
    code = benchmark_quality.main(arguments(folder, "--recipes", "paper", "--masks", folder / "masks"))
    message = capsys.readouterr().err
    assert code == 0 or (message.count("\n") == 1 and "image a: " in message)
