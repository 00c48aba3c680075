"""Files that the caller trusts as code: whatever their pickles ask for is executed, and no bound is kept."""

from __future__ import annotations

import pickle
import zipfile
from typing import IO, Any

import numpy as np
import torch

from . import npy_files, torch_files


def load_trusted(file: IO[bytes]) -> Any:
    """The content of a file, told by its first bytes."""
    head = file.read(6)
    file.seek(0)
    if head == npy_files.MAGIC:
        return _load_npy(file)
    if head[:2] == b"PK":
        with zipfile.ZipFile(file) as archive:
            members = archive.namelist()
            if not any(member.endswith("data.pkl") for member in members):
                result = {}
                for member in members:
                    with archive.open(member) as part:
                        result[member.removesuffix(".npy")] = _load_npy(part)
                return result
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=False)
    content = _unpickle(file)
    if type(content) is int and content == torch_files.MAGIC:
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=False)
    return content


def _load_npy(file: IO[bytes]) -> Any:
    start = file.tell()
    version = np.lib.format.read_magic(file)
    read_header = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    shape, _, dtype = read_header(file)
    if not dtype.hasobject:
        file.seek(start)
        return np.lib.format.read_array(file, allow_pickle=False)
    content = _unpickle(file)
    return content.reshape(shape) if isinstance(content, np.ndarray) else content


def _unpickle(file: IO[bytes]) -> Any:
    # Files of Python 2 hold arrays as text.
    return pickle.Unpickler(file, encoding="latin1").load()
