"""Files that were made to do harm: to run code, to reach beyond their bytes, to hang, to fill the memory."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

# What a pickle is made of.


def name(module: str, function: str) -> bytes:
    return f"c{module}\n{function}\n".encode()


def text(value: str) -> bytes:
    data = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def data(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def put(value: Any) -> bytes:
    """A value as a pickle writes it; bytes are taken for opcodes."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, tuple):
        return b"(" + b"".join(map(put, value)) + b"t"
    if isinstance(value, list):
        return b"](" + b"".join(map(put, value)) + b"e"
    if isinstance(value, dict):
        return b"}(" + b"".join(put(key) + put(held) for key, held in value.items()) + b"u"
    if value is None or isinstance(value, bool):
        return {None: b"N", True: b"\x88", False: b"\x89"}[value]
    return text(value) if isinstance(value, str) else number(value)


def call(function: bytes, *args: Any, state: Any = None, new: bool = False) -> bytes:
    return function + put(args) + (b"\x81" if new else b"R") + (b"" if state is None else put(state) + b"b")


def pickled(value: Any) -> bytes:
    return b"\x80\x03" + put(value) + b"."


NDARRAY, DTYPE = name("numpy", "ndarray"), name("numpy", "dtype")
RECONSTRUCT, SCALAR = name("numpy.core.multiarray", "_reconstruct"), name("numpy.core.multiarray", "scalar")
FROMBUFFER = name("numpy.core.numeric", "_frombuffer")
TENSOR, STORAGE = name("torch._utils", "_rebuild_tensor_v2"), name("torch", "FloatStorage")
ADDRESS = b"A" * 8


def dtype(
    code: str, order: str = "<", size: int = -1, flags: int = 0, fields: Any = (None, None, None)
) -> bytes:
    return call(DTYPE, code, False, True, state=(3, order, *fields, size, -1, flags))


# An object dtype whose flags say that it is none.
OBJECTS = dtype("O", "|")


def array(shape: Any, kind: bytes, content: Any, fortran: Any = False, version: Any = 1) -> bytes:
    blank = call(RECONSTRUCT, NDARRAY, (0,), data(b"b"))
    return blank + put((version, shape, kind, fortran, content)) + b"b"


def npy(header: str, content: bytes = b"", version: int = 1) -> bytes:
    head = header.encode("latin1")
    size = struct.pack("<H" if version == 1 else "<I", len(head))
    return b"\x93NUMPY" + bytes([version, 0]) + size + head + content


def header(descr: str, shape: str, fortran: str = "False") -> str:
    return f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n"


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return file.getvalue()


def storage(key: str = "0", count: Any = 4, kind: bytes = STORAGE) -> bytes:
    return put(("storage", kind, key, "cpu", count)) + b"Q"


def tensor(held: bytes, offset: Any, size: Any, stride: Any, *more: Any) -> bytes:
    return call(TENSOR, held, offset, size, stride, False, call(name("collections", "OrderedDict")), *more)


def torch_file(value: bytes, storages: dict[str, bytes] | None = None, **members: bytes) -> bytes:
    held = {"0": bytes(16)} if storages is None else storages
    return zipped(
        {
            "archive/data.pkl": b"\x80\x02" + value + b".",
            **{f"archive/data/{key}": content for key, content in held.items()},
            **{f"archive/{key}": content for key, content in members.items()},
        }
    )


def saved(value: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def np_saved(value: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, value)
    return file.getvalue()


# Code and memory.


def memory() -> dict[str, bytes]:
    """Bytes of the file would become pointers, or a result would reach beyond them."""
    bare = {
        "scalar": call(SCALAR, OBJECTS, data(ADDRESS)),
        "frombuffer": call(FROMBUFFER, data(ADDRESS), OBJECTS, (1,), "C"),
        "array": array((1,), OBJECTS, data(ADDRESS)),
        "array, 0-d": array((), OBJECTS, data(ADDRESS)),
        "dtype with another code": array((1,), dtype("O8", "|", 8), data(ADDRESS)),
        "dtype within fields": array(
            (1,), dtype("V8", "|", 8, fields=(None, ("a",), {"a": (OBJECTS, 0)})), data(ADDRESS)
        ),
        "subarray": array((1,), dtype("V8", "|", 8, fields=((OBJECTS, (1,)), None, None)), data(ADDRESS)),
        "item size": array((4,), dtype("S8", "|", 8000), data(bytes(32))),
        "item size of numbers": array((1,), dtype("f4", "<", 4000), data(bytes(4))),
        "item size, changed": array(
            (4,), dtype("S8", "|", 8) + put((3, "|", None, None, None, 8000, 1, 0)) + b"b", data(bytes(32))
        ),
        "item size, changed after": put(
            [
                dtype("f8") + b"q\x01",
                array((1,), b"h\x01", data(bytes(8))),
                b"h\x01" + put((3, "|", None, None, None, 999, 1, 0)) + b"b",
            ]
        ),
        "array, changed after": array((1,), dtype("f8"), data(bytes(8)))
        + put((1, (99,), dtype("f8"), False, data(bytes(8))))
        + b"b",
        "fields beside a plain code": array((1,), dtype("f8", fields=(None, ("a",), {})), data(bytes(8))),
        "dtype, changed twice": array(
            (1,), dtype("f8") + put((3, ">", None, None, None, -1, -1, 0)) + b"b", data(bytes(8))
        ),
        "array, shape": array((2,), dtype("f8"), data(bytes(8))),
        "array, negative shape": array((-1,), dtype("f8"), data(bytes(8))),
        "array, two negative extents": array((-1, -1), dtype("f8"), data(bytes(8))),
        "array, shape that overflows": array((2**32, 2**32), dtype("f8"), data(b"")),
        "array, shape of truth values": array((True,), dtype("f8"), data(bytes(8))),
        "array, empty and huge": array((0, 2**61), dtype("f8"), data(b"")),
        "array, 33 axes": array((1,) * 33, dtype("f8"), data(bytes(8))),
        "array, unfinished": call(RECONSTRUCT, NDARRAY, (0,), data(b"b")),
        "array, made with a shape": call(RECONSTRUCT, NDARRAY, (2**40,), data(b"b")),
        "array of another class": call(RECONSTRUCT, name("torch", "Tensor"), (0,), data(b"b")),
        "array, version": array((1,), dtype("f8"), data(bytes(8)), version=0),
        "array, text for data": array((1,), dtype("f8"), "ü€" * 4),
        "objects from a tuple": array((1,), dtype("O8", "|"), (1,)),
        "objects, too few": array((3,), dtype("O8", "|"), [1]),
        "objects, too many": array((1,), dtype("O8", "|"), [1, 2]),
        "scalar, short": call(SCALAR, dtype("f8"), data(b"1234")),
        "scalar of an object": call(SCALAR, dtype("O8", "|"), 1),
        "scalar, not changed": call(SCALAR, dtype("f8"), data(bytes(8)), state=(1,)),
        "frombuffer, short": call(FROMBUFFER, data(bytes(8)), dtype("f8"), (9,), "C"),
        "frombuffer, order": call(FROMBUFFER, data(bytes(8)), dtype("f8"), (1,), "K", (5,)),
        "frombuffer, order twice": call(FROMBUFFER, data(bytes(32)), dtype("f8"), (2, 2), "K", (0, 0)),
        "ndarray called": call(NDARRAY, (2**20, 2**20), "f8", data(bytes(8)), 0, (0, 0)),
        "ndarray made": call(NDARRAY, (4,), new=True),
        "ndarray changed": NDARRAY + put((None, {"x": 1})) + b"b",
        "dtype alone": DTYPE,
        "dtype of a dtype": call(DTYPE, dtype("f8"), False, True),
        "dtype of a list": call(DTYPE, [("a", "O")], False, True),
        "dtype of a string": call(DTYPE, "O,O", False, True),
        "dtype with metadata": array(
            (1,),
            call(DTYPE, "f8", False, True, state=(4, "<", None, None, None, -1, -1, 0, {})),
            data(bytes(8)),
        ),
        "dtype, byte order": array((1,), dtype("f8", "^"), data(bytes(8))),
        "dtype, version": array(
            (1,), call(DTYPE, "f8", state=(1, "<", None, None, None, -1, -1, 0)), data(bytes(8))
        ),
        "truth values": array((1,), dtype("b1", "|"), data(b"\x07")),
        "no Unicode": array((1,), dtype("U1", "<", 4), data(b"\xff" * 4)),
        "dates": array((1,), dtype("M8"), data(bytes(8))),
        "tensor in a pickle": TENSOR + b".",
        "text of lone surrogates": call(name("_codecs", "encode"), "\ud800", "latin1"),
        "another codec": call(name("_codecs", "encode"), "x", "rot13"),
        "a huge bytearray": call(name("builtins", "bytearray"), 2**40),
        "huge bytes": call(name("builtins", "bytes"), 2**40),
        "a huge Counter": call(name("collections", "Counter"), {"a": "b"}),
        "a set of lists": call(name("builtins", "set"), [[1]]),
        "complex of text": call(name("builtins", "complex"), "1" * 20, "j"),
        "OrderedDict of text": call(name("collections", "OrderedDict"), "ab"),
        "a list with pairs": b"](K\x01K\x02u",
        "a dictionary with items": b"}K\x01a",
        "a call with items": call(SCALAR, dtype("f8"), data(bytes(8))) + b"(K\x01K\x02u",
        "half a pair": b"}(K\x01u",
    }
    files = {key: b"\x80\x03" + value + b"." for key, value in bare.items()}
    files |= {
        f"{key}, in .npy": npy(header("|O", "()"), files[key])
        for key in ("scalar", "frombuffer", "array", "array, 0-d")
    }
    honest = np_saved(np.array({"cam": np.arange(4.0)}, dtype=object))
    files["one byte of an honest file"] = honest.replace(b"\x8c\x02f8", b"\x8c\x02O8")
    assert files["one byte of an honest file"] != honest
    return files


def tensors() -> dict[str, bytes]:
    """Tensors that reach beyond their storages, or are none of the CPU."""
    inside = {
        "offset": tensor(storage(), 4, (1,), (1,)),
        "negative offset": tensor(storage(), -1, (1,), (1,)),
        "size": tensor(storage(), 0, (5,), (1,)),
        "negative size": tensor(storage(), 0, (-1,), (1,)),
        "stride": tensor(storage(), 0, (2,), (4,)),
        "negative stride": tensor(storage(), 3, (2,), (-1,)),
        "overflow": tensor(storage(), 0, (2**61, 2**61), (0, 0)),
        "stride that overflows": tensor(storage(), 0, (3, 3), (2**61, 2**61)),
        "expanded": tensor(storage(), 0, (30_000, 30_000), (0, 0)),
        "empty and huge": tensor(storage(), 0, (0, 2**61), (1, 1)),
        "axes": tensor(storage(), 0, (1, 1), (1,)),
        "65 axes": tensor(storage(), 0, (1,) * 65, (1,) * 65),
        "truth values as size": tensor(storage(), 0, (True,), (1,)),
        "count": tensor(storage(count=5), 0, (1,), (1,)),
        "count of another dtype": tensor(storage(kind=name("torch", "DoubleStorage")), 0, (1,), (1,)),
        "negative count": tensor(storage(count=-4), 0, (1,), (1,)),
        "missing storage": tensor(storage("1"), 0, (1,), (1,)),
        "storage elsewhere": tensor(storage("../../../etc/passwd"), 0, (1,), (1,)),
        "no storage": tensor(put("0"), 0, (1,), (1,)),
        "storage of text": tensor(put("0") + b"Q", 0, (1,), (1,)),
        "part of a storage": tensor(
            put(("storage", STORAGE, "0", "cpu", 4, ("1", 0, 4))) + b"Q", 0, (1,), (1,)
        ),
        "storage alone": storage(),
        "two dtypes": put(
            [
                tensor(storage(), 0, (1,), (1,)),
                tensor(storage(kind=name("torch", "IntStorage")), 0, (1,), (1,)),
            ]
        ),
        "truth values": tensor(storage(count=16, kind=name("torch", "BoolStorage")), 0, (1,), (1,)),
        "no dtype": call(
            name("torch._utils", "_rebuild_tensor_v3"), storage(), 0, (1,), (1,), False, None, "float32"
        ),
        "typed": call(
            name("torch._utils", "_rebuild_tensor_v3"),
            storage(),
            0,
            (1,),
            (1,),
            False,
            None,
            name("torch", "int16"),
        ),
        "untyped": tensor(storage(count=16, kind=name("torch.storage", "UntypedStorage")), 0, (1,), (1,)),
        "changed": tensor(storage(), 0, (1,), (1,)) + put((storage(), 0, (999,), (1,))) + b"b",
        "Tensor changed": name("torch", "Tensor") + b")\x81" + put((storage(), 0, (999,), (1,))) + b"b",
        "dtype changed": name("torch", "int8") + put((3, "|", ("a",), {"a": (OBJECTS, 0)}, 8, 1, 0)) + b"b",
        "NumPy dtype changed": dtype("i1", "|", 8, fields=(None, ("a",), {"a": (OBJECTS, 0)})),
        "parameter of a parameter": call(
            name("torch._utils", "_rebuild_parameter"),
            call(name("torch._utils", "_rebuild_parameter"), tensor(storage(), 0, (1,), (1,)), True, None),
            True,
            None,
        ),
        "special class": call(
            name("torch._tensor", "_rebuild_from_type_v2"), SCALAR, name("torch", "Tensor"), (), {}
        ),
        "flags": tensor(storage(), 0, (1,), (1,), {"conj": 5}),
        "a huge Size": call(name("torch", "Size"), (-1, 2**70)),
        "a device": call(name("torch", "device"), "x" * 100),
    }
    files = {key: torch_file(value, {"0": b"\x07" * 16}) for key, value in inside.items()}
    small = torch.zeros(2)
    quantised = name("torch._utils", "_rebuild_qtensor")
    files |= {
        "sparse": saved(torch.sparse_coo_tensor(torch.tensor([[1]]), small[:1], (2,), check_invariants=True)),
        "sparse, compressed": torch_file(call(name("torch._utils", "_rebuild_sparse_tensor"), 1, ())),
        "meta": saved(torch.zeros(10**9, 10**9, device="meta")),
        "quantised": torch_file(call(quantised, storage(), 0, (1,), (1,))),
        "nested": torch_file(call(name("torch._utils", "_rebuild_nested_tensor"), storage(), 0, 0, 0)),
        "two data.pkl": torch_file(put(1), **{"other/data.pkl": b"N."}),
        "byte order": torch_file(tensor(storage(), 0, (1,), (1,)), byteorder=b"middle"),
        "TorchScript": torch_file(put(1), **{"constants.pkl": b"N."}),
    }
    legacy = saved({"a": torch.arange(4.0)}, _use_new_zipfile_serialization=False)
    files |= {
        "old, cut": legacy[:-4],
        "old, count": legacy[:-24] + struct.pack("<Q", 2**40) + legacy[-16:],
        "old, version": legacy.replace(b"M\xe9\x03", b"M\xe8\x03", 1),
        "old, big-endian": legacy.replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89", 1),
        "old, without storages": legacy[: legacy.rindex(b"\x80\x02")] + b"\x80\x02].",
    }
    inner = b"N"
    for _ in range(8):
        inner = call(name("torch.storage", "_load_from_bytes"), data(_old(inner)))
    files["files within files"] = pickled(inner)
    files["no torch file within"] = pickled(call(name("torch.storage", "_load_from_bytes"), data(b"N.")))
    return files


def _old(value: bytes) -> bytes:
    """An old torch file of a value without tensors."""
    return (
        pickled(0x1950A86A20F9469CFC6C)
        + pickled(1001)
        + pickled({"little_endian": True})
        + pickled(value)
        + pickled([])
    )


def runs() -> dict[str, bytes]:
    """Calls of functions, in every way that a pickle has."""
    command = text("true")
    return {
        "GLOBAL": name("os", "system") + command + b"\x85R.",
        "STACK_GLOBAL": text("os") + text("system") + b"\x93" + command + b"\x85R.",
        "INST": b"(" + command + b"ios\nsystem\n.",
        "OBJ": b"(" + name("os", "system") + command + b"o.",
        "OBJ of a listed name": b"(" + NDARRAY + command + b"o.",
        "NEWOBJ": name("subprocess", "Popen") + command + b"\x85\x81.",
        "NEWOBJ_EX": NDARRAY + b")}\x92.",
        "EXT1": b"\x82\x01.",
        "EXT2": b"\x83\x01\x00.",
        "EXT4": b"\x84\x01\x00\x00\x00.",
        "PERSID": b"P0\n.",
        "BINPERSID": command + b"Q.",
        "NEXT_BUFFER": b"\x97.",
        "a storage in a pickle": storage() + b".",
        "READONLY_BUFFER": b"N\x98.",
        "attribute": text("numpy") + text("ndarray.dump") + b"\x93.",
        "core": name("numpy._core.numeric", "os") + b".",
        "getattr": name("builtins", "getattr") + b".",
        "a long name": name("x" * 3000, "y" * 3000) + b".",
        "a name without end": b"c" + b"x" * 100_000,
        "a name of several lines": text("os\nsystem") + text("a\r\n\x1b[31m") + b"\x93.",
        "a name that is no text": b"N" + text("system") + b"\x93.",
        "a call of what is no name": text("os") + b")R.",
        "torch": torch_file(name("os", "system") + command + b"\x85R"),
        "within an array": pickle.dumps(np.array([1, {2}], dtype=object)).replace(b"\x8f", b"cos\nsystem\n"),
    }


def bombs() -> dict[str, Callable[[], bytes]]:
    """Small files that would hang or take gigabytes."""
    nested_key = b"}" + b")" + b"2\x86" * 60 + b"Ns."
    alike = b"}(" + b"".join(number(k * (2**61 - 1)) + b"N" for k in range(1, 20_000)) + b"u."
    far = b"}(" + b"".join(number(k << 33) + b"N" for k in range(1, 20_000)) + b"u."
    floats = b"}(" + b"".join(b"G" + struct.pack(">d", k + 0.5) + b"N" for k in range(2_000)) + b"u."
    return {
        "nested tuple keys": lambda: nested_key,
        "nested tuples": lambda: b")" + b"2\x86" * 40 + b".",
        "shared lists": lambda: b"]" + b"".join(b"q%c](h%ch%ce" % (k, k, k) for k in range(40)) + b".",
        "shared lists, shallow": lambda: b"](" + b"K\x01" * 2000 + b"eq\x01](" + b"h\x01" * 2000 + b"e.",
        "shared arrays": lambda: pickled(
            [array((2**20,), dtype("u1", "|"), data(bytes(2**20))) + b"q\x01", *[b"h\x01"] * 400]
        ),
        "deep lists": lambda: b"]" * 100_000 + b"a" * 99_999 + b".",
        "deep tuples": lambda: b")" + b"\x85" * 1_000_000 + b".",
        "deep dictionaries": lambda: b"}K\x01" * 1000 + b"}" + b"s" * 1000 + b".",
        "deep OrderedDicts": lambda: (
            (name("collections", "OrderedDict") + b")RK\x01") * 1000 + b"N" + b"s" * 1000 + b"."
        ),
        "list in itself": lambda: b"]q\x00h\x00a.",
        "dictionary in itself": lambda: b"}q\x00K\x01h\x00s.",
        "array in itself": lambda: pickled(
            call(RECONSTRUCT, NDARRAY, (0,), data(b"b"))
            + b"q\x07"
            + put((1, (1,), dtype("O8", "|"), False, [b"h\x07"]))
            + b"b"
        ),
        "tuple in itself": lambda: b"](h\x00t.",
        "equal hashes": lambda: alike,
        "keys of 64 bits": lambda: far,
        "many floating point keys": lambda: floats,
        "a key of 2000 bits": lambda: b"}" + b"\x8a\xff" + b"\x7f" * 255 + b"Ns.",
        "long integer": lambda: b"\x8b" + struct.pack("<I", 10**6) + b"\x7f" * 10**6 + b".",
        "longer integer": lambda: b"\x8b\xff\xff\xff\x7f.",
        "negative length": lambda: b"\x8b\xff\xff\xff\xff.",
        "integer as text": lambda: b"I" + b"9" * 10**6 + b"\n.",
        "long integer as text": lambda: b"L" + b"9" * 4000 + b"L\n.",
        "number as text": lambda: b"F" + b"9" * 10**6 + b"\n.",
        "bytes": lambda: b"\x8e" + b"\xff" * 8 + b".",
        "bytes, plausible": lambda: b"\x8e" + struct.pack("<Q", 2**34) + b".",
        "bytearray": lambda: b"\x96" + struct.pack("<Q", 2**34) + b".",
        "text": lambda: b"\x8d" + struct.pack("<Q", 2**34) + b".",
        "frame": lambda: b"\x95" + b"\xff" * 8 + b".",
        "marks": lambda: b"(" * 3_000_000,
        "lists": lambda: b"]" * 3_000_000,
        "dictionaries": lambda: b"(" + b"}" * 3_000_000 + b"l.",
        "dictionaries, just few enough to be read": lambda: b"(" + b"}" * 1_490_000 + b"l.",
        "copies": lambda: b"](" + b"N2222222" * 400_000 + b"e.",
        "popped": lambda: b"K\x01" + b"]0" * 2_500_000 + b".",
        "memorised": lambda: b"N" + b"".join(b"r" + struct.pack("<I", k) for k in range(2_100_000)) + b".",
        "no stop": lambda: b"N" * 1000,
        "nothing on the stack": lambda: b".",
        "no mark": lambda: b"t.",
        "no memo": lambda: b"h\x05.",
        "expanded tensor": lambda: saved(torch.ones(1).expand(30_000, 30_000)),
        "many expanded tensors": lambda: torch_file(put([tensor(storage(), 0, (2000, 2000), (0, 0))] * 40)),
        "one storage many times": lambda: _repeated_storages(),
    }


def _repeated_storages() -> bytes:
    # Each call reads the same million bytes anew.
    load = name("torch.storage", "_load_from_bytes")
    inner = saved(
        torch.zeros(2**20, dtype=torch.uint8).untyped_storage(), _use_new_zipfile_serialization=False
    )
    return pickled([call(load, data(inner) + b"q\x01"), *[call(load, b"h\x01")] * 400])


def archives() -> dict[str, Callable[[], bytes]]:
    """Zip archives and headers that lie."""
    one = zipped({"a.npy": np_saved(np.zeros(100))})
    end = one.rindex(b"PK\5\6")
    table = one.rindex(b"PK\1\2")

    def patch(at: int, form: str, value: int) -> bytes:
        return one[:at] + struct.pack(form, value) + one[at + struct.calcsize(form) :]

    return {
        "inflates": lambda: zipped(
            {"a.npy": npy(header("|u1", f"({300 * 2**20},)"), bytes(300 * 2**20))}, zipfile.ZIP_DEFLATED
        ),
        "inflates in parts": lambda: _overlapping(40, 2**23, zipfile.ZIP_DEFLATED),
        "shared bytes": lambda: _overlapping(90, 2**23, zipfile.ZIP_STORED),
        "inflates beyond its size": lambda: _lying(10**8, 100),
        "inflates to less": lambda: _lying(100, 10**6),
        "size of 2**40": lambda: _lying(100, 2**32 - 1),
        "count": lambda: patch(end + 10, "<H", 65535),
        "place of the table": lambda: patch(end + 16, "<I", 2**31),
        "place of a member": lambda: patch(table + 42, "<I", 2**31),
        "size of the name": lambda: patch(table + 28, "<H", 65535),
        "packed size": lambda: patch(table + 20, "<I", 2**31),
        "checksum": lambda: patch(table + 16, "<I", 1),
        "encrypted": lambda: patch(table + 8, "<H", 1),
        "compression": lambda: patch(table + 10, "<H", 99),
        "no table": lambda: one[:table],
        "no end": lambda: one[:end],
        "only the mark": lambda: b"PK",
        "damaged, as errno 22 was": lambda: patch(end + 12, "<I", 2**31),
        "same name twice": lambda: one[:end].replace(b"a.npy", b"a.npy") and _twice(),
        "64 bit end": lambda: one[:end] + b"PK\6\7" + struct.pack("<IQI", 0, 2**62, 1) + one[end:],
        "64 bit end elsewhere": lambda: one[:end] + b"PK\6\7" + struct.pack("<IQI", 0, 0, 1) + one[end:],
        "no arrays": lambda: zipped({"readme.txt": b"hello"}),
        "header: code": lambda: npy(
            "{'descr': __import__('os').system('true'), 'fortran_order': False, 'shape': (1,)}"
        ),
        "header: parentheses": lambda: npy("(" * 9000),
        "header: braces": lambda: npy("{" * 9000 + "}" * 900),
        "header: spaces": lambda: npy("{'shape':" + " " * 9000 + "(" + " " * 900),
        "header: long": lambda: npy(header("<f8", "(1,)") + " " * 60_000),
        "header: 4 GB": lambda: b"\x93NUMPY\x02\x00\xff\xff\xff\xff{",
        "header: version": lambda: b"\x93NUMPY\x09\x00\x01\x00{",
        "header: cut": lambda: b"\x93NUMPY",
        "header: negative": lambda: npy(header("<f8", "(-1,)"), bytes(8)),
        "header: huge": lambda: npy(header("<f8", "(4611686018427387904, 4)"), bytes(8)),
        "header: digits": lambda: npy(header("<f8", f"({'9' * 5000},)"), bytes(8)),
        "header: empty and huge": lambda: npy(header("<f8", "(0, 4611686018427387903)")),
        "header: no shape": lambda: npy("{'descr': '<f8', 'fortran_order': False}", bytes(8)),
        "header: twice": lambda: npy(
            "{'descr': '<f8', 'descr': '|O', 'fortran_order': False, 'shape': (1,)}", bytes(8)
        ),
        "header: fields": lambda: npy(
            "{'descr': [('a', '|O')], 'fortran_order': False, 'shape': (1,)}", ADDRESS
        ),
        "header: void": lambda: npy(header("|V8", "(1,)"), ADDRESS),
        "header: no size": lambda: npy(header("<U0", "(4611686018427387903,)")),
        "header: more bytes": lambda: npy(header("<f8", "(100,)"), bytes(8)),
        "header: another shape": lambda: npy(
            header("|O", "(3,)"), pickled(array((1,), dtype("O8", "|"), [1]))
        ),
        "nothing": lambda: b"",
        "text": lambda: b"hello, this is no file of arrays",
        "zeros": lambda: bytes(1000),
        "random": lambda: np.random.default_rng(0).bytes(1000),
    }


def _lying(true: int, stated: int) -> bytes:
    """An archive whose table states another size."""
    content = zipped({"a.npy": bytes(true)}, zipfile.ZIP_DEFLATED)
    table = content.rindex(b"PK\1\2")
    return content[: table + 24] + struct.pack("<I", stated) + content[table + 28 :]


def _twice() -> bytes:
    content = zipped({"a.npy": np_saved(np.zeros(1)), "b.npy": np_saved(np.zeros(1))})
    return content.replace(b"b.npy", b"a.npy")


def _overlapping(count: int, size: int, method: int) -> bytes:
    """Many members that are the same bytes of the file."""
    packed = array = npy(header("|u1", f"({size},)"), bytes(size))
    if method == zipfile.ZIP_DEFLATED:
        packer = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = packer.compress(array) + packer.flush()
    head = struct.pack(
        "<4sHHHHHIIIHH", b"PK\3\4", 20, 0, method, 0, 0, zlib.crc32(array), len(packed), len(array), 0, 0
    )
    table = b"".join(
        struct.pack(
            "<4sHHHHHHIIIHHHHHII",
            b"PK\1\2",
            20,
            20,
            0,
            method,
            0,
            0,
            zlib.crc32(array),
            len(packed),
            len(array),
            2,
            0,
            0,
            0,
            0,
            0,
            0,
        )
        + b"%02d" % k
        for k in range(count)
    )
    start = len(head) + len(packed)
    return (
        head + packed + table + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, len(table), start, 0)
    )
