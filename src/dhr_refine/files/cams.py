"""The CAM files of the common codebases: which maps they hold, and of which classes."""

from __future__ import annotations

import math
import os
import re
import reprlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import check_choice, describe, show_shapes
from .arrays import is_number, load_arrays, show_name
from .limits import DEFAULT_BYTES, DEFAULT_DEPTH, DEFAULT_ITEMS

# Names under which codebases keep the CAMs beside "keys", full resolution first.
_ENTRIES = ("high_res", "hr_cam", "attn_highres", "prob", "seed", "cam", "cams", "cam_dict")
# More classes than any data set has; what holds more is no file of CAMs.
_CLASSES = 100_000


class Cams(NamedTuple):
    """Result of :func:`read_cams`."""

    cams: Tensor
    """(K, h, w) float32 CAMs of the foreground classes in the file."""
    keys: Tensor
    """(K,) int64 0-based foreground index of each, ascending."""

    def __repr__(self) -> str:
        """Name the shapes, not the numbers."""
        return show_shapes(self)


def read_cams(
    path: str | os.PathLike[str],
    *,
    background: Literal["first", "none"] | None = None,
    entry: str | None = None,
    allow_pickle: bool = False,
    max_bytes: int | None = None,
    max_items: int = DEFAULT_ITEMS,
    max_depth: int = DEFAULT_DEPTH,
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
    max_bytes, max_items, max_depth : int, optional
        Bounds, as :func:`load_arrays` has them. The CAMs as float32 stay below ``max_bytes`` too.

    Returns
    -------
    Cams
        ``cams`` (K, h, w) float32 and ``keys`` (K,) int64, sorted by key. For an image without tags K is 0.

    Raises
    ------
    ValueError, TypeError
        The file is damaged, exceeds a bound, needs ``allow_pickle``, ``background`` or ``entry``, or holds no
        CAMs. The message names the file.
    OSError
        The file cannot be opened.

    Notes
    -----
    ============================== ================================================= ================
    codebase                       form                                              option
    ============================== ================================================= ================
    IRN, AdvCAM, ToCo, CLIP-ES     {keys, cam / high_res / attn_highres (K, h, w)}   "none"
    PuzzleCAM                      {keys with 0, hr_cam (K - 1, h, w)}               none
    POT, RSEPM                     {keys with 0, maps or seed (K, h, w)}             "first"
    SEAM, MCTformer, WeakTr        {foreground index: (h, w)}                        "none"
    SEAM's CRF files               {0: background, k + 1: (h, w)}                    "first"
    arrays and tensors             (C, h, w), one map per class                      none or "first"
    ============================== ================================================= ================

    Class numbers are whole numbers, of Python or NumPy. Text and floating point numbers in their place, "3"
    or 3.0, are refused: they may be meant or a slip.

    Without the option a file that does not hold 0 is read as foreground, so pass it for a whole data set.
    Files are read with an allow-list of NumPy arrays and torch tensors, and nothing in them is executed: what
    that promises for files of strangers is in :doc:`/files`.

    The result drops into refine_mask for one image. Where the file holds the tags only, its keys are the
    labels::

        cams, keys = read_cams("2007_000032.npy", background="none")
        refined = refine_mask(cams, mask, uss, wss, image, labels=keys)  # mask: the base mask

    An array with a map per class does not tell the tags: pass your own as ``labels``. The result of an image
    without tags, ``len(keys) == 0``, is its base mask.

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
    bounds = {"max_bytes": max_bytes, "max_items": max_items, "max_depth": max_depth}
    return read_told(path, background=background, entry=entry, allow_pickle=allow_pickle, **bounds)[0]


def read_told(
    path: str | os.PathLike[str],
    *,
    background: Literal["first", "none"] | None = None,
    entry: str | None = None,
    allow_pickle: bool = False,
    **bounds: Any,
) -> tuple[Cams, bool]:
    """As :func:`read_cams`, and whether the file tells the classes of its maps; else they are all."""
    if background is not None:
        check_choice(background, "background", ("first", "none"))
    name = show_name(path)
    content = load_arrays(path, allow_pickle=allow_pickle, **bounds)
    # What the caller trusts has no bound.
    room = [2**63 if allow_pickle else bounds.get("max_bytes") or DEFAULT_BYTES]
    maps, keys = _interpret(content, name, entry, room)
    told = keys is not None
    kept, keys = _foreground(len(maps), keys, background, name)
    order = sorted(range(len(keys)), key=keys.__getitem__)
    maps = maps[[kept[i] for i in order]]
    if not bool(torch.isfinite(maps).all()):
        raise ValueError(f"{name} holds NaN or infinity: make the CAMs of this image again")
    cams = Cams(maps, torch.tensor([keys[i] for i in order], dtype=torch.long, device="cpu"))
    return cams, told


def _unbox(value: Any) -> Any:
    """What NumPy wrapped into an array of objects to save it."""
    return (
        value.item() if isinstance(value, np.ndarray) and value.dtype == object and value.ndim == 0 else value
    )


def _interpret(
    content: Any, name: str, entry: str | None, room: list[int]
) -> tuple[Tensor, list[int] | None]:
    """The maps (M, h, w) of a file, and the number that the file gives to each; None for an array."""
    content = _unbox(content)
    if not isinstance(content, Mapping):
        return _stack(content, name, room), None
    if "keys" not in content and all(is_number(key) for key in content):
        if not content:
            return _no_maps(), []
        return _stack(list(content.values()), name, room), [int(key) for key in content]
    if entry is None:
        entry = _choose_entry(content, name)
    if entry not in content:
        raise ValueError(f"{name} has the entries {_list(content)}, not {entry!r}: pass one as entry")
    inner = _unbox(content[entry])
    if isinstance(inner, Mapping) or "keys" not in content:
        return _interpret(inner, f"{name}[{entry!r}]", None, room)
    return _stack(inner, name, room), _read_keys(content["keys"], name)


def _choose_entry(content: Mapping[Any, Any], name: str) -> str | None:
    """The entry that holds the CAMs, if the caller did not name one."""
    known = [e for e in _ENTRIES if e in content]
    if not (known and "keys" in content):
        # Whatever looks like a class number was meant as one, beside other entries too.
        for key in content:
            if _looks_like_number(key):
                raise ValueError(
                    f"{name} has the key {reprlib.repr(key)}: save class numbers as integers, alone"
                )
    found = known or [e for e in content if e != "keys"]
    if not known and len(found) > 1:
        raise ValueError(f"{name} has the entries {_list(content)}: pass one of them as entry")
    if found and not isinstance(found[0], str):
        raise ValueError(f"{name} has the key {reprlib.repr(found[0])}: save class numbers as integers")
    return found[0] if found else None


def _looks_like_number(key: Any) -> bool:
    if isinstance(key, (str, bytes)):
        text = key if isinstance(key, str) else key.decode("latin1")
        return re.fullmatch(r"\s*[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?\s*", text[:80], re.I) is not None
    return isinstance(key, (int, float, np.generic))


def _read_keys(keys: Any, name: str) -> list[int]:
    """The class numbers beside the maps."""
    if isinstance(keys, (Tensor, np.ndarray)):
        count = keys.numel() if isinstance(keys, Tensor) else keys.size
        listed = keys.tolist() if keys.ndim == 1 and count <= _CLASSES else None
    else:
        listed = list(keys) if isinstance(keys, (list, tuple)) and len(keys) <= _CLASSES else None
    if listed is None:
        raise ValueError(f"{name} has keys {_describe(keys)}: a list of class numbers is needed, one per map")
    if not all(is_number(key) and -(2**63) <= key < 2**63 for key in listed):
        raise ValueError(f"{name} has keys {_list(listed)}: class numbers are needed, 0, 1, ...")
    return [int(key) for key in listed]


def _list(values: Any) -> str:
    """A few of the values, on one line."""
    return " ".join(reprlib.repr(list(values)).split())


def _describe(value: Any) -> str:
    return " ".join(describe(value).split())


def _no_maps() -> Tensor:
    return torch.zeros(0, 1, 1, dtype=torch.float32, device="cpu")


def _stack(value: Any, name: str, room: list[int]) -> Tensor:
    """(M, h, w) float32 maps from a tensor, an array or a list of maps; ``room`` has the bytes left."""
    if isinstance(value, (list, tuple)) or (isinstance(value, np.ndarray) and value.dtype == object):
        if len(value) > _CLASSES:
            raise ValueError(f"{name} holds {len(value)} maps: one per class is needed")
        parts = [_stack(part, name, room) for part in value]
        if len({part.shape for part in parts}) > 1:
            sizes = _list([tuple(part.shape) for part in parts])
            raise ValueError(f"{name} has maps of different sizes {sizes}: save one size")
        return torch.cat(parts) if parts else _no_maps()
    maps = _as_tensor(value, name, room)
    if maps.ndim == 4 and maps.shape[0] == 1:
        maps = maps[0]
    if maps.ndim == 2:
        maps = maps[None]
    if maps.ndim != 3 or 0 in maps.shape[1:]:
        raise ValueError(
            f"{name} holds {_describe(value)}: maps (C, h, w) of one image are needed, or "
            "one (h, w) per class"
        )
    return maps.detach().to(device="cpu", dtype=torch.float32)


def _as_tensor(value: Any, name: str, room: list[int]) -> Tensor:
    """A tensor of numbers, if it fits into what is left."""
    is_array = isinstance(value, np.ndarray) and value.dtype.kind in "biuf"
    if not is_array and (not isinstance(value, Tensor) or value.is_complex()):
        raise TypeError(f"{name} holds {_describe(value)}, no CAMs: arrays or tensors of numbers are needed")
    room[0] -= 4 * math.prod(value.shape)
    if room[0] < 0:
        raise ValueError(f"{name} needs more than max_bytes as float32: raise max_bytes if it is meant to")
    if isinstance(value, Tensor):
        return value
    # A copy: files may give read-only arrays, and some are in the other byte order.
    with np.errstate(all="ignore"):
        return torch.from_numpy(value.astype(np.float32))


def _foreground(
    count: int, keys: list[int] | None, background: str | None, name: str
) -> tuple[list[int], list[int]]:
    """Which maps are foreground, and their 0-based classes."""
    if keys is None:
        first = 1 if background == "first" else 0
        return list(range(first, count)), list(range(count - first))
    shown = _list(keys)
    if len(set(keys)) != len(keys) or min(keys, default=0) < 0 or max(keys, default=0) >= 2**63:
        raise ValueError(f"{name} has keys {shown}: each class once, numbered from 0, is needed")
    if len(keys) == count + 1 and 0 in keys and background != "none":
        # The background has a key but no map: it is made from the others where the file is used.
        return list(range(count)), [key - 1 for key in keys if key != 0]
    if len(keys) != count:
        raise ValueError(f"{name} has {len(keys)} keys {shown} but {count} maps: one map per key is needed")
    if 0 in keys and background is None:
        raise ValueError(
            f"{name} has the keys {shown}, where 0 may be the background or the first class: pass "
            "background='first' if 0 is the background, or background='none' if it is the first class"
        )
    if keys and 0 not in keys and background == "first":
        raise ValueError(
            f"{name} has the keys {shown} without 0, but background='first' says that 0 is the background: "
            "pass background='none' if the keys number the foreground classes from 0"
        )
    if background != "first":
        return list(range(count)), keys
    return [i for i in range(count) if keys[i] != 0], [key - 1 for key in keys if key != 0]
