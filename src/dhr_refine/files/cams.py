"""Reads the CAM files of the common codebases, without ever executing a pickle that is not trusted."""

from __future__ import annotations

import collections
import importlib
import io
import os
import pickle
import reprlib
import zipfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import IO, Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.torch_version import TorchVersion

from ..checks import check_choice, describe

# Names under which codebases keep the CAMs beside "keys", full resolution first.
_ENTRIES = ("high_res", "hr_cam", "attn_highres", "prob", "seed", "cam", "cams", "cam_dict")

# What a file written by torch.save before version 1.6 starts with, as a pickled number.
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C


class Cams(NamedTuple):
    """Result of :func:`read_cams`."""

    cams: Tensor
    """(K, h, w) float32 CAMs of the foreground classes in the file."""
    keys: Tensor
    """(K,) int64 0-based foreground index of each, ascending."""


def read_cams(
    path: str | os.PathLike[str],
    *,
    background: Literal["first", "none"] | None = None,
    entry: str | None = None,
    allow_pickle: bool = False,
) -> Cams:
    """Read the CAMs of one image from a .npy, .npz, .pt or .pkl file.

    Parameters
    ----------
    path : str or path
        A file in one of the forms of the Notes; its content decides, not its suffix.
    background : {"first", "none"}, optional
        What number 0 means in this file. "none": the first foreground class, and there is no background.
        "first": the background, which is dropped, and classes count from 1. Default: no background, but a
        dictionary or ``keys`` that hold 0 may mean either and are refused. A background key without a map of
        its own (PuzzleCAM) tells itself.
    entry : str, optional
        Which entry to read beside ``keys``, "cam" of IRN for its small maps, say. Default: the first of
        high_res, hr_cam, attn_highres, prob, seed, cam, cams and cam_dict, or the only one that can be meant.
    allow_pickle : bool
        Unpickle whatever the file holds. This executes code of the file: only for files that you wrote.

    Returns
    -------
    Cams
        ``cams`` (K, h, w) float32 and ``keys`` (K,) int64, sorted by key. For an image without tags K is 0.

    Raises
    ------
    ValueError, TypeError
        The file is damaged, needs ``allow_pickle``, ``background`` or ``entry``, or holds no CAMs. The
        message names the file.
    OSError
        The file cannot be opened.

    Notes
    -----
    ============================== ================================================= ================
    codebase                       form                                              option
    ============================== ================================================= ================
    IRN, AdvCAM, ToCo, CLIP-ES     {keys, cam / high_res / attn_highres (K, h, w)}   "none"
    PuzzleCAM                      {keys with 0, hr_cam (K - 1, h, w)}               -
    POT, RSEPM                     {keys with 0, maps or seed (K, h, w)}             "first"
    SEAM, MCTformer, WeakTr        {foreground index: (h, w)}                        "none"
    SEAM's CRF files               {0: background, k + 1: (h, w)}                    "first"
    arrays and tensors             (C, h, w), one map per class                      -, or "first"
    ============================== ================================================= ================

    Without the option a file that does not hold 0 is read as foreground, so pass it for a whole data set.
    Files are read with an allow-list of NumPy arrays and torch tensors; nothing else in a pickle is executed.

    The result drops into refine_mask for one image. Where the file holds the tags only, its keys are the
    labels, as a list::

        cams, keys = read_cams("2007_000032.npy", background="none")
        mask = refine_mask(cams, base_mask, uss, wss, image, labels=keys.tolist())

    An array with a map per class does not tell the tags: pass your own as ``labels``. Skip an image without
    tags (``len(keys) == 0``): its base mask is the result.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from dhr_refine.files import read_cams
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/2007_000032.npy"
    ...     np.save(path, {"keys": np.array([0, 14]), "high_res": np.zeros((2, 28, 50), np.float16)})
    ...     cams, keys = read_cams(path, background="none")
    >>> cams.shape, cams.dtype, keys.tolist()
    (torch.Size([2, 28, 50]), torch.float32, [0, 14])
    """
    if background is not None:
        check_choice(background, "background", ("first", "none"))
    name = os.fspath(path)
    content = load_arrays(name, allow_pickle=allow_pickle)
    maps, keys = _interpret(content, name, entry)
    kept, keys = _foreground(len(maps), keys, background, name)
    order = sorted(range(len(keys)), key=keys.__getitem__)
    maps = maps[[kept[i] for i in order]]
    if not bool(torch.isfinite(maps).all()):
        raise ValueError(f"{name} holds NaN or infinity: make the CAMs of this image again")
    return Cams(maps, torch.tensor([keys[i] for i in order], dtype=torch.long))


def _interpret(content: Any, name: str, entry: str | None) -> tuple[Tensor, list[int] | None]:
    """The maps (M, h, w) of a file, and the number that the file gives to each; None for an array."""
    if isinstance(content, np.ndarray) and content.dtype == object and content.ndim == 0:
        content = content.item()
    if not isinstance(content, Mapping):
        return _stack(content, name), None
    if "keys" not in content and all(_is_number(key) for key in content):
        if not content:
            return torch.zeros(0, 1, 1), []
        return _stack(list(content.values()), name), [int(key) for key in content]
    if entry is None:
        found = [e for e in _ENTRIES if e in content] or [e for e in content if e != "keys"]
        if found and found[0] not in _ENTRIES and len(found) > 1:
            raise ValueError(f"{name} has the entries {list(content)}: pass one of them as entry")
        entry = found[0] if found else None
        # The only entry of a file may have any name, but not one that was meant as a class number.
        if found and (not isinstance(entry, str) or entry.isdecimal()):
            raise ValueError(f"{name} has the key {entry!r}: save class numbers as integers")
    if entry not in content:
        raise ValueError(f"{name} has the entries {list(content)}, not {entry!r}: pass one as entry")
    inner = content[entry]
    if isinstance(inner, np.ndarray) and inner.dtype == object and inner.ndim == 0:
        inner = inner.item()
    if isinstance(inner, Mapping) or "keys" not in content:
        return _interpret(inner, f"{name}[{entry!r}]", None)
    keys = content["keys"]
    keys = keys.tolist() if isinstance(keys, (Tensor, np.ndarray)) else list(keys)
    if not all(_is_number(key) for key in keys):
        raise ValueError(f"{name} has keys {reprlib.repr(keys)}: class numbers are needed, 0, 1, ...")
    return _stack(inner, name), [int(key) for key in keys]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _stack(value: Any, name: str) -> Tensor:
    """(M, h, w) float32 maps from a tensor, an array, or a list of maps."""
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.dtype == object):
        parts = [_stack(part, name) for part in value]
        if len({part.shape for part in parts}) > 1:
            raise ValueError(
                f"{name} has maps of different sizes {[tuple(p.shape) for p in parts]}: save one size"
            )
        return torch.cat(parts) if parts else torch.zeros(0, 1, 1)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        # A copy: files give read-only arrays, and some are in the other byte order.
        value = torch.from_numpy(value.astype(np.float32))
    if not isinstance(value, Tensor) or value.is_complex():
        raise TypeError(f"{name} holds {describe(value)}, no CAMs: arrays or tensors of numbers are needed")
    if value.ndim == 4 and value.shape[0] == 1:
        value = value[0]
    if value.ndim == 2:
        value = value[None]
    if value.ndim != 3 or 0 in value.shape[1:]:
        raise ValueError(
            f"{name} holds {describe(value)}: maps (C, h, w) of one image are needed, or one (h, w) per class"
        )
    return value.detach().to(device="cpu", dtype=torch.float32)


def _foreground(
    count: int, keys: list[int] | None, background: str | None, name: str
) -> tuple[list[int], list[int]]:
    """Which maps are foreground, and their 0-based classes."""
    if keys is None:
        first = 1 if background == "first" else 0
        return list(range(first, count)), list(range(count - first))
    if len(set(keys)) != len(keys) or min(keys, default=0) < 0:
        raise ValueError(f"{name} has keys {keys}: each class once, numbered from 0, is needed")
    if len(keys) == count + 1 and 0 in keys and background != "none":
        # The background has a key but no map: it is made from the others where the file is used.
        return list(range(count)), [key - 1 for key in keys if key != 0]
    if len(keys) != count:
        raise ValueError(f"{name} has {len(keys)} keys {keys} but {count} maps: one map per key is needed")
    if 0 in keys and background is None:
        raise ValueError(
            f"{name} has the keys {keys}, where 0 may be the background or the first class: pass "
            "background='first' if 0 is the background, or background='none' if it is the first class"
        )
    if keys and 0 not in keys and background == "first":
        raise ValueError(
            f"{name} has the keys {keys} without 0, but background='first' says that 0 is the background: "
            "pass background='none' if the keys number the foreground classes from 0"
        )
    if background != "first":
        return list(range(count)), keys
    return [i for i in range(count) if keys[i] != 0], [key - 1 for key in keys if key != 0]


class _RefusedError(ValueError):
    """A file that needs ``allow_pickle``."""


def _refused(name: str, what: str) -> _RefusedError:
    return _RefusedError(
        f"{name} holds {what}, which read_cams does not load because loading it can run any code: save "
        "arrays or tensors only, or pass allow_pickle=True if you trust where the file comes from"
    )


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
        if _is_number(content) and content == _TORCH_MAGIC:
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
