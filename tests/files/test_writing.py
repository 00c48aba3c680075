"""PNG files, and files written in one piece."""

from __future__ import annotations

import io
import os

import numpy as np
import pytest
import torch
from PIL import Image

from dhr_refine import viz
from dhr_refine.files import writing


def test_index_png_keeps_labels_and_palette():
    mask = torch.tensor([[0, 1, 2], [3, 254, 255]])
    picture = Image.open(io.BytesIO(writing.index_png(mask, viz.palette(21))))
    assert picture.mode == "P"
    assert np.asarray(picture).tolist() == mask.tolist()
    assert picture.getpalette()[3:9] == [128, 0, 0, 0, 128, 0]
    assert picture.convert("RGB").getpixel((2, 1)) == (224, 224, 192)


def test_write_atomic_replaces_or_leaves_all(tmp_path, monkeypatch):
    path = tmp_path / "panel.png"
    writing.write_atomic(path, b"old")
    writing.write_atomic(path, b"new")
    assert path.read_bytes() == b"new"

    def refuse(*_):
        raise OSError("no")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="no"):
        writing.write_atomic(path, b"half")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["panel.png"]
