"""The header of an .npy file, and the array behind it."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from .calls_numpy import check_extent, check_shape, dtype_of, plan_array
from .limits import Damaged, Unreadable
from .resolve import Reader

MAGIC = b"\x93NUMPY"
# As much as NumPy itself trusts.
_HEADER = 10_000
_FIELD = re.compile(
    r"""\s*['"](?P<name>descr|fortran_order|shape)['"]\s*:\s*
        (?: ['"](?P<text>[^'"]*)['"] | (?P<truth>True|False) | \((?P<shape>[\d\s,L]*)\) )\s*(?:,|$)""",
    re.VERBOSE,
)


def read_npy(data: bytes | memoryview, reader: Reader) -> Any:
    """Array of an .npy file; unlike numpy.load, objects are read as well, by the allow-list."""
    dtype, shape, fortran, start = _read_header(data)
    if not dtype.hasobject:
        size = check_extent(shape, dtype.itemsize, reader.budget) * dtype.itemsize
        # NumPy ignores what follows, too.
        return plan_array(data[start : start + size], dtype, shape, fortran, reader.budget).value()
    node, _ = reader.parse(data, start=start)
    content = reader.value(node)
    if not isinstance(content, np.ndarray):
        return content
    if check_extent(shape, 8, reader.budget) != content.size:
        raise Damaged(f"an array of shape {content.shape} where the header says {shape}")
    return content.reshape(shape)


def _read_header(data: bytes | memoryview) -> tuple[np.dtype[Any], tuple[int, ...], bool, int]:
    """Dtype, shape, order and where the data begin."""
    head = bytes(data[: _HEADER + 12])
    if head[:6] != MAGIC or len(head) < 12 or head[6] not in (1, 2, 3):
        raise Damaged("no .npy header")
    start = 10 if head[6] == 1 else 12
    size = int.from_bytes(head[8:start], "little")
    text = head[start : start + size]
    if size > _HEADER or len(text) != size:
        raise Damaged("its .npy header is cut short or too long")
    fields = _read_fields(text.decode("utf-8" if head[6] == 3 else "latin1"))
    if any(type(fields.get(name)) is not kind for name, kind in (("fortran_order", bool), ("shape", tuple))):
        raise Damaged("its .npy header is garbled")
    if type(fields.get("descr")) is not str:
        raise Unreadable("an array with fields", "save a dictionary of arrays")
    return dtype_of(fields["descr"]), check_shape(fields["shape"]), fields["fortran_order"], start + size


def _read_fields(text: str) -> dict[str, Any]:
    # A dictionary as Python writes it, which NumPy itself evaluates; those of Python 2 have long integers.
    text = text.strip()
    if text[:1] != "{" or text[-1:] != "}":
        raise Damaged("its .npy header is garbled")
    if re.search(r"""['"]descr['"]\s*:\s*[\[(]""", text):
        raise Unreadable("an array with fields", "save a dictionary of arrays")
    text, at = text[1:-1].strip(), 0
    fields: dict[str, Any] = {}
    while at < len(text):
        match = _FIELD.match(text, at)
        if match is None or match["name"] in fields:
            raise Damaged("its .npy header is garbled")
        if match["text"] is not None:
            fields[match["name"]] = match["text"]
        elif match["truth"] is not None:
            fields[match["name"]] = match["truth"] == "True"
        else:
            extents = [extent.strip().removesuffix("L") for extent in match["shape"].split(",")]
            extents = extents[:-1] if extents[-1] == "" else extents
            if not all(extent.isdecimal() and len(extent) < 20 for extent in extents):
                raise Damaged("its .npy header is garbled")
            fields[match["name"]] = tuple(int(extent) for extent in extents)
        at = match.end()
    return fields
