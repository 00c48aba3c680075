"""Arrays and tensors from .npy, .npz, .pt and .pkl files; no pickle is executed unless it is trusted."""

from __future__ import annotations

import collections
import importlib
import io
import os
import pickle
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from typing import IO, Any

import numpy as np
import torch
from torch import Tensor
from torch.torch_version import TorchVersion

# What a file written by torch.save before version 1.6 starts with, as a pickled number.
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C


def load_arrays(path: str | os.PathLike[str], *, allow_pickle: bool = False) -> Any:
    """Load arrays and tensors from a .npy, .npz, .pt or .pkl file, without executing anything in it.

    Parameters
    ----------
    path : str or path
        The file; its content decides how it is read, not its suffix.
    allow_pickle : bool
        Execute whatever the pickle asks for. Only for files that you trust as you trust code.

    Returns
    -------
    ndarray, Tensor, number, str, or dict, list or tuple of them
        What was saved; an .npz file as a dict.

    Raises
    ------
    ValueError
        The file holds anything else and ``allow_pickle`` is off, or it is damaged.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from dhr_refine.files import load_arrays
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "cls_labels.npy")
    ...     np.save(path, {"2007_000032": np.array([0.0, 1.0])})
    ...     load_arrays(path).item()
    {'2007_000032': array([0., 1.])}
    """
    name = os.fspath(path)
    try:
        return _load(name, allow_pickle)
    except (OSError, _RefusedError):
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise ValueError(f"{name} is damaged or no file of arrays ({error}): write it again") from error


def is_number(value: object) -> bool:
    """Whether a value of a file is a whole number."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


class _RefusedError(ValueError):
    """A file that needs ``allow_pickle``."""


def _refused(name: str, what: str) -> _RefusedError:
    return _RefusedError(
        f"{name} holds {what}, which read_cams does not load because loading it can run any code: save "
        "arrays or tensors only, or pass allow_pickle=True if you trust where the file comes from"
    )


def _load(name: str, trusted: bool) -> Any:
    """The content of a file, told by its first bytes."""
    with open(name, "rb") as file:
        head = file.read(6)
        file.seek(0)
        if head == b"\x93NUMPY":
            return _load_npy(file, name, trusted)
        if head[:2] == b"PK":
            with zipfile.ZipFile(file) as archive:
                members = archive.namelist()
                if not any(member.endswith("data.pkl") for member in members):
                    result = {}
                    for member in members:
                        with archive.open(member) as part:
                            result[member.removesuffix(".npy")] = _load_npy(part, name, trusted)
                    return result
            file.seek(0)
            return _load_torch(file, name, trusted)
        content = _unpickle(file, name, trusted)
        if is_number(content) and content == _TORCH_MAGIC:
            file.seek(0)
            return _load_torch(file, name, trusted)
        return content


def _load_npy(file: IO[bytes], name: str, trusted: bool) -> Any:
    # Unlike numpy.load, objects are read as well, by the allow-list.
    start = file.tell()
    version = np.lib.format.read_magic(file)
    read_header = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read_header(file)
    if not dtype.hasobject:
        file.seek(start)
        return np.lib.format.read_array(file, allow_pickle=False)
    content = _unpickle(file, name, trusted)
    return content.reshape(shape) if isinstance(content, np.ndarray) else content


def _load_torch(file: IO[bytes], name: str, trusted: bool) -> Any:
    if trusted:
        return torch.load(file, map_location="cpu", weights_only=False)
    try:
        with _numpy_in_torch():
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refused(name, "more than tensors and arrays") from error


def _numpy_in_torch() -> Any:
    """Let torch's safe loading accept NumPy arrays, where this torch can be told so."""
    if TorchVersion(torch.__version__) < "2.6":
        return nullcontext()
    import _codecs

    rebuild, scalar = _numpy_function("multiarray", "_reconstruct"), _numpy_function("multiarray", "scalar")
    allowed: list[Any] = [np.ndarray, np.dtype, (_codecs.encode, "_codecs.encode")]
    allowed += [type(np.dtype(code)) for code in "?bhilqBHILQefd"]
    for core in ("numpy.core", "numpy._core"):
        allowed += [(rebuild, f"{core}.multiarray._reconstruct"), (scalar, f"{core}.multiarray.scalar")]
    return torch.serialization.safe_globals(allowed)


def _numpy_function(module: str, function: str) -> Any:
    """A function of NumPy's core, whose module has another name since NumPy 2."""
    core = "numpy._core" if hasattr(np, "_core") else "numpy.core"
    return getattr(importlib.import_module(f"{core}.{module}"), function)


def _unpickle(file: IO[bytes], name: str, trusted: bool) -> Any:
    # Files of Python 2 hold arrays as text.
    if trusted:
        return pickle.Unpickler(file, encoding="latin1").load()
    return _Unpickler(file, name).load()


class _Unpickler(pickle.Unpickler):
    """Builds NumPy arrays and CPU tensors; every other name in a pickle is refused before it is looked up."""

    def __init__(self, file: IO[bytes], path: str):
        super().__init__(file, encoding="latin1")
        self.path = path

    def find_class(self, module: str, name: str) -> Any:
        """Return what an allowed name stands for, else raise."""
        if module.startswith("numpy._core"):  # NumPy 2 moved the functions that NumPy 1 names
            module = module.replace("numpy._core", "numpy.core", 1)
        make = _ALLOWED.get((module, name))
        if make is None:
            raise _refused(self.path, f"{module}.{name}")
        return make(self.path)


def _wrap(function: Callable[..., Any]) -> Callable[[str], Callable[..., Any]]:
    # A pickle can set attributes of what it names, its defaults among them: give each its own function.
    return lambda path: lambda *args: function(*args)


def _rebuild_tensor(storage: Any, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    # set_ with a size would enlarge a storage that is too small and show what lies in memory there.
    flat = torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage)
    return flat.as_strided(tuple(size), tuple(stride), offset)


def _text_to_bytes(text: str, encoding: str) -> bytes:
    # How protocol 2 writes bytes.
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"unknown encoding {encoding!r} of bytes")
    return text.encode("latin1")


# What a pickle may name; each makes the object to use from the path of the file.
_ALLOWED: dict[tuple[str, str], Callable[[str], Any]] = {
    ("numpy", "ndarray"): lambda path: np.ndarray,
    ("numpy", "dtype"): lambda path: np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): lambda path: _numpy_function("multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"): lambda path: _numpy_function("multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"): _wrap(
        lambda *args: _numpy_function("numeric", "_frombuffer")(*args)
    ),
    ("collections", "OrderedDict"): lambda path: collections.OrderedDict,
    ("torch", "Size"): lambda path: torch.Size,
    ("torch._utils", "_rebuild_tensor_v2"): _wrap(_rebuild_tensor),
    ("torch._utils", "_rebuild_parameter"): _wrap(lambda data, *_: data),
    # torch's own function of this name unpickles without limits.
    ("torch.storage", "_load_from_bytes"): lambda path: (
        lambda data: _load_torch(io.BytesIO(data), path, trusted=False)
    ),
    ("_codecs", "encode"): _wrap(_text_to_bytes),
}
