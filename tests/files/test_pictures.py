"""Pictures in RGB, and masks by index."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from dhr_refine.errors import UserError
from dhr_refine.files.pictures import read_index_mask, read_picture


def test_palette_pngs_are_read_by_index(tmp_path):
    picture = Image.fromarray(np.array([[0, 1], [2, 255]], dtype=np.uint8))
    picture.putpalette([3 * i % 256 for i in range(768)])
    picture.save(tmp_path / "p.png")
    assert read_index_mask(tmp_path / "p.png", 3, 255).tolist() == [[0, 1], [2, 255]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "CMYK"])
def test_pictures_are_rgb_whatever_the_file_holds(tmp_path, mode):
    colours = np.zeros((2, 3, 3), np.uint8)
    colours[0], colours[1, 2] = 255, 255
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    Image.fromarray(colours).convert(mode).save(path)
    picture = read_picture(path)
    assert (picture.dtype, tuple(picture.shape)) == (torch.uint8, (3, 2, 3))
    assert picture.is_contiguous()
    assert picture.permute(1, 2, 0).tolist() == colours.tolist()


def test_pictures_keep_their_channels_apart(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    Image.fromarray(colours).save(tmp_path / "x.png")
    assert np.array_equal(read_picture(tmp_path / "x.png").permute(1, 2, 0).numpy(), colours)


@pytest.mark.parametrize(
    ("label", "text"), [(3, "holds the label 3, but there are 3 classes and ignore 255")]
)
def test_other_labels_are_refused(tmp_path, label, text):
    Image.fromarray(np.full((2, 2), label, np.uint8)).save(tmp_path / "x.png")
    with pytest.raises(UserError, match=text):
        read_index_mask(tmp_path / "x.png", 3, 255)
    assert read_index_mask(tmp_path / "x.png", 3, label).tolist() == [[label] * 2] * 2


def test_a_file_that_is_no_picture(tmp_path):
    (tmp_path / "x.png").write_text("no picture")
    for read in (read_picture, lambda path: read_index_mask(path, 3, 255)):
        with pytest.raises(OSError, match=r"x\.png"):
            read(tmp_path / "x.png")
