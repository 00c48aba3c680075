"""What is in a file of arrays: pickles and torch files of every age, damaged ones, ones that mean harm."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import re
import zipfile

import numpy as np
import pytest
import torch
from written import MAPS, check, save

from dhr_refine.files import calls_torch, read_cams


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_every_pickle_protocol(tmp_path, protocol):
    content = {
        "keys": torch.tensor([2, 5, 8]),
        "high_res": torch.from_numpy(MAPS),
        "more": [
            np.asfortranarray(MAPS),
            np.float16(1),
            np.array([b"name", b"other"]),
            b"\xff\x00",
            None,
            1.5,
        ],
    }
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    check(read_cams(path), MAPS, [2, 5, 8])
    path.write_bytes(pickle.dumps({"keys": [1, 2, 3], "cam": np.asfortranarray(MAPS)}, protocol=protocol))
    check(read_cams(path), MAPS, [1, 2, 3])


def test_pickles_of_the_other_numpy(tmp_path):
    data = pickle.dumps({"keys": np.array([3, 4, 5]), "cam": MAPS, "time": np.float32(1)}, protocol=2)
    path = tmp_path / "a.pkl"
    # NumPy 2 moved what NumPy 1 names in its pickles.
    for old, new in ((b"numpy._core", b"numpy.core"), (b"numpy.core", b"numpy._core")):
        path.write_bytes(data.replace(old, new))
        check(read_cams(path), MAPS, [3, 4, 5])


def test_torch_files_of_every_age(tmp_path):
    path = tmp_path / "a.pt"
    content = {"keys": torch.tensor([3, 4, 5]), "cam": torch.from_numpy(MAPS)}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    check(read_cams(path), MAPS, [3, 4, 5])
    if torch.torch_version.TorchVersion(torch.__version__) >= "2.6":
        torch.save({"keys": np.array([3, 4, 5]), "cam": MAPS}, path)
        check(read_cams(path), MAPS, [3, 4, 5])


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".pt", ".pkl"])
@pytest.mark.parametrize("kept", [0, 3, 30, -40])
def test_damaged_files(tmp_path, suffix, kept):
    path = save(tmp_path, f"a{suffix}", {"keys": [1, 2, 3], "cam": torch.from_numpy(MAPS)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} is damaged or no file of arrays"):
        read_cams(path)


class Harm:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def nest(content, where):
    """Hide an object in a CAM file at a place that pickles allow."""
    legacy = io.BytesIO()
    torch.save([content], legacy, _use_new_zipfile_serialization=False)

    class Storage:
        def __reduce__(self):
            return torch.storage._load_from_bytes, (legacy.getvalue(),)

    return {
        "value": {"keys": [1], "cam": MAPS[:1], "more": content},
        "array": np.array([content, None], dtype=object),
        "storage": {"keys": [1], "cam": Storage()},
    }[where]


@pytest.mark.parametrize("where", ["value", "array", "storage"])
@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.pt", "old.pt", "a.pkl"])
def test_harmful_pickles_do_not_run(tmp_path, name, where):
    target = tmp_path / "harmed"
    content = nest(Harm(target), where)
    if name == "old.pt":
        path = tmp_path / name
        torch.save(content, path, _use_new_zipfile_serialization=False)
    else:
        path = save(tmp_path, name, {"cam": content} if name == "a.npz" else content)
    with pytest.raises(ValueError, match=r"can run any code: .* pass allow_pickle=True") as caught:
        read_cams(path)
    assert str(path) in str(caught.value)
    assert not target.exists()
    # The file is one that would have done it.
    with contextlib.suppress(ValueError, TypeError):
        read_cams(path, allow_pickle=True)
    assert target.exists()


@pytest.mark.parametrize(
    "call",
    [
        b"cos\nsystem\n(S'true'\ntR.",
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cbuiltins\ngetattr\n(cnumpy\nndarray\nS'dump'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nfromfile\n.",
        b"cnumpy._core.numeric\nos\n.",
        b"ctorch\nload\n.",
        b"ctorch._utils\n_import_dotted_name\n.",
        b"ccollections\nnamedtuple\n.",
        b"ccodecs\nencode\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93.",
    ],
)
def test_names_beyond_the_list_are_refused(tmp_path, call):
    path = tmp_path / "a.pkl"
    path.write_bytes(call)
    with pytest.raises(ValueError, match="which read_cams does not load"):
        read_cams(path)


def test_a_pickle_cannot_change_what_it_names(tmp_path):
    # BUILD with a pair sets attributes: here the defaults of the function that rebuilds tensors.
    path = tmp_path / "a.pkl"
    path.write_bytes(b"ctorch._utils\n_rebuild_tensor_v2\n(N}S'__defaults__'\n(I1\ntstb.")
    with pytest.raises((ValueError, TypeError)):
        read_cams(path)
    assert calls_torch._tensor.__defaults__ is None
    assert torch._utils._rebuild_tensor_v2.__defaults__ == (None,)
    tensors = save(tmp_path, "b.pkl", {3: torch.from_numpy(MAPS[0])})
    check(read_cams(tensors), MAPS[:1], [3])


def test_a_storage_cannot_reach_beyond_its_bytes(tmp_path):
    data = pickle.dumps(torch.zeros(2, 2, 2), protocol=2)
    huge = data.replace(b"K\x02K\x02K\x02", b"K\x7fK\x7fK\x7f", 1)
    assert huge != data
    path = tmp_path / "a.pkl"
    path.write_bytes(huge)
    with pytest.raises(ValueError, match="is damaged or no file of arrays"):
        read_cams(path)


def test_allow_pickle_reads_other_objects(tmp_path):
    for name in ("a.npy", "a.pkl", "a.pt"):
        content = {"keys": [4], "cam": MAPS[:1], "from": Harmless("here")}
        path = save(tmp_path, name, content)
        with pytest.raises(ValueError, match="pass allow_pickle=True"):
            read_cams(path)
        check(read_cams(path, allow_pickle=True), MAPS[:1], [4])


class Harmless:
    """A class that only the project which wrote the file knows."""

    def __init__(self, name):
        self.name = name


def test_npz_with_files_that_are_no_arrays(tmp_path):
    path = tmp_path / "a.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ValueError, match="is damaged or no file of arrays"):
        read_cams(path)
