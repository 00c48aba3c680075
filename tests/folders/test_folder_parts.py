"""A folder shared out in parts: together they are the whole, with one memory of all."""

from __future__ import annotations

import json
import threading

import pytest
import torch
from small_sets import command, files_of, memory_of, read_png, refined, write_set

from dhr_refine import ClassMemory, cli

AUTO = ("--memory", "auto", "--rounds", "0")


@pytest.fixture
def data(tmp_path):
    return write_set(tmp_path / "set", 9)


def test_parts_make_the_whole(data, tmp_path):
    out, whole = tmp_path / "out", tmp_path / "whole"
    assert cli.main(command(data, whole)) == 0
    for part, count in (("1/2", 5), ("2/2", 4)):
        assert cli.main(command(data, out, "--part", part)) == 0
        told = json.loads((out / f"dhr_refine-part-{part[0]}-of-2.json").read_text())
        assert (told["part"], told["counts"]["done"]) == (part, count)
    assert files_of(out) == files_of(whole)
    assert cli.main(command(data, out)) == 0  # nothing is left


def test_parts_wait_for_the_memory_of_all(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(command(data, out, *AUTO, "--part", "1/2")) == 3
    err = capsys.readouterr().err
    assert "the memory of this part is learned, but part-2-of-2 of 2 parts is not there yet" in err
    assert err.count("\n") == 1
    assert list(out.glob("*.png")) == []
    learned = (out / "memory" / "part-1-of-2.npz").read_bytes()
    assert cli.main(command(data, out, *AUTO, "--part", "2/2")) == 0
    whole = (out / "memory" / "all.npz").read_bytes()
    assert cli.main(command(data, out, *AUTO, "--part", "1/2")) == 0
    assert (out / "memory" / "part-1-of-2.npz").read_bytes() == learned
    assert (out / "memory" / "all.npz").read_bytes() == whole
    memory = ClassMemory.load(out / "memory" / "all.npz").solve()
    for key in data.scenes:
        assert torch.equal(read_png(out / f"{key}.png"), refined(data, key, memory=memory))
    # One pass is the same sums, whoever adds them up.
    found = ClassMemory.load(out / "memory" / "all.npz").state_dict()
    for name, value in memory_of(data, data.scenes, 0).state_dict().items():
        if isinstance(value, torch.Tensor):
            torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-6)
    assert (out / "memory" / "all.txt").read_text().split() == [
        *sorted(data.scenes)[::2],
        *sorted(data.scenes)[1::2],
    ]


def test_the_memory_of_all_does_not_depend_on_who_comes_first(data, tmp_path):
    merged = []
    for name, order in (("forth", ("1/3", "2/3", "3/3")), ("back", ("3/3", "2/3", "1/3"))):
        codes = [cli.main(command(data, tmp_path / name, *AUTO, "--part", part)) for part in order]
        assert codes == [3, 3, 0]
        merged.append((tmp_path / name / "memory" / "all.npz").read_bytes())
    assert merged[0] == merged[1]


def test_a_part_can_wait(data, tmp_path, capsys):
    out = tmp_path / "out"

    assert cli.main(command(data, out, *AUTO, "--part", "1/2")) == 3
    moved = out / "memory" / "part-1-of-2.npz"
    moved.rename(tmp_path / "aside.npz")
    later = threading.Timer(1.5, lambda: (tmp_path / "aside.npz").rename(moved))
    later.start()
    assert cli.main(command(data, out, *AUTO, "--part", "2/2", "--wait", "20")) == 0
    later.join()
    capsys.readouterr()


def test_a_damaged_memory_of_a_part_is_named(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(command(data, out, *AUTO, "--part", "1/2")) == 3
    (out / "memory" / "part-1-of-2.npz").write_bytes(b"damaged")
    capsys.readouterr()
    assert cli.main(command(data, out, *AUTO, "--part", "2/2")) == 1
    assert "part-1-of-2.npz cannot be read (" in capsys.readouterr().err


def test_a_memory_of_other_images_is_refused(data, tmp_path, capsys):
    out = tmp_path / "out"
    assert cli.main(command(data, out, *AUTO, "--ids", "photo_00,photo_01")) == 0
    assert cli.main(command(data, out, *AUTO)) == 2
    assert "is a memory of other images (photo_02 is not among them)" in capsys.readouterr().err
    assert cli.main(command(data, out, *AUTO, "--overwrite")) == 0
