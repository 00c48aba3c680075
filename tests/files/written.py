"""CAM files for the tests of this folder: how codebases write them, and what reading them must give."""

from __future__ import annotations

import pickle

import numpy as np
import torch

MAPS = np.random.default_rng(0).random((3, 5, 7)).astype(np.float32)


def save(folder, name, content):
    """Write a file by the call that a codebase with such a file name uses."""
    path = folder / name
    if path.suffix == ".npy":
        np.save(path, content)
    elif path.suffix == ".npz":
        np.savez(path, **content)
    elif path.suffix == ".pt":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    return path


def check(result, maps, keys):
    assert result.cams.dtype == torch.float32
    assert result.keys.dtype == torch.int64
    assert result.keys.tolist() == keys
    expected = np.asarray(maps, dtype=np.float32)
    assert torch.equal(result.cams, torch.from_numpy(expected))
