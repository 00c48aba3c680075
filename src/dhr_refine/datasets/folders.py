"""An image's files: CAMs, features and masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from ..files import load_arrays, read_cams
from ..files.pictures import check_labels, read_index_mask


def read_class_cams(
    path: Path,
    tags: Sequence[int],
    *,
    background: str | None = None,
    allow_pickle: bool = False,
) -> Tensor:
    """CAMs of an image's tags out of a file in any form that ``read_cams`` takes.

    Parameters
    ----------
    path : path of the file
    tags : 0-based foreground classes
    background, allow_pickle : as in ``read_cams``

    Returns
    -------
    (K, h, w) float32, in the order of ``tags``

    Raises
    ------
    UserError
        The file cannot be understood, or has no CAM of a tag.
    OSError
        The file cannot be opened.
    """
    options: Any = {"background": background, "allow_pickle": allow_pickle}
    cams, keys = read_safely(path, lambda: read_cams(path, **options))
    place = {key: row for row, key in enumerate(keys.tolist())}
    missing = [tag for tag in tags if tag not in place]
    if missing:
        raise UserError(
            f"{path} has no CAM of the tags {missing} (0-based, background not counted), only of "
            f"{sorted(place)}: save a map per foreground class or per tag with keys, or pass --tags"
        )
    return cams[[place[tag] for tag in tags]]


def read_levels(path: Path, *, allow_pickle: bool = False) -> list[Tensor]:
    """Features of an image, one or several levels in a file.

    Parameters
    ----------
    path : path of the file
    allow_pickle : unpickle whatever the file holds, which can run any code

    Returns
    -------
    list of (D, h, w), one for each array in the file

    Raises
    ------
    UserError
        The file cannot be understood, or an array has another shape.
    OSError
        The file cannot be opened.
    """
    content = read_arrays(path, allow_pickle=allow_pickle)
    parts = list(content.values()) if isinstance(content, Mapping) else content
    levels = []
    for part in parts if isinstance(parts, (list, tuple)) else [parts]:
        level = read_numbers(part, path)
        level = level[0] if level.ndim == 4 and level.shape[0] == 1 else level
        if level.ndim != 3 or not level.numel():
            raise UserError(f"{path} holds an array of shape {tuple(level.shape)}: (D, h, w) is needed")
        levels.append(level)
    if not levels:
        raise UserError(f"{path} holds no array: (D, h, w) is needed")
    return levels


def read_numbers(content: Any, path: Path) -> Tensor:
    """What a file holds as finite real numbers, whole ones as int64; a UserError names the file if not."""
    if isinstance(content, np.ndarray) and content.dtype.kind in "biuf":
        # Torch wants one order of bytes, arrays that can be written and, for long, few unsigned types.
        kind = content.dtype.newbyteorder("=") if content.dtype.kind == "f" else np.int64
        content = np.require(content, kind, "W")
    try:
        values = torch.as_tensor(content, device="cpu").detach()
        values = values if values.is_floating_point() or values.is_complex() else values.long()
        finite = values.is_complex() or bool(torch.isfinite(values.float()).all())
    except Exception as error:  # what was unpickled can be anything
        kind = f"{type(content).__name__} {getattr(content, 'dtype', '')}".strip()
        raise UserError(f"{path} holds {kind}, no array of numbers: save arrays or tensors") from error
    if values.is_complex():
        raise UserError(f"{path} holds complex numbers: save real ones")
    if not finite:
        raise UserError(f"{path} holds NaN or infinity (in single precision): make it anew")
    return values


def read_mask(path: Path, *, classes: int, ignore_index: int, allow_pickle: bool = False) -> Tensor:
    """Mask of an image, an index PNG or an array.

    Parameters
    ----------
    path : path of the file
    classes : number of labels, the background counted
    ignore_index : label beside them that is allowed
    allow_pickle : unpickle whatever the file holds, which can run any code

    Returns
    -------
    (H, W) int64

    Raises
    ------
    UserError
        The file cannot be understood, or holds other labels.
    OSError
        The file cannot be opened.
    """
    if path.suffix.lower() == ".png":
        return torch.from_numpy(read_index_mask(path, classes, ignore_index))
    content = read_arrays(path, allow_pickle=allow_pickle)
    if isinstance(content, Mapping) and len(content) == 1:  # an archive with one array
        (content,) = content.values()
    values = read_numbers(content, path)
    mask = (values.double() if values.is_floating_point() else values).numpy()  # NumPy has no bfloat16
    while mask.ndim > 2 and 1 in (mask.shape[0], mask.shape[-1]):
        mask = mask[0] if mask.shape[0] == 1 else mask[..., 0]
    if mask.ndim != 2 or not mask.size or not np.array_equal(mask, np.rint(mask)):
        raise UserError(f"{path} must hold an array (H, W) of whole numbers, got {mask.dtype} {mask.shape}")
    check_labels(mask, path, classes, ignore_index)  # before they are cut to whole numbers
    return torch.from_numpy(mask.astype(np.int64))


def read_arrays(path: Path, *, allow_pickle: bool = False) -> Any:
    """Content of a .npy, .npz, .pt or .pkl file; the errors are those of :func:`read_safely`."""
    content = read_safely(path, lambda: load_arrays(path, allow_pickle=allow_pickle))
    if isinstance(content, np.ndarray) and content.dtype == object and content.ndim == 0:
        content = content.item()
    return content


def read_safely(path: Path, read: Callable[[], Any]) -> Any:
    """What a reader of dhr_refine.files, which executes no pickle unless told to, finds in a file.

    Every error but an OSError becomes a UserError in the words of the command line.
    """
    try:
        return read()
    except OSError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        raise UserError(
            f"{path} cannot be read ({error}); allow_pickle=True is --allow-pickle, background= is "
            "--cam-background"
        ) from error
