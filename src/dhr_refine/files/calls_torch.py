"""What torch's names mean in a pickle: storages and tensors that look into them, sizes, devices and dtypes.

A tensor is checked against the bytes of its storage before torch sees either; results are ordinary tensors of
the CPU without gradient. The bytes lie beside the pickle in torch's own files, and in a torch file of their
own within others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .calls_plain import bytes_of, plain_call
from .limits import TENSOR_WEIGHT, Budget, Damaged, Unreadable
from .resolve import ADVICE, NAMES, NotAValue, Plan, Reader, reads
from .unpickle import Call, Name, Persistent

_STORAGES = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128",
    "ComplexFloatStorage": "complex64",
    "UntypedStorage": "uint8",
}
# Also those that only some versions of torch have.
_DTYPES = (
    "float64 float32 float16 bfloat16 int64 int32 int16 int8 uint8 bool complex128 complex64 complex32 "
    "uint16 uint32 uint64 float8_e4m3fn float8_e5m2 float8_e4m3fnuz float8_e5m2fnuz float8_e8m0fnu"
)
_REBUILD = "torch._utils"
_TENSORS = [(_REBUILD, name) for name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3")]
_PARAMETERS = [(_REBUILD, "_rebuild_parameter"), (_REBUILD, "_rebuild_parameter_with_state")]
_OF_A_TYPE = ("torch._tensor", "_rebuild_from_type_v2")
_NESTED = ("torch.storage", "_load_from_bytes")
_DIMENSIONS = 64

for _name in _STORAGES:
    for _module in ("torch", "torch.cuda", "torch.storage"):
        NAMES[(_module, _name)] = NotAValue
for _name in _DTYPES.split():
    if hasattr(torch, _name):
        NAMES[("torch", _name)] = getattr(torch, _name)
for _key in (("torch", "Tensor"), ("torch.nn.parameter", "Parameter")):
    NAMES[_key] = NotAValue
for _key, _what, _fix in (
    ("_rebuild_sparse_tensor", "a sparse tensor", "save tensor.to_dense()"),
    ("_rebuild_qtensor", "a quantised tensor", "save tensor.dequantize()"),
    (
        "_rebuild_meta_tensor_no_storage",
        "a tensor without numbers, of the meta device",
        "save a tensor of the CPU",
    ),
    ("_rebuild_nested_tensor", "a nested tensor", "save a list of tensors"),
    ("_rebuild_wrapper_subclass", "a tensor of a special class", "save an ordinary tensor"),
    ("_rebuild_device_tensor_from_numpy", "a tensor of another device", "save tensor.cpu()"),
    ("_rebuild_device_tensor_from_cpu_tensor", "a tensor of another device", "save tensor.cpu()"),
):
    ADVICE[(_REBUILD, _key)] = (_what, _fix)
for _name in ("QInt8Storage", "QUInt8Storage", "QInt32Storage", "QUInt4x2Storage", "QUInt2x4Storage"):
    ADVICE[("torch", _name)] = ("a quantised tensor", "save tensor.dequantize()")
ADVICE[("torch.serialization", "_get_layout")] = ("a sparse tensor", "save tensor.to_dense()")


class Storage:
    """Bytes that tensors look into."""

    def __init__(self, dtype: torch.dtype, typed: bool, count: int, load: Callable[[], bytes | memoryview]):
        """Start with what is known of it, and what reads its bytes."""
        self.dtype = dtype
        self.typed = typed
        self.count = count
        self.nbytes = count * dtype.itemsize
        self._load = load
        self._bytes: Tensor | None = None

    def elements(self, dtype: torch.dtype) -> Tensor:
        """All elements; tensors of one storage share their memory, as they did when they were saved."""
        if not self.nbytes:
            return torch.empty(0, dtype=dtype, device="cpu")
        if self._bytes is None:
            self._bytes = torch.from_numpy(np.array(np.frombuffer(self._load(), np.uint8)))
        if dtype == torch.bool and self._bytes.max() > 1:
            raise Damaged("truth values other than 0 and 1")
        return self._bytes.view(dtype)


def storage_type(pid: Any) -> tuple[str, torch.dtype, bool, int]:
    """Key, dtype, whether it has one, and number of elements, from the persistent id of a storage."""
    if type(pid) is not tuple or not 5 <= len(pid) <= 6 or pid[0] != "storage":
        raise Damaged("a storage is garbled")
    if len(pid) == 6 and pid[5] is not None:
        raise Unreadable("a part of a storage, as early versions of torch wrote", "save it by a later torch")
    _, kind, key, _, count, *_ = pid
    if type(kind) is not Name or kind.key[1] not in _STORAGES or not kind.key[0].startswith("torch"):
        raise Damaged("a storage without dtype")
    if type(key) is int:
        key = str(key)
    if type(key) is not str or type(count) is not int or not 0 <= count < 2**62:
        raise Damaged("a storage is garbled")
    return key, getattr(torch, _STORAGES[kind.key[1]]), kind.key[1] != "UntypedStorage", count


def _find_storage(reader: Reader, node: Any) -> Storage:
    if type(node) is Call and node.key == _NESTED:
        node = reader.nested(node, bytes_of(plain_call(node, 1, 1)[0]))
    if type(node) is not Persistent:
        raise Damaged("a tensor without storage")
    return node.source.find(node.pid)


def _check_tensor(
    storage: Storage, dtype: torch.dtype, offset: Any, size: Any, stride: Any, budget: Budget
) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Raise unless a tensor lies within its storage."""
    size, stride = _ints(size), _ints(stride)
    if type(offset) is not int or len(size) != len(stride) or not 0 <= offset < 2**62:
        raise Damaged("a tensor is garbled")
    # An expanded tensor has more elements than its storage.
    budget.check_bytes(math.prod(max(extent, 1) for extent in size) * dtype.itemsize)
    last = (
        offset + sum((extent - 1) * step for extent, step in zip(size, stride))
        if 0 not in size
        else offset - 1
    )
    available = storage.nbytes // dtype.itemsize
    if storage.nbytes % dtype.itemsize or last >= available or offset > available:
        raise Damaged(f"a tensor of shape {size} that does not fit into its storage")
    # Steps along axes of one element mean nothing, and may be anything.
    stride = tuple(step if extent > 1 and 0 not in size else 1 for extent, step in zip(size, stride))
    return offset, size, stride


def _ints(node: Any) -> tuple[int, ...]:
    if type(node) is Call and node.key == ("torch", "Size"):
        return _ints(plain_call(node, 1, 1)[0])
    if not isinstance(node, (tuple, list)) or type(node) not in (tuple, list) or len(node) > _DIMENSIONS:
        raise Damaged("a tensor is garbled")
    if not all(type(extent) is int and 0 <= extent < 2**62 for extent in node):
        raise Damaged("a tensor is garbled")
    return tuple(node)


@reads(*_TENSORS)
def _tensor(reader: Reader, call: Call) -> Plan:
    typed = call.key[1] != "_rebuild_tensor_v3"
    args: Any = plain_call(call, 4, 7 if typed else 8)
    storage = _find_storage(reader, args[0])
    flags = {}
    if typed:
        dtype = storage.dtype
        extra = args[6:]
    else:
        named = NAMES.get(args[6].key) if len(args) > 6 and type(args[6]) is Name else None
        if not isinstance(named, torch.dtype):
            raise Damaged("a tensor without dtype")
        dtype, extra = named, args[7:]
    if storage.typed != typed:
        raise Damaged("a tensor whose storage is of another kind")
    if extra and extra[0] is not None:
        flags = _flags(extra[0])
    offset, size, stride = _check_tensor(storage, dtype, args[1], args[2], args[3], reader.budget)

    def build() -> Tensor:
        tensor = storage.elements(dtype).as_strided(size, stride, offset)
        # Views of complex tensors, made ordinary.
        tensor = tensor.conj_physical() if flags.get("conj") else tensor
        return -tensor if flags.get("neg") else tensor

    return Plan(build, TENSOR_WEIGHT, TENSOR_WEIGHT, math.prod(size) * dtype.itemsize)


def _flags(node: Any) -> dict[str, bool]:
    items = getattr(node, "items", None)
    if type(items) is not list or not all(type(item) in (str, bool) for item in items):
        raise Damaged("a tensor is garbled")
    return dict(zip(items[::2], items[1::2]))


@reads(*_PARAMETERS)
def _parameter(reader: Reader, call: Call) -> Plan:
    args = plain_call(call, 2, 4)
    if type(args[0]) is not Call or args[0].key not in (*_TENSORS, _OF_A_TYPE):
        raise Damaged("a parameter without tensor")
    return reader.plan(args[0])


@reads(_OF_A_TYPE)
def _tensor_of_type(reader: Reader, call: Call) -> Plan:
    # A tensor with attributes of its own, which are left out.
    function, kind, args, _ = plain_call(call, 4, 4)
    if type(function) is not Name or function.key not in _TENSORS or type(args) is not tuple:
        raise Damaged("a tensor is garbled")
    if type(kind) is not Name or kind.key not in (("torch", "Tensor"), ("torch.nn.parameter", "Parameter")):
        raise Damaged("a tensor of a special class")
    return _tensor(reader, Call(function.key, args))


@reads(_NESTED)
def _nested(reader: Reader, call: Call) -> Plan:
    plan = reader.nested_plan(call, bytes_of(plain_call(call, 1, 1)[0]))
    return plan if isinstance(plan, Plan) else Plan(lambda: plan)


@reads(("torch", "Size"))
def _size(reader: Reader, call: Call) -> Plan:
    size = _ints(call)
    return Plan(lambda: torch.Size(size))


@reads(("torch", "device"))
def _device(reader: Reader, call: Call) -> Plan:
    kind, *index = plain_call(call, 1, 2)
    if kind not in ("cpu", "cuda", "mps", "xpu", "meta") or not all(
        type(i) is int and 0 <= i < 128 for i in index
    ):
        raise Damaged("a device is garbled")
    return Plan(lambda: torch.device(kind, *index))
