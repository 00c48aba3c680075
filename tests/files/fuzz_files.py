"""Files that were honest until somebody changed them: bytes, opcodes, numbers, pieces of one in another.

``python tests/files/fuzz_files.py 20000 1`` reads so many, from seed 1, in watched processes and prints
what became of them; the files of faults are kept.
"""

from __future__ import annotations

import io
import pickletools
import random
import shutil
import struct
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from corpus import files, old_files
from watched import Outcome, Watched

NUMBERS = [0, 1, 2, 127, 128, 255, 256, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, 2**32 - 1]
# Opcodes and phrases that mean something where they land.
PHRASES = [
    *(
        bytes([code])
        for code in b"(.0123FGIJKLMNPQRSTUVX]abcdeghijlopqrstu}\x80\x81\x82\x85\x86\x87\x88\x89\x8a\x8b"
    ),
    *(bytes([code]) for code in b"\x8c\x8d\x8e\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98"),
    b"r\xff\xff\xff\x7f0",
    b"\x8b\xff\xff\xff\x7f",
    b"\x8e" + b"\xff" * 8,
    b"\x96" + b"\x00" * 5 + b"\x01\x00\x00",
    b"]q\x00h\x00a",
    b"]22\x86" * 20,
    b")\x85" * 60,
    b"}(K\x01K\x02u",
    b"cnumpy\nndarray\n",
    b"cnumpy\ndtype\n",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy.core.multiarray\nscalar\n",
    b"cnumpy.core.numeric\n_frombuffer\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch.storage\n_load_from_bytes\n",
    b"ctorch\nTensor\n",
    b"ctorch\nSize\n",
    b"ccollections\nOrderedDict\n)R",
    b"cos\nsystem\nS'true'\n\x85R",
    b"cbuiltins\neval\nS'1'\n\x85R",
    b"cbuiltins\nbytearray\nJ\xff\xff\xff\x7f\x85R",
    b"X\x01\x00\x00\x00O",
    b"O8",
    b"|O",
    b"V8",
    b"M8",
]


class Fuzzed(NamedTuple):
    """One changed file."""

    number: int
    source: str
    how: str
    data: bytes


def mutants(seed: int, count: int) -> Iterator[Fuzzed]:
    """Changed files, every writer and form in turn; the same for a seed, in one process."""
    rng = random.Random(seed)
    honest = [(name, data) for name, (_, data) in files().items()] + list(old_files().items())
    rng.shuffle(honest)
    everything = [data for _, data in honest]
    for number in range(count):
        name, data = honest[number % len(honest)]
        if data[:2] == b"PK" and rng.random() < 0.8:
            how, data = _inside_zip(data, everything, rng)
        else:
            how, data = _change(data, everything, rng)
        yield Fuzzed(number, name, how, data)


def _change(data: bytes, others: list[bytes], rng: random.Random) -> tuple[str, bytes]:
    names = []
    for _ in range(rng.choice([1, 1, 1, 2, 3, 6])):
        change = rng.choice(CHANGES)
        names.append(change.__name__.strip("_"))
        data = change(data, others, rng) or data
    return " ".join(names), data


def _inside_zip(data: bytes, others: list[bytes], rng: random.Random) -> tuple[str, bytes]:
    """Change one member and write a sound archive around it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    chosen = rng.choice([name for name in members if name.endswith((".pkl", ".npy"))] * 3 + list(members))
    how, members[chosen] = _change(members[chosen], others, rng)
    if rng.random() < 0.1:
        members.pop(rng.choice(list(members)))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return f"{chosen}: {how}", file.getvalue()


# By bytes.


def _flip(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + bytes(byte ^ (1 << rng.randrange(8)) for byte in data[at : at + 1]) + data[at + 1 :]


def _overwrite(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    piece = rng.choice(PHRASES) if rng.random() < 0.5 else rng.randbytes(rng.randint(1, 8))
    return data[:at] + piece + data[at + len(piece) :]


def _insert(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + (rng.choice(PHRASES) if rng.random() < 0.5 else rng.randbytes(3)) + data[at:]


def _delete(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice([1, 2, 4, 50]) :]


def _double(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    at, size = rng.randrange(len(data) + 1), rng.choice([1, 4, 20, 100])
    return data[: at + size] + data[at:]


def _cut(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _grow(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Put a number of any size where one may stand."""
    number = rng.choice(NUMBERS)
    form = rng.choice(
        [form for form, most in (("B", 8), ("<H", 16), ("<I", 32), ("<Q", 64)) if number < 2**most]
    )
    piece = struct.pack(form, number)
    at = rng.randrange(len(data) + 1)
    return data[:at] + piece + data[at + len(piece) :]


# By opcodes.


def _opcodes(data: bytes) -> tuple[int, list[int]]:
    """Where a pickle begins, behind an .npy header, and where its opcodes do."""
    start = 10 + int.from_bytes(data[8:10], "little") if data[:6] == b"\x93NUMPY" else 0
    places = []
    try:
        for _, _, at in pickletools.genops(data[start:]):
            places.append(start + (at or 0))
            if len(places) > 3000:
                break
    except Exception:  # what was changed before may be no pickle any more
        pass
    return start, places


def _split(data: bytes, rng: random.Random) -> tuple[bytes, list[bytes], bytes]:
    start, places = _opcodes(data)
    if len(places) < 3:
        return data, [], b""
    parts = [data[a:b] for a, b in pairwise(places)]
    return data[:start], parts, data[places[-1] :]


def _swap_opcodes(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    head, parts, tail = _split(data, rng)
    if parts:
        a, b = rng.randrange(len(parts)), rng.randrange(len(parts))
        parts[a], parts[b] = parts[b], parts[a]
    return head + b"".join(parts) + tail


def _drop_opcode(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    head, parts, tail = _split(data, rng)
    if parts:
        del parts[rng.randrange(len(parts))]
    return head + b"".join(parts) + tail


def _double_opcodes(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    head, parts, tail = _split(data, rng)
    if parts:
        at, size, times = rng.randrange(len(parts)), rng.choice([1, 3, 10]), rng.choice([1, 2, 30])
        parts[at:at] = parts[at : at + size] * times
    return head + b"".join(parts) + tail


def _insert_phrase(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    head, parts, tail = _split(data, rng)
    parts.insert(rng.randrange(len(parts) + 1), rng.choice(PHRASES))
    return head + b"".join(parts) + tail


def _change_number(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """Another number for an opcode that pushes one: an extent, a stride, a count, an item size, a flag."""
    head, parts, tail = _split(data, rng)
    places = [at for at, part in enumerate(parts) if part[:1] in (b"K", b"M", b"J", b"\x88", b"\x89", b"N")]
    if places:
        number = rng.choice([*NUMBERS, -1, -(2**31)])
        new = rng.choice(
            [b"N", b"\x88", b"\x89", b")", b"J" + struct.pack("<i", max(min(number, 2**31 - 1), -(2**31)))]
        )
        size = 8 if -(2**40) < number < 2**40 else 9
        parts[rng.choice(places)] = rng.choice(
            [new, b"\x8a" + bytes([size]) + number.to_bytes(size, "little", signed=True)]
        )
    return head + b"".join(parts) + tail


def _change_name(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """One known name in place of another."""
    head, parts, tail = _split(data, rng)
    names = [at for at, part in enumerate(parts) if part[:1] == b"c"]
    known = [phrase for phrase in PHRASES if phrase[:1] == b"c" and phrase[-1:] == b"\n"]
    if names:
        parts[rng.choice(names)] = rng.choice(known)
    return head + b"".join(parts) + tail


def _splice(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """The head of one file and the tail of another, cut between opcodes where both are pickles."""
    other = rng.choice(others)
    places, others_places = _opcodes(data)[1], _opcodes(other)[1]
    at = rng.choice(places or [rng.randrange(len(data) + 1)])
    return data[:at] + other[rng.choice(others_places or [rng.randrange(len(other) + 1)]) :]


CHANGES = [
    _flip,
    _overwrite,
    _insert,
    _delete,
    _double,
    _cut,
    _grow,
    _swap_opcodes,
    _drop_opcode,
    _double_opcodes,
    _insert_phrase,
    _change_number,
    _change_number,
    _change_name,
    _splice,
]


class Report(NamedTuple):
    """What became of all files."""

    kinds: Counter[str]
    unforeseen: Counter[str]
    faults: list[tuple[Fuzzed, Outcome]]
    slowest: float
    peak: int


def fuzz(seed: int, count: int, folder: Path) -> Report:
    """Read changed files in watched processes; those with faults stay in the folder."""
    kinds: Counter[str] = Counter()
    unforeseen: Counter[str] = Counter()
    faults: list[tuple[Fuzzed, Outcome]] = []
    slowest, peak = 0.0, 0
    with Watched() as watched:
        for fuzzed in mutants(seed, count):
            path = folder / "file"
            path.write_bytes(fuzzed.data)
            outcome = watched.read(path)
            kinds[outcome.kind] += 1
            if outcome.kind == "refused" and not outcome.foreseen:
                unforeseen[outcome.text.replace(str(path), "")] += 1
            slowest, peak = max(slowest, outcome.seconds), max(peak, outcome.peak)
            if outcome.kind not in ("read", "refused"):
                faults.append((fuzzed, outcome))
                shutil.copy(path, folder / f"fault {seed} {fuzzed.number}")
    return Report(kinds, unforeseen, faults, slowest, peak)


if __name__ == "__main__":
    seed, count = int(sys.argv[2]) if len(sys.argv) > 2 else 0, int(sys.argv[1])
    folder = Path(tempfile.mkdtemp())
    begin = time.perf_counter()
    report = fuzz(seed, count, folder)
    print(f"{count} files, seed {seed}, {time.perf_counter() - begin:.0f} s: {dict(report.kinds)}")
    print(f"slowest {report.slowest:.2f} s, at most {report.peak / 2**20:.0f} MiB more than honest files")
    words = ", ".join(map(repr, report.unforeseen))
    print(f"{report.unforeseen.total()} refused by what NumPy, torch or Python say: {words[:2000]}")
    for fuzzed, outcome in report.faults[:20]:
        print(f"fault {seed} {fuzzed.number} ({fuzzed.source}; {fuzzed.how}): {outcome.kind}, {outcome.text}")
    print(f"files with faults: {folder}" if report.faults else "no faults")
    sys.exit(bool(report.faults))
