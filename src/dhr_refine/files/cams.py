"""The CAM files of the common codebases: which maps they hold, and of which classes."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import check_choice, describe
from .arrays import is_number, load_arrays

# Names under which codebases keep the CAMs beside "keys", full resolution first.
_ENTRIES = ("high_res", "hr_cam", "attn_highres", "prob", "seed", "cam", "cams", "cam_dict")


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
    if "keys" not in content and all(is_number(key) for key in content):
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
    if not all(is_number(key) for key in keys):
        raise ValueError(f"{name} has keys {reprlib.repr(keys)}: class numbers are needed, 0, 1, ...")
    return _stack(inner, name), [int(key) for key in keys]


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
