"""What NumPy's names mean in a pickle: dtypes, arrays and scalars, checked and then built from their bytes.

NumPy's own ``dtype``, ``_reconstruct`` and ``__setstate__`` believe what they are told, so none of them is
called: a dtype is made from one of the few kinds below, an array from bytes whose number fits its shape.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np

from .calls_plain import bytes_of, plain_call
from .limits import Budget, Damaged, Unreadable
from .resolve import CALLS, NAMES, NotAValue, Plan, Reader, reads
from .unpickle import Call, Name

_SIZES = {"b": (1,), "i": (1, 2, 4, 8), "u": (1, 2, 4, 8), "f": (2, 4, 8), "c": (8, 16)}
_LONGEST_DOUBLE = np.dtype(np.longdouble).itemsize
_DTYPE = ("numpy", "dtype")
# NumPy 1 has no more.
_DIMENSIONS = 32

NAMES[("numpy", "ndarray")] = NotAValue


@cache
def dtype_of(code: str) -> np.dtype[Any]:
    """A dtype from its code such as "<f4", if it is of numbers, truth values, text or objects."""
    match = re.fullmatch(r"([<>|=]?)([biufcSUO?])(\d{0,9})", code)
    if match is None:
        raise Unreadable(f"an array of dtype {code!r}", "save arrays of numbers, or a dictionary of arrays")
    order, kind, digits = match.groups()
    size = int(digits or (0 if kind in "SU" else 1))
    if kind == "O":
        return np.dtype(object)
    if kind == "?" and not digits:
        kind = "b"
    allowed = size > 0 if kind in "SU" else size in _SIZES.get(kind, ()) or _is_long(kind, size)
    if not allowed:
        raise Unreadable(f"an array of dtype {code!r}", "save arrays of numbers, or a dictionary of arrays")
    if order == "|" and kind != "S" and size > 1:
        raise Damaged(f"a dtype {code!r} without byte order")
    return np.dtype(f"{order.replace('|', '=')}{kind}{size}")


def _is_long(kind: str, size: int) -> bool:
    # Of this machine only: other machines have others of the same size.
    return _LONGEST_DOUBLE > 8 and size == {"f": 1, "c": 2}.get(kind, 0) * _LONGEST_DOUBLE


def check_shape(shape: Any) -> tuple[int, ...]:
    """Return a shape if it is one."""
    if type(shape) is not tuple or len(shape) > _DIMENSIONS:
        raise Damaged(f"an array of shape {shape if type(shape) is tuple else type(shape).__name__}")
    if not all(type(extent) is int and 0 <= extent < 2**62 for extent in shape):
        raise Damaged(f"an array of shape {shape}")
    return shape


def check_extent(shape: tuple[int, ...], itemsize: int, budget: Budget) -> int:
    """Number of elements, if an array of them has fewer bytes than the bound even where an axis is empty."""
    budget.check_bytes(math.prod(max(extent, 1) for extent in shape) * itemsize)
    return math.prod(shape)


def build_array(data: bytes | memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], fortran: bool) -> Any:
    """A new array from bytes whose number has been checked."""
    flat = np.frombuffer(data, dtype) if len(data) else np.empty(0, dtype)
    if dtype.kind == "b" and len(data) and np.frombuffer(data, np.uint8).max() > 1:
        raise Damaged("truth values other than 0 and 1")
    if dtype.kind == "U" and len(data):
        points = np.frombuffer(data, np.dtype("u4").newbyteorder(dtype.byteorder))
        if points.max() > 0x10FFFF:
            raise Damaged("text that is no Unicode")
    order = "F" if fortran else "C"
    return np.array(flat.reshape(shape, order=order), order=order)


def plan_array(
    data: bytes | memoryview, dtype: np.dtype[Any], shape: tuple[int, ...], fortran: bool, budget: Budget
) -> Plan:
    """Plan of an array of anything but objects."""
    count = check_extent(shape, dtype.itemsize, budget)
    if count * dtype.itemsize != len(data):
        raise Damaged(f"{len(data)} bytes for an array of shape {shape} and dtype {dtype.str}")
    return Plan(lambda: build_array(data, dtype, shape, fortran), nbytes=len(data))


def _plan_objects(reader: Reader, nodes: Any, shape: tuple[int, ...], fortran: bool) -> Plan:
    count = check_extent(shape, 8, reader.budget)
    if type(nodes) is not list or len(nodes) != count:
        raise Damaged(f"an array of objects, shape {shape}, without a list of as many")

    def build(values: Any) -> Any:
        array = np.fromiter(values, dtype=object, count=count).reshape(shape)
        return np.array(array, order="F") if fortran else array

    return reader.sequence(nodes, build)


def read_dtype(node: Any) -> np.dtype[Any]:
    """The dtype that a call of numpy.dtype stands for."""
    # The arrays of a file share the few calls that make their dtypes.
    if type(node) is Call and isinstance(node.checked, np.dtype):
        return node.checked
    dtype = _check_dtype(node)
    node.checked = dtype
    return dtype


def _check_dtype(node: Any) -> np.dtype[Any]:
    if type(node) is not Call or node.key != _DTYPE or node.items is not None:
        raise Damaged("an array without dtype")
    if not 1 <= len(node.args) <= 3 or type(node.args[0]) is not str:
        raise Damaged("a dtype is garbled")
    code, state = node.args[0], node.state
    if not re.fullmatch(r"[A-Za-z?]\d{0,9}", code):
        raise Damaged(f"a dtype {code!r}")
    if state is None:
        return dtype_of(code)
    if type(state) is not tuple or len(state) < 8:
        raise Damaged("a dtype is garbled")
    version, order, *composed, size, alignment, flags = state[:8]
    if len(state) > 8 or composed != [None, None, None]:
        raise Unreadable("an array with fields", "save a dictionary of arrays")
    if (
        version != 3
        or order not in ("<", ">", "|", "=")
        or not all(type(x) is int for x in (size, alignment, flags))
    ):
        raise Damaged("a dtype is garbled")
    dtype = dtype_of(order + code)
    if size not in (-1, dtype.itemsize):
        raise Damaged(f"a dtype {code!r} of {size} bytes")
    return dtype


CALLS[_DTYPE] = lambda reader, call: _plan_dtype(read_dtype(call))


def _plan_dtype(dtype: np.dtype[Any]) -> Plan:
    return Plan(lambda: dtype)


@reads(("numpy.core.multiarray", "_reconstruct"))
def _reconstruct(reader: Reader, call: Call) -> Plan:
    kind = call.args[0] if len(call.args) == 3 else None
    if type(kind) is not Name or kind.key != ("numpy", "ndarray") or call.items is not None:
        raise Damaged("an array is garbled")
    if type(call.state) is not tuple or len(call.state) != 5 or call.state[0] != 1:
        raise Damaged("an array without its numbers")
    _, shape, dtype, fortran, data = call.state
    shape, dtype = check_shape(shape), read_dtype(dtype)
    if type(fortran) not in (bool, int):
        raise Damaged("an array is garbled")
    if dtype.hasobject:
        return _plan_objects(reader, data, shape, bool(fortran))
    plan = plan_array(bytes_of(data), dtype, shape, bool(fortran), reader.budget)
    if dtype.isnative:
        return plan
    # As NumPy does when it unpickles.
    return Plan(lambda: plan.value().astype(dtype.newbyteorder("=")), nbytes=plan.nbytes)


@reads(("numpy.core.numeric", "_frombuffer"))
def _frombuffer(reader: Reader, call: Call) -> Plan:
    # Protocol 5.
    data, dtype, shape, order, *axes = plain_call(call, 4, 5)
    data, dtype, shape = bytes_of(data), read_dtype(dtype), check_shape(shape)
    if dtype.hasobject or order not in ("C", "F", "K"):
        raise Damaged("an array is garbled")
    plan = plan_array(data, dtype, shape, order == "F", reader.budget)
    if order != "K" or not axes or axes[0] is None:
        return plan
    if type(axes[0]) is not tuple or not _is_permutation(axes[0], len(shape)):
        raise Damaged("an array is garbled")
    return Plan(lambda: plan.value().transpose(axes[0]), nbytes=plan.nbytes)


def _is_permutation(axes: Sequence[Any], count: int) -> bool:
    return all(type(axis) is int for axis in axes) and sorted(axes) == list(range(count))


@reads(("numpy.core.multiarray", "scalar"))
def _scalar(reader: Reader, call: Call) -> Plan:
    if len(plain_call(call, 2, 2)) == 2:
        dtype, data = read_dtype(call.args[0]), bytes_of(call.args[1])
        if not dtype.hasobject and len(data) == dtype.itemsize:
            return Plan(lambda: build_array(data, dtype, (1,), False)[0], nbytes=len(data), is_key=True)
    raise Damaged("a number of NumPy is garbled")
