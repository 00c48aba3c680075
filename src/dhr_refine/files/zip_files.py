"""Zip archives as NumPy and torch write them, read member by member, no member beyond its stated size."""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from .limits import Budget, Damaged, Unreadable

_END = struct.Struct("<4sHHHHIIH")
_END_64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR_64 = struct.Struct("<4sIQI")
_ENTRY = struct.Struct("<4sHHHHHHIIIHHHHHII")
_HEAD = struct.Struct("<4sHHHHHIIIHH")
_STORED, _DEFLATED = 0, 8


class Member(NamedTuple):
    """One file of an archive, as its table of contents describes it."""

    name: str
    method: int
    encrypted: bool
    crc: int
    packed: int
    size: int
    start: int


class Archive:
    """A zip file in memory."""

    def __init__(self, data: bytes, budget: Budget):
        """Read the table of contents."""
        self._data = data
        self._view = memoryview(data)
        self._budget = budget
        try:
            self.members = self._list()
        except struct.error:
            raise Damaged("its zip archive is cut short or garbled") from None

    def _list(self) -> dict[str, Member]:
        at, end, count = self._find_table()
        self._budget.make(count)
        members: dict[str, Member] = {}
        for _ in range(count):
            (
                sign,
                _,
                _,
                flags,
                method,
                _,
                _,
                crc,
                packed,
                size,
                name_size,
                extra_size,
                note_size,
                _,
                _,
                _,
                start,
            ) = _ENTRY.unpack_from(self._data, at)
            if sign != b"PK\1\2":
                raise Damaged("the table of its zip archive is garbled")
            at += _ENTRY.size
            raw, extra = (
                self._data[at : at + name_size],
                self._data[at + name_size : at + name_size + extra_size],
            )
            at += name_size + extra_size + note_size
            size, packed, start = _long_sizes(extra, size, packed, start)
            name = raw.decode("utf-8" if flags & 0x800 else "cp437")
            if name in members:
                raise Damaged("its zip archive has two members of one name")
            members[name] = Member(name, method, bool(flags & 1), crc, packed, size, start)
        if at != end:
            raise Damaged("the table of its zip archive is garbled")
        if sum(member.packed for member in members.values()) > len(self._data):
            # Members that share bytes make a small file as large as they like.
            raise Damaged("members of its zip archive overlap")
        return members

    def _find_table(self) -> tuple[int, int, int]:
        """Where the table of contents begins and ends, and how many members it has."""
        data = self._data
        end = data.rfind(b"PK\5\6", max(0, len(data) - _END.size - 2**16))
        if end < 0:
            raise Damaged("the end of its zip archive is missing")
        _, _, _, _, count, size, at, _ = _END.unpack_from(data, end)
        if end >= _LOCATOR_64.size:
            sign, _, where, _ = _LOCATOR_64.unpack_from(data, end - _LOCATOR_64.size)
            if sign == b"PK\6\7":
                sign, _, _, _, _, _, _, count, size, at = _END_64.unpack_from(data, where)
                if sign != b"PK\6\6":
                    raise Damaged("the end of its zip archive is garbled")
        if count > len(data) // _ENTRY.size or at + size > end:
            raise Damaged("the end of its zip archive is garbled")
        return at, at + size, count

    def read(self, name: str, *, check: bool = True) -> bytes | memoryview:
        """Content of a member; its checksum is compared unless the writer may have left it out."""
        member = self.members[name]
        if member.encrypted:
            raise Unreadable("an encrypted archive", "save it without a password")
        if member.method not in (_STORED, _DEFLATED):
            raise Unreadable("an archive of a rare compression", "save it by numpy.savez_compressed")
        try:
            sign, *_, name_size, extra_size = _HEAD.unpack_from(self._data, member.start)
        except struct.error:
            raise Damaged("its zip archive is cut short or garbled") from None
        start = member.start + _HEAD.size + name_size + extra_size
        packed = self._view[start : start + member.packed]
        if sign != b"PK\3\4" or len(packed) != member.packed:
            raise Damaged("its zip archive is cut short or garbled")
        content = packed if member.method == _STORED else self._inflate(packed, member.size)
        if len(content) != member.size or (check and zlib.crc32(content) != member.crc):
            raise Damaged("a member of its zip archive is damaged")
        return content

    def _inflate(self, packed: memoryview, size: int) -> bytes:
        self._budget.take(size)
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        try:
            # One byte more than stated shows a member that is longer.
            return inflater.decompress(packed, size + 1)
        except zlib.error:
            raise Damaged("a member of its zip archive is damaged") from None


def _long_sizes(extra: bytes, size: int, packed: int, start: int) -> tuple[int, int, int]:
    """Sizes and start of a member; those that need more than 32 bits stand in an extra field."""
    values = [size, packed, start]
    at = 0
    while at + 4 <= len(extra) and 2**32 - 1 in values:
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            at += 4
            for index, value in enumerate(values):
                if value == 2**32 - 1:
                    (values[index],) = struct.unpack_from("<Q", extra, at)
                    at += 8
            break
        at += 4 + length
    return values[0], values[1], values[2]
