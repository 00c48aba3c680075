"""No file does more than be read or be refused, in little time and memory, by an error that names it."""

from __future__ import annotations

import os
import socket
import sys
import threading
import tracemalloc

import hostile
import numpy as np
import pytest
import torch
from written import MAPS, save

from dhr_refine.files import load_arrays, read_cams

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the watched process needs Linux")
watched_module = pytest.importorskip("watched")

FILES = {
    **{f"memory: {name}": (lambda data=data: data) for name, data in hostile.memory().items()},
    **{f"tensor: {name}": (lambda data=data: data) for name, data in hostile.tensors().items()},
    **{f"code: {name}": (lambda data=data: data) for name, data in hostile.runs().items()},
    **{f"bomb: {name}": make for name, make in hostile.bombs().items()},
    **{f"archive: {name}": make for name, make in hostile.archives().items()},
}


@pytest.fixture(scope="module")
def watched():
    with watched_module.Watched() as process:
        yield process


@pytest.mark.parametrize("name", FILES)
def test_hostile_files_are_refused(watched, tmp_path, name):
    path = tmp_path / "file"
    path.write_bytes(FILES[name]())
    # What is large may take its time.
    outcome = watched.read(path, seconds=watched_module.SECONDS + path.stat().st_size / 1e6)
    assert outcome.kind == "refused", outcome
    assert outcome.foreseen, outcome
    if name.startswith("code:") and name != "code: a call of what is no name" and "name " not in name:
        assert "pass allow_pickle=True" in outcome.text
    if name.startswith(("memory:", "archive:")):
        assert "allow_pickle" not in outcome.text


def test_the_watch_notices_each_fault(watched, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"cos\nsystem\n" + hostile.text("true") + b"\x85R.")
    outcome = watched.read(path, allow_pickle=True)
    assert (outcome.kind, outcome.text[:9]) == ("ran", "os.system") or "pickle.find_class" in outcome.text
    path.write_bytes(b"cos\nabort\n)R.")
    assert watched.read(path, allow_pickle=True).kind == "crash"
    path.write_bytes(b"cbuiltins\nsum\ncbuiltins\nrange\n" + hostile.number(10**12) + b"\x85R\x85R.")
    assert watched.read(path, allow_pickle=True).kind == "hang"
    path.write_bytes(b"cbuiltins\nbytearray\n" + hostile.number(2**40) + b"\x85R.")
    assert watched.read(path, allow_pickle=True).kind in ("memory", "ran")


def test_a_far_entry_of_the_memo_costs_nothing(watched, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"K\x05r\xff\xff\xff\x7f0j\xff\xff\xff\x7f.")
    assert watched.read(path).kind == "read"
    assert load_arrays(path) == 5


def test_a_member_is_not_inflated_beyond_its_size(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(FILES["archive: inflates beyond its size"]())
    tracemalloc.start()
    with pytest.raises(ValueError, match="a member of its zip archive is damaged"):
        load_arrays(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**22


def test_bounds_can_be_raised_and_lowered(tmp_path):
    path = save(tmp_path, "a.npy", MAPS)
    assert load_arrays(path, max_bytes=1000).nbytes == MAPS.nbytes
    with pytest.raises(ValueError, match=r"a.npy has 548 bytes, more than max_bytes=500: raise max_bytes"):
        load_arrays(path, max_bytes=500)
    with pytest.raises(ValueError, match="more than max_bytes=500"):
        read_cams(path, max_bytes=500)
    path.write_bytes(hostile.saved(torch.ones(1).expand(9000, 9000)))
    with pytest.raises(ValueError, match=r"a.npy needs 324000000 bytes, more than max_bytes="):
        load_arrays(path)
    assert load_arrays(path, max_bytes=2**29).shape == (9000, 9000)
    path.write_bytes(b"](" + b"K\x01" * 50 + b"e.")
    with pytest.raises(
        ValueError, match=r"a.npy holds very many values, more than max_items=57: raise max_items"
    ):
        load_arrays(path, max_items=57)
    assert load_arrays(path, max_items=58) == [1] * 50
    path.write_bytes(b"K\x01q\x00" + b"h\x000" * 1000 + b".")
    with pytest.raises(
        ValueError, match="takes very many steps to read, more than max_items=100: raise max_items"
    ):
        load_arrays(path, max_items=100)
    assert load_arrays(path, max_items=1000) == 1
    path.write_bytes(b"]" * 40 + b"a" * 39 + b".")
    with pytest.raises(ValueError, match="deeply nested containers, more than max_depth=32: raise max_depth"):
        load_arrays(path)
    assert str(load_arrays(path, max_depth=40)) == "[" * 40 + "]" * 40


def test_float32_maps_stay_below_the_bound_too(tmp_path):
    path = save(tmp_path, "a.npy", np.zeros((3, 50, 50), np.uint8))
    with pytest.raises(ValueError, match=r"a.npy needs more than max_bytes as float32"):
        read_cams(path, max_bytes=20_000)
    assert read_cams(path, max_bytes=30_000).cams.shape == (3, 50, 50)


@pytest.mark.parametrize("bound", ["max_bytes", "max_items", "max_depth"])
def test_bounds_are_checked(tmp_path, bound):
    with pytest.raises(ValueError, match=f"{bound} must be at least 1"):
        load_arrays(tmp_path / "a", **{bound: 0})
    with pytest.raises(TypeError, match=f"{bound} must be an int"):
        read_cams(tmp_path / "a", **{bound: 1.5})


def test_only_regular_files_are_opened(tmp_path):
    for reader in (load_arrays, read_cams):
        for trusted in (False, True):
            os.mkfifo(tmp_path / "pipe")
            with pytest.raises(ValueError, match=r"pipe is a pipe, socket or device: pass a regular file"):
                reader(tmp_path / "pipe", allow_pickle=trusted)
            os.remove(tmp_path / "pipe")
            with pytest.raises(ValueError, match=r"/dev/zero is a pipe, socket or device"):
                reader("/dev/zero", allow_pickle=trusted)
            with pytest.raises(IsADirectoryError, match=tmp_path.name):
                reader(tmp_path, allow_pickle=trusted)
            with pytest.raises(ValueError, match="is no path of a file"):
                reader("a\0b", allow_pickle=trusted)
    with socket.socket(socket.AF_UNIX) as listener:
        path = os.path.join(os.path.relpath(tmp_path), "socket")
        listener.bind(path)
        with pytest.raises(ValueError, match="is a pipe, socket or device"):
            load_arrays(path)


def test_a_name_of_several_lines_is_told_on_one(tmp_path):
    path = tmp_path / "a\nb\x1b"
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"a\\nb\\x1b is damaged") as caught:
        load_arrays(path)
    assert "\n" not in str(caught.value)


def test_eight_threads(tmp_path):
    paths = [
        save(tmp_path, f"{k}.pt", {"keys": torch.tensor([k]), "cam": torch.from_numpy(MAPS[:1] + k)})
        for k in range(8)
    ]
    bad = tmp_path / "bad.pt"
    bad.write_bytes(hostile.torch_file(hostile.name("os", "system")))
    allowed = (
        set(torch.serialization.get_safe_globals())
        if hasattr(torch.serialization, "get_safe_globals")
        else None
    )
    faults = []

    def work(k):
        for _ in range(250):
            try:
                cams, keys = read_cams(paths[k], background="none")
                if keys.tolist() != [k] or not torch.equal(cams, torch.from_numpy(MAPS[:1] + k)):
                    faults.append(k)
            except Exception as error:
                faults.append(error)
            try:
                load_arrays(bad)
                faults.append("bad.pt is read")
            except ValueError:
                pass

    threads = [threading.Thread(target=work, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    if allowed is not None:
        assert set(torch.serialization.get_safe_globals()) == allowed


@pytest.mark.parametrize("setting", ["float64", "meta"])
def test_nothing_depends_on_the_defaults_of_torch(tmp_path, setting):
    path = save(tmp_path, "a.pt", {"keys": torch.tensor([3]), "cam": torch.from_numpy(MAPS[:1])})
    empty = save(tmp_path, "b.pkl", {"cam": torch.zeros(0, 3, 3), "keys": []})
    before = torch.get_default_dtype()
    try:
        if setting == "float64":
            torch.set_default_dtype(torch.float64)
            results = read_cams(path), read_cams(empty)
        else:
            with torch.device("meta"):
                results = read_cams(path), read_cams(empty)
    finally:
        torch.set_default_dtype(before)
    for cams, keys in results:
        assert (cams.dtype, cams.device.type, keys.dtype, keys.device.type) == (
            torch.float32,
            "cpu",
            torch.int64,
            "cpu",
        )
    assert torch.equal(results[0].cams, torch.from_numpy(MAPS[:1]))


ONE = MAPS[:1]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (
            {"keys": np.array(3), "cam": ONE},
            "has keys a NumPy int64 array of shape .*: a list of class numbers",
        ),
        (
            {"keys": torch.tensor(3), "cam": ONE},
            "has keys a torch.int64 tensor of shape .*: a list of class numbers",
        ),
        ({"keys": 3, "cam": ONE}, "has keys int 3: a list of class numbers is needed, one per map"),
        ({"keys": None, "cam": ONE}, "has keys NoneType None: a list of class numbers"),
        ({"keys": "3", "cam": ONE}, "has keys str '3': a list of class numbers"),
        ({"keys": {3: 1}, "cam": ONE}, "has keys dict .*: a list of class numbers"),
        ({"keys": [2**70], "cam": ONE}, r"has keys \[1180591620717411303424\]: class numbers are needed"),
        (
            {"keys": np.array([2**63], np.uint64), "cam": ONE},
            r"has keys \[9223372036854775808\]: class numbers",
        ),
        ({"keys": [3.0], "cam": ONE}, r"has keys \[3.0\]: class numbers are needed"),
        ({"keys": ["3"], "cam": ONE}, r"has keys \['3'\]: class numbers are needed"),
        ({"keys": [True], "cam": ONE}, r"has keys \[True\]: class numbers are needed"),
        ({"keys": np.array([[3]]), "cam": ONE}, "a list of class numbers is needed"),
        ({"keys": torch.arange(99_999), "cam": ONE}, r"99999 keys \[0, 1, 2, 3, 4, 5, ...\] but 1 maps"),
        ({"keys": torch.arange(10**6), "cam": ONE}, "has keys a torch.int64 tensor"),
        (
            {f"key {k}": ONE for k in range(50_000)},
            r"has the entries \[.*\.\.\.\]: pass one of them as entry",
        ),
        ({"x" * 10**6: ONE, "b": ONE}, r"has the entries \[.*\]: pass one of them"),
        ({"3": MAPS[0], "5": MAPS[1]}, "has the key '3': save class numbers as integers, alone"),
        ({3.0: MAPS[0], 5.0: MAPS[1]}, "has the key 3.0: save class numbers as integers, alone"),
        ({3: MAPS[0], "5": MAPS[1]}, "has the key 3: save class numbers as integers, alone"),
        ({3: MAPS[0], "cam": MAPS[1]}, "has the key 3: save class numbers as integers, alone"),
        ({"3": MAPS[0], "cam": MAPS[1]}, "has the key '3': save class numbers as integers, alone"),
        ({" +3.0 ": MAPS[0]}, "save class numbers as integers, alone"),
        ({b"3": MAPS[0]}, "save class numbers as integers, alone"),
        ({np.float32(3): MAPS[0]}, "save class numbers as integers, alone"),
        ({None: MAPS[0]}, "has the key None: save class numbers as integers"),
        ({2**63 - 1: MAPS[0], -1: MAPS[1]}, "each class once, numbered from 0"),
        ([MAPS[0]] * 100_001, "holds 100001 maps: one per class is needed"),
        (np.full((1, 2, 2), 1e300), "holds NaN or infinity"),
        (np.full((1, 2, 2), 1e300, np.longdouble), "holds NaN or infinity"),
    ],
)
def test_odd_keys_and_maps_are_told_on_one_line(tmp_path, content, text):
    path = save(tmp_path, "a.pkl", content)
    with pytest.raises(ValueError, match=text) as caught:
        read_cams(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message.replace(str(path), "")) < 400


def test_an_entry_by_name_may_lie_beside_numbers(tmp_path):
    path = save(tmp_path, "a.pkl", {"3": MAPS[:1], "cam": MAPS, "keys": [1, 2, 3]})
    assert read_cams(path).keys.tolist() == [1, 2, 3]
    path = save(tmp_path, "a.pkl", {"3": MAPS[:1], "cam": MAPS})
    assert read_cams(path, entry="cam").keys.tolist() == [0, 1, 2]
