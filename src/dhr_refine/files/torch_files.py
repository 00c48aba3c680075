"""The containers that torch.save writes: a zip archive, and before version 1.6 pickles followed by storages.

Both are read here, without torch.load, whose list of allowed names belongs to the whole process.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from .calls_torch import Storage, storage_type
from .limits import Budget, Damaged, Unreadable
from .resolve import Reader
from .unpickle import Pairs
from .zip_files import Archive

# What an old file starts with, as a pickled number, and the version behind it.
MAGIC = 0x1950A86A20F9469CFC6C
_VERSION = 1001


def is_torch_zip(archive: Archive) -> bool:
    """Whether a zip archive was written by torch."""
    return any(name.endswith("/data.pkl") or name == "data.pkl" for name in archive.members)


def read_zip(archive: Archive, reader: Reader) -> Any:
    """Graph of what torch.save put into a zip archive."""
    pickles = [name for name in archive.members if name.endswith("/data.pkl") or name == "data.pkl"]
    if len(pickles) != 1:
        raise Damaged("it has several data.pkl")
    prefix = pickles[0].removesuffix("data.pkl")
    if f"{prefix}constants.pkl" in archive.members:
        raise Unreadable("a TorchScript model", "save tensors by torch.save")
    order = (
        bytes(archive.read(f"{prefix}byteorder", check=False))
        if f"{prefix}byteorder" in archive.members
        else b""
    )
    if order not in (b"", b"little", b"big"):
        raise Damaged("its byte order is unknown")
    source = _Zipped(archive, prefix, order == b"big", reader.budget)
    # torch does not compare checksums, and can be told not to write any.
    node, _ = reader.parse(archive.read(pickles[0], check=False), source=source)
    return node


def read_legacy(data: bytes, reader: Reader, start: int) -> Any:
    """Graph of an old file, from behind its magic number."""
    version, start = reader.parse(data, start=start)
    system, start = reader.parse(data, start=start)
    if version != _VERSION or type(system) is not Pairs:
        raise Damaged("its torch version is unknown")
    if ("little_endian", False) in zip(system.items[::2], system.items[1::2]):
        raise Unreadable("tensors of a big-endian machine", "save it on a little-endian one")
    source = _Legacy(reader.budget)
    node, start = reader.parse(data, start=start, source=source)
    keys, start = reader.parse(data, start=start)
    source.lay_out(memoryview(data), keys, start)
    return node


class _Source:
    """Storages by key: each is counted once, and is of one dtype and size."""

    def __init__(self, budget: Budget):
        self.pids: list[Any] = []
        self._budget = budget
        self._found: dict[str, Storage] = {}

    def find(self, pid: Any) -> Storage:
        """The storage that a persistent id names."""
        key, dtype, typed, count = storage_type(pid)
        known = self._found.get(key)
        if known is None:
            self._budget.take(count * dtype.itemsize)
            known = self._found[key] = Storage(
                dtype, typed, count, self._locate(key, count * dtype.itemsize, dtype)
            )
        if (known.dtype, known.typed, known.count) != (dtype, typed, count):
            raise Damaged("a storage that is two things at once")
        return known

    def _locate(self, key: str, nbytes: int, dtype: torch.dtype) -> Callable[[], bytes | memoryview]:
        """What reads the bytes of a storage, if there are as many."""
        raise NotImplementedError


class _Zipped(_Source):
    """Storages that are members of a zip archive."""

    def __init__(self, archive: Archive, prefix: str, swapped: bool, budget: Budget):
        super().__init__(budget)
        self._archive = archive
        self._prefix = prefix
        self._swapped = swapped

    def _locate(self, key: str, nbytes: int, dtype: torch.dtype) -> Callable[[], bytes | memoryview]:
        name = f"{self._prefix}data/{key}"
        member = self._archive.members.get(name)
        if member is None or member.size != nbytes:
            raise Damaged("a storage is missing or of another size")

        def load() -> bytes | memoryview:
            content = self._archive.read(name, check=False)
            width = dtype.itemsize // (2 if dtype.is_complex else 1)
            return np.frombuffer(content, f"u{width}").byteswap().tobytes() if self._swapped else content

        return load


class _Legacy(_Source):
    """Storages behind the pickles of an old file."""

    def lay_out(self, data: memoryview, keys: Any, start: int) -> None:
        """Find where each storage begins; the pickle told their sizes."""
        sizes = {}
        for pid in self.pids:
            key, dtype, _, count = storage_type(pid)
            sizes[key] = (count, dtype.itemsize)
        if type(keys) is not list or not all(type(key) is str and key in sizes for key in keys):
            raise Damaged("the list of its storages is garbled")
        self._parts: dict[str, memoryview] = {}
        for key in keys:
            count, itemsize = sizes[key]
            end = start + 8 + count * itemsize
            if data[start : start + 8] != count.to_bytes(8, "little") or end > len(data):
                raise Damaged("a storage is missing or of another size")
            self._parts[key] = data[start + 8 : end]
            start = end

    def _locate(self, key: str, nbytes: int, dtype: torch.dtype) -> Callable[[], bytes | memoryview]:
        part = self._parts.get(key)
        if part is None or len(part) != nbytes:
            raise Damaged("a storage is missing or of another size")
        return lambda: part
