"""Arrays kept on disk: made once, made again when damaged or made of something else."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from dhr_refine.datasets.cache import Cache, digest
from dhr_refine.errors import UserError


@pytest.fixture
def make():
    """Makes another array at every call."""
    calls = []

    def made():
        calls.append(1)
        return {"one": np.full(3, len(calls)), "two": np.zeros((2, 0))}

    return made


def test_arrays_are_made_once_for_what_they_are_made_of(tmp_path, make):
    cache = Cache(tmp_path / "new")
    assert cache("kind", "a", ["x", 1], make)["one"].tolist() == [1, 1, 1]
    again = Cache(tmp_path / "new")("kind", "a", ["x", 1], make)
    assert (again["one"].tolist(), again["two"].shape) == ([1, 1, 1], (2, 0))
    for number, (kind, key, parts) in enumerate(
        (("other", "a", ["x", 1]), ("kind", "b", ["x", 1]), ("kind", "a", ["x", 2])), start=2
    ):
        assert cache(kind, key, parts, make)["one"][0] == number


@pytest.mark.parametrize("kept", [0, 10, 100])
def test_damaged_files_are_made_again(tmp_path, make, kept):
    cache = Cache(tmp_path)
    cache("kind", "a", [], make)
    (path,) = (tmp_path / "kind").iterdir()
    path.write_bytes(path.read_bytes()[:kept])
    assert cache("kind", "a", [], make)["one"][0] == 2
    assert cache("kind", "a", [], make)["one"][0] == 2


def test_a_folder_that_cannot_be_written(tmp_path, make):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot be written .*: name another folder with --cache"):
        Cache(tmp_path / "file")("kind", "a", [], make)


def test_digests_tell_values_shapes_types_and_where_parts_end():
    ones = torch.ones(2, 3)
    parts = [
        (ones,), (ones.T,), (ones.double(),), (2 * ones,), (ones, ones), (ones.int(),),
        ("ab",), ("a", "b"), (b"ab",), (b"a", b"b"), (None,), (), (1,), (1.0,),
    ]  # fmt: skip
    assert len({digest(*part) for part in parts}) == len(parts)
    assert digest(torch.arange(6).reshape(2, 3).T) == digest(torch.arange(6).reshape(2, 3).T.contiguous())


def test_arrays_that_do_not_fit_are_made_again(tmp_path, make):
    cache = Cache(tmp_path)
    cache("kind", "a", [], make)

    def fits(arrays):
        return arrays["one"][0] > 1

    assert cache("kind", "a", [], make, fits)["one"][0] == 2
    assert cache("kind", "a", [], make, fits)["one"][0] == 2


@pytest.mark.parametrize("content", [b"\x93NUMPY\x01\x00", b"PK\x03\x04", b"\x80\x04N."])
def test_files_of_other_kinds_are_made_again(tmp_path, make, content):
    cache = Cache(tmp_path)
    cache("kind", "a", [], make)
    (path,) = (tmp_path / "kind").iterdir()
    for damaged in (content, path.read_bytes()[:-1] + b"x", bytes(byte ^ 1 for byte in path.read_bytes())):
        path.write_bytes(damaged)
        before = cache("kind", "a", [], make)["one"][0]
        assert cache("kind", "a", [], make)["one"][0] == before
    np.save(path.with_suffix(".npy"), np.zeros(3))
    path.write_bytes(path.with_suffix(".npy").read_bytes())
    assert cache("kind", "a", [], make)["two"].shape == (2, 0)
