"""Images and masks of single files, as tensors."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import describe
from ..errors import UserError
from .contents import read_arrays, read_numbers
from .pictures import check_labels, read_index_mask, read_picture
from .writing import grey_png, index_png, write_atomic

# Labels of a mask of 16 bits.
_MOST = 2**16


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """Read an image in RGB, whatever the file holds.

    Parameters
    ----------
    path : str or path
        A PNG, JPEG, WebP, TIFF, BMP, GIF or PPM file.

    Returns
    -------
    Tensor (3, H, W) uint8

    Raises
    ------
    UserError
        Pillow is not installed, or the file holds numbers that are no colours.
    OSError
        The file is no picture or cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> from dhr_refine.files import read_image, write_mask
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_mask(Path(folder) / "a.png", torch.full((4, 6), 200))
    ...     image = read_image(Path(folder) / "a.png")
    >>> image.shape, image.unique().tolist()
    (torch.Size([3, 4, 6]), [200])
    """
    return read_picture(Path(path))


def read_mask(
    path: str | os.PathLike[str],
    *,
    num_classes: int | None = None,
    ignore_index: int = 255,
    allow_pickle: bool = False,
) -> Tensor:
    """Read a mask: an index or grey PNG, or an array in a .npy, .npz, .pt or .pkl file.

    Parameters
    ----------
    path : str or path
        The file. Of a palette PNG the labels are read, not the colours.
    num_classes : int, optional
        Number of labels, the background counted; others are refused then.
    ignore_index : int
        Label beside them that is allowed.
    allow_pickle : bool
        Unpickle whatever the file holds, which can run any code.

    Returns
    -------
    Tensor (H, W) int64

    Raises
    ------
    UserError
        The file cannot be understood, or holds other labels.
    OSError
        The file cannot be opened.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> from dhr_refine.files import read_mask, write_mask
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_mask(Path(folder) / "a.png", torch.tensor([[0, 15, 255]]))
    ...     read_mask(Path(folder) / "a.png", num_classes=21)
    tensor([[  0,  15, 255]])
    """
    path = Path(path)
    classes = _MOST if num_classes is None else num_classes
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


def write_mask(
    path: str | os.PathLike[str], mask: Tensor | np.ndarray, *, palette: np.ndarray | None = None
) -> None:
    """Write a mask as an 8-bit PNG, in one piece: a reader sees the old file or the whole new one.

    Parameters
    ----------
    path : str or path
        The file; its folder must be there.
    mask : Tensor or array, (H, W)
        Whole numbers from 0 to 255, on any device.
    palette : array (256, 3) uint8, optional
        Colours of the labels, ``viz.palette(21)`` say. Default: a grey PNG, which every reader gives back as
        it is; imageio and OpenCV read the colours of a palette instead.

    Raises
    ------
    ValueError
        The mask has another shape or other values.
    UserError
        Pillow is not installed.
    OSError
        The file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> from dhr_refine.files import write_mask
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_mask(Path(folder) / "a.png", torch.zeros(4, 6, dtype=torch.long))
    """
    labels: Any = mask.detach().cpu().numpy() if isinstance(mask, Tensor) else np.asarray(mask)
    if labels.ndim != 2 or not labels.size or labels.dtype.kind not in "biuf":
        raise ValueError(f"mask must be labels (H, W), got {describe(mask)}: write one mask at a time")
    if not ((labels >= 0) & (labels <= 255) & (labels == np.rint(labels))).all():
        raise ValueError(
            f"mask must hold whole numbers from 0 to 255, got {labels.min():.6g} to {labels.max():.6g}: "
            "8 bits hold no others, so save an array with numpy.save instead"
        )
    write_atomic(Path(path), grey_png(labels) if palette is None else index_png(labels, palette))
