"""Files and folders of segments."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unicodedata import normalize

import numpy as np
from torch import Tensor

from ..datasets.index import FileIndex
from ..datasets.texts import read_text
from ..errors import UserError
from ..files.contents import read_arrays
from ..files.limits import shorten
from ..files.masks import read_mask
from ..files.regular import show_name
from .segments import Segments, as_segments, join_segments

SUFFIXES = (".png", ".json", ".npz", ".npy", ".pt", ".pth", ".pkl")
"""Of files of segments, the preferred one first."""
_FIX = "pass a label map, masks, or a list of COCO run lengths"
_MOST_TEXT = 2**28


def read_segments(path: str | os.PathLike[str]) -> Segments:
    """Read the segments of one image from a file or folder, executing nothing in it.

    Parameters
    ----------
    path : str or path
        A .png label map of 1 to 16 bits, 0 where there is no segment; a .json file of what
        ``SamAutomaticMaskGenerator`` returns with ``output_mode="coco_rle"``, of run lengths, or of SA-1B; a
        .npy, .npz or .pt file with a label map (H, W) or masks (M, H, W); or a folder of PNGs with a mask
        each, as SAM's ``amg.py`` writes them (0.png, 1.png, ...; other files are left alone).

    Returns
    -------
    Segments

    Raises
    ------
    UserError
        There is no such file, it is damaged, or holds something else.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> from dhr_refine.files import write_mask
    >>> from dhr_refine.sam import read_segments
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write_mask(Path(folder) / "a.png", torch.tensor([[0, 1, 2], [1, 1, 2]]))
    ...     read_segments(Path(folder) / "a.png")
    Segments: 2 of 2 x 3, 83% of the pixels covered
    """
    path = Path(path)
    try:
        if path.is_dir():
            return _read_folder(path)
        if path.suffix.lower() == ".json":
            return as_segments(_read_json(path))
        if path.suffix.lower() == ".png":
            return as_segments(read_mask(path, ignore_index=0))
        return as_segments(_only_array(read_arrays(path), path))
    except OSError as error:
        raise UserError(f"{show_name(path)} cannot be read ({_reason(error)}): {_FIX}") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{show_name(path)} holds no segments ({error}): {_FIX}") from error


class SegmentIndex:
    """Finds the segments of an image in a folder: a file of its id, or else a folder of that name.

    Raises
    ------
    UserError
        The folder is none or cannot be read.
    """

    def __init__(self, folder: Path):
        """Look at the folder, once."""
        self.files = FileIndex(folder, SUFFIXES)
        self.places = (folder,)
        self._folders = {normalize("NFC", path.name): path for path in folder.iterdir() if path.is_dir()}

    def __getitem__(self, key: str) -> Path:
        """The file or folder of an image; a UserError if there is none."""
        if key in self.files:
            return self.files[key]
        found = self._folders.get(normalize("NFC", key))
        if found is None:
            wanted = ", ".join(SUFFIXES)
            raise UserError(
                f"{show_name(self.places[0])} has no segments of image {key}: add {key} with one of "
                f"{wanted}, or a folder of that name"
            )
        return found

    def __len__(self) -> int:
        """Number of files and folders."""
        return len(self.files) + len(self._folders)


def _read_folder(folder: Path) -> Segments:
    """A mask in each PNG, those of whole numbers in their order."""
    files = [path for path in folder.iterdir() if path.suffix.lower() == ".png" and path.name[0] != "."]
    if not files:
        raise UserError(f"{show_name(folder)} has no PNG: {_FIX}, or a folder of PNGs with a mask each")
    files.sort(key=lambda path: (not path.stem.isdecimal(), len(path.stem), path.stem))

    def read(path: Path) -> tuple[np.ndarray, tuple[int, int]]:
        mask = read_mask(path, ignore_index=0)
        try:
            own = as_segments([mask], show_name(path))
        except ValueError as error:
            raise UserError(f"{error}; or name the file itself if it is a label map") from error
        return own.pixels.numpy(), own.size

    return join_segments(map(read, files), "segments")


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path, _FIX, most=_MOST_TEXT))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{show_name(path)} is no JSON ({shorten(error)}): {_FIX}") from error


def _only_array(content: Any, path: Path) -> Any:
    """The array of an archive that has one, or whatever else the file holds."""
    if isinstance(content, Mapping):
        arrays = [value for value in content.values() if isinstance(value, (Tensor, np.ndarray))]
        if len(arrays) != 1:
            raise UserError(f"{show_name(path)} holds {len(arrays)} arrays, not one: {_FIX}")
        return arrays[0]
    return content


def _reason(error: OSError) -> str:
    return shorten(error.strerror or error)
