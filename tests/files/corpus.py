"""Honest files of every form by every writer: what must read back equal, and what the fuzzer mutates."""

from __future__ import annotations

import base64
import io
import json
import pickle
import zlib
from collections import Counter, OrderedDict
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

# Written by NumPy 1 on Python 2.7 and 3.8, with the content of ``old_content``.
OLD = Path(__file__).with_name("numpy_1.json")
RANDOM = np.random.default_rng(0)
SMALL = RANDOM.random((2, 3, 4)).astype(np.float32)
TENSOR = torch.from_numpy(SMALL.copy())


def arrays() -> dict[str, Any]:
    """NumPy arrays and scalars of every kind."""
    return {
        "cams": {"keys": np.array([3, 14]), "high_res": SMALL, "cam": SMALL[:, ::2, ::2]},
        "map per class": {0: SMALL[0], 7: SMALL[1].astype(np.float16), np.int64(9): SMALL[0]},
        "kinds": [
            np.array([True, False]),
            *(
                np.arange(3, dtype=code)
                for code in ("i1", "u1", "<i2", ">i4", "u4", "i8", ">u8", "f8", ">f4")
            ),
            np.arange(3, dtype=np.longdouble),
            np.array([1 + 2j], "c8"),
            np.array(["cat", "dög"]),
            np.array([b"cat", b"d"]),
        ],
        "forms": [
            np.array(1.5),
            np.asfortranarray(SMALL),
            SMALL.transpose(2, 0, 1),
            SMALL[:, 1:, ::-1],
            np.zeros((1, 1)),
        ],
        "objects": np.array([{"a": SMALL}, None, "text", [1, 2]], dtype=object),
        "grid of objects": np.asfortranarray(np.array([[1, "b"], [None, 2.5]], dtype=object)),
        "scalars": [
            np.float32(1.5),
            np.float16(2),
            np.int8(-3),
            np.bool_(True),
            np.str_("x"),
            np.bytes_(b"y"),
        ],
        "labels": {"2007_000032": np.array([0.0, 1.0]), "2007_000039": np.array([1.0, 0.0])},
    }


def plain() -> dict[str, Any]:
    """Values of Python alone."""
    return {
        "values": {
            "a": [1, -2, 300, 70_000, 2**40, -(2**70), 1.5, float("inf")],
            "b": (None, True, False, (), ((1, 2), "ü€😀\n\\")),
            "c": b"\x00\xff bytes",
            ("key", 1): "tuple",
            b"key": {},
            2.5: "float",
        },
        "sets": [{1, 2}, frozenset([3]), bytearray(b"abc"), 1 + 2j, Counter("aab")],
        "ordered": OrderedDict([("z", 1), ("a", OrderedDict())]),
        "shared": [shared := [1, 2], shared, (shared, shared)],
    }


def tensors() -> dict[str, Any]:
    """Torch tensors of every kind."""
    both = torch.arange(10.0)
    return {
        "cams": {"keys": torch.tensor([3, 14]), "cam": TENSOR, "high_res": SMALL},
        "kinds": [
            torch.tensor([True, False]),
            *(
                torch.arange(3).to(dtype)
                for dtype in (
                    torch.uint8,
                    torch.int8,
                    torch.int16,
                    torch.int32,
                    torch.int64,
                    torch.float16,
                    torch.bfloat16,
                    torch.float32,
                    torch.float64,
                    torch.complex64,
                )
            ),
        ],
        "forms": [
            torch.tensor(1.5),
            torch.zeros(0, 3),
            TENSOR.mT,
            TENSOR[1:, ::2],
            torch.ones(1).expand(3, 4),
            both[2:5],
            both[::3],
        ],
        "parameter": torch.nn.Parameter(TENSOR.clone()),
        "state": OrderedDict(weight=TENSOR[0], bias=torch.ones(3)),
        "size": [TENSOR.shape, torch.float16],
    }


def new_tensors() -> dict[str, Any]:
    """Tensors that only some versions of torch can write, and only to files of their own."""
    return {
        "unsigned": [torch.arange(3).to(torch.uint16)],
        "views": [torch.tensor([1 + 2j]).conj(), torch.tensor([1 + 2j]).conj().imag],
        "device": [torch.device("cuda", 1), torch.device("cpu")],
    }


def _pickle(protocol: int) -> Callable[[Any], bytes]:
    return lambda content: pickle.dumps(content, protocol)


def _numpy_1(content: Any) -> bytes:
    # NumPy 1 has another name for its core.
    return pickle.dumps(content, 2).replace(b"numpy._core", b"numpy.core")


def _save(content: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, boxed(content))
    return file.getvalue()


def boxed(content: Any) -> np.ndarray:
    """What NumPy makes of other values before it saves them."""
    if isinstance(content, np.ndarray):
        return content
    box = np.empty((), object)
    box[()] = content
    return box


def _savez(save: Callable[..., None]) -> Callable[[Any], bytes]:
    def write(content: Any) -> bytes:
        file = io.BytesIO()
        save(file, content=boxed(content))
        return file.getvalue()

    return write


def _torch(protocol: int, zipped: bool) -> Callable[[Any], bytes]:
    def write(content: Any) -> bytes:
        file = io.BytesIO()
        torch.save(content, file, pickle_protocol=protocol, _use_new_zipfile_serialization=zipped)
        return file.getvalue()

    return write


PICKLES = {f"pickle {protocol}": _pickle(protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)}
NUMPY = {"save": _save, "savez": _savez(np.savez), "savez_compressed": _savez(np.savez_compressed)}
TORCH = {"torch": _torch(2, True), "torch 4": _torch(4, True), "old torch": _torch(2, False)}


@cache
def files() -> dict[str, tuple[Any, bytes]]:
    """Content and bytes of each file, by writer and name."""
    found: dict[str, tuple[Any, bytes]] = {}

    def add(kind: str, contents: dict[str, Any], writers: dict[str, Callable[[Any], bytes]]) -> None:
        for writer, write in writers.items():
            for name, content in contents.items():
                found[f"{writer}, {kind} {name}"] = (content, write(content))

    add("arrays", arrays(), {**PICKLES, "numpy 1": _numpy_1, **NUMPY, **TORCH})
    add("plain", plain(), {**PICKLES, **NUMPY, **TORCH})
    add("tensors", tensors(), {**PICKLES, **NUMPY, **TORCH})
    add("new tensors", new_tensors(), TORCH)
    for kind, array in enumerate([*arrays()["kinds"], *arrays()["forms"]]):
        found[f"save, array {kind}"] = (array, _save(array))
    return found


def old_files() -> dict[str, bytes]:
    """Files of NumPy 1, by its version, writer and protocol."""
    listed = json.loads(OLD.read_text())
    return {
        f"{version}, {name}": zlib.decompress(base64.b64decode(data))
        for version, written in listed.items()
        for name, data in written.items()
    }


def old_content(python: int) -> dict[str, Any]:
    """What the files of ``old_files`` hold; strings of Python 2 are bytes that read back as text."""
    maps = np.arange(12, dtype="f4").reshape(2, 2, 3) / 8
    return {
        "keys": np.array([3, 14]),
        "cam": maps,
        "more": [
            np.asfortranarray(maps),
            np.float16(1.5),
            np.array([b"cat", b"dog"]) if python == 2 else np.array(["cat", "dog"]),
            np.array(["dög"]),
            np.array([1, 2], "i4"),
            np.array([True, False]),
            np.zeros((0, 3)),
            "ü",
            "\xff" if python == 2 else b"\xff",
            2**40,
            None,
            True,
            1.5,
        ],
        "objects": np.array([{"a": maps}, None], dtype=object),
    }
