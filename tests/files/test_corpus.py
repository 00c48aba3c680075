"""Every honest form reads back equal, whoever wrote it."""

from __future__ import annotations

import pickle
import zipfile

import numpy as np
import pytest
import torch
from corpus import boxed, files, old_content, old_files

from dhr_refine.files import load_arrays

FILES = files()
OLD = old_files()


def assert_equal(found, expected):
    """Same kind, dtype, shape and values, all the way down."""
    if isinstance(expected, torch.Tensor):
        assert type(found) is torch.Tensor
        assert (found.dtype, found.shape, found.device.type) == (expected.dtype, expected.shape, "cpu")
        assert not found.requires_grad
        assert torch.equal(found, expected.detach())
    elif isinstance(expected, np.ndarray):
        assert type(found) is np.ndarray
        assert found.dtype.newbyteorder("=") == expected.dtype.newbyteorder("=")
        assert found.shape == expected.shape
        assert found.flags.writeable
        if expected.dtype == object:
            for one, other in zip(found.ravel(), expected.ravel()):
                assert_equal(one, other)
        else:
            assert np.array_equal(found, expected)
    elif isinstance(expected, dict):
        assert type(found) is type(expected)
        assert list(found) == list(expected)
        for key in expected:
            assert_equal(found[key], expected[key])
    elif isinstance(expected, (list, tuple)):
        assert type(found) is type(expected)
        assert len(found) == len(expected)
        for one, other in zip(found, expected):
            assert_equal(one, other)
    else:
        assert type(found) is type(expected)
        assert found == expected


@pytest.mark.parametrize("name", FILES)
def test_honest_files_read_back_equal(tmp_path, name):
    content, data = FILES[name]
    path = tmp_path / "file"
    path.write_bytes(data)
    if name.startswith("savez"):
        content = {"content": boxed(content)}
    elif name.startswith("save"):
        content = boxed(content)
    assert_equal(load_arrays(path), content)


@pytest.mark.parametrize("name", OLD)
def test_files_of_numpy_1(tmp_path, name):
    path = tmp_path / "file"
    path.write_bytes(OLD[name])
    found, expected = load_arrays(path), old_content(2 if "Python 2" in name else 3)
    if name.endswith("array"):
        expected = expected["cam"]
    elif name.endswith("savez"):
        expected = {key: expected[key] for key in found}
        assert set(found) == {"keys", "cam", "objects"}
    elif name.endswith("save"):
        found = found.item()
    # Python 2 has dictionaries in no order.
    assert_equal({key: found[key] for key in expected} if isinstance(expected, dict) else found, expected)


def test_unpickled_arrays_have_the_byte_order_of_the_machine(tmp_path):
    # As NumPy gives them, which torch needs; a plain .npy file keeps its own.
    array = np.arange(3, dtype=">i4")
    (tmp_path / "a.pkl").write_bytes(pickle.dumps([array], 4))
    assert load_arrays(tmp_path / "a.pkl")[0].dtype == np.dtype("i4")
    np.save(tmp_path / "a.npy", array)
    assert load_arrays(tmp_path / "a.npy").dtype == array.dtype


def test_references_stay_shared(tmp_path):
    both = torch.arange(6.0)
    torch.save([both, both[2:], shared := [1], shared], tmp_path / "a.pt")
    whole, part, one, other = load_arrays(tmp_path / "a.pt")
    whole.zero_()
    assert not part.any()
    assert one is other


def test_a_state_dict(tmp_path):
    # Its OrderedDicts have attributes, which are left out.
    state = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm2d(3)).state_dict()
    for old in (False, True):
        torch.save(state, tmp_path / "a.pt", _use_new_zipfile_serialization=not old)
        assert_equal(dict(load_arrays(tmp_path / "a.pt")), dict(state))


def test_tensors_of_another_byte_order(tmp_path):
    values = torch.tensor([1.5, -2.0]), torch.tensor([1 + 2j]), torch.tensor([True])
    torch.save(values, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as archive:
        for name, data in members.items():
            swapped = np.frombuffer(data, np.uint8)
            if "/data/" in name and len(data) > 1:
                swapped = swapped.reshape(-1, 4)[:, ::-1]
            archive.writestr(name, b"big" if name.endswith("byteorder") else swapped.tobytes())
    assert_equal(load_arrays(tmp_path / "b.pt"), values)


def test_long_archives(tmp_path, monkeypatch):
    monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 0)
    arrays = {"a": np.arange(100), "b": np.ones((2, 3))}
    np.savez(tmp_path / "a.npz", **arrays)
    assert b"PK\6\6" in (tmp_path / "a.npz").read_bytes()
    assert_equal(load_arrays(tmp_path / "a.npz"), arrays)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("{'descr': '<f8', 'fortran_order': False, 'shape': (2L,), }", np.arange(2.0)),
        ('{"shape": (2,), "descr": "<f8", "fortran_order": False}', np.arange(2.0)),
        ("{ 'fortran_order' : False , 'shape' : ( 2 , ) , 'descr' : '<f8' }  \n", np.arange(2.0)),
        ("{'descr': '<f8', 'fortran_order': True, 'shape': (1, 2), }", np.array([[0.0, 1.0]])),
        ("{'descr': '<f8', 'fortran_order': True, 'shape': (), }", np.array(0.0)),
    ],
)
@pytest.mark.parametrize("version", [1, 2, 3])
def test_headers_of_other_writers(tmp_path, header, expected, version):
    size = len(header).to_bytes(2 if version == 1 else 4, "little")
    data = np.arange(2.0).tobytes()
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY" + bytes([version, 0]) + size + header.encode() + data)
    assert_equal(load_arrays(tmp_path / "a.npy"), expected)
