"""What files of arrays hold, with errors that a command line can print in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError
from .arrays import load_arrays


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
        hint = "background= is --cam-background" if "background=" in str(error) else ""
        hint = hint or "allow_pickle=True is --allow-pickle"
        raise UserError(f"{path} cannot be read ({error}); {hint}") from error


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
