"""Pictures in RGB, and masks by index."""

from __future__ import annotations

import os
import struct
import warnings
import zlib

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


@pytest.mark.parametrize("kind", ["png", "jpg", "gif", "bmp", "tif", "webp"])
def test_damaged_pictures_are_named(tmp_path, kind):
    """Cut or changed anywhere: a picture, or an OSError with the name, never another error."""
    rng = np.random.default_rng(0)
    path = tmp_path / f"x.{kind}"
    Image.fromarray(rng.integers(0, 256, (9, 11, 3)).astype(np.uint8)).save(path)
    honest = path.read_bytes()
    refused = 0
    for _ in range(60):
        data = bytearray(honest[: rng.integers(1, len(honest))] if rng.random() < 0.5 else honest)
        for place in rng.integers(0, len(data), 3):
            data[place] = rng.integers(256)
        path.write_bytes(data)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, on files that are odd
            for read in (read_picture, lambda path: read_index_mask(path, 256, 255)):
                try:
                    read(path)
                except OSError as error:
                    assert path.name in str(error)  # noqa: PT017
                    refused += 1
                except UserError:
                    pass
    assert refused > 20


def test_a_path_that_is_no_file(tmp_path):
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(IsADirectoryError, match=r"folder\.png"):
        read_picture(tmp_path / "folder.png")
    with pytest.raises(FileNotFoundError, match=r"none\.png"):
        read_picture(tmp_path / "none.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(OSError, match=r"^\S+pipe\.png is a pipe, socket or device: pass a regular file$"):
            read_picture(tmp_path / "pipe.png")


def png(size, bits, rows, palette=b""):
    """A PNG of grey or, with a palette, of indices, made by hand: Pillow writes 8 bits of most."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", *size, bits, 3 if palette else 0, 0, 0, 0)
    colours = chunk(b"PLTE", palette) if palette else b""
    data = chunk(b"IHDR", header) + colours + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + data


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("palette", [b"", bytes(48)])
def test_labels_of_few_bits(tmp_path, bits, palette):
    labels = np.arange(16).reshape(2, 8) % 2**bits
    text = ["".join(f"{label:0{bits}b}" for label in row) for row in labels]
    rows = b"".join(b"\0" + int(row, 2).to_bytes(bits, "big") for row in text)
    path = tmp_path / "x.png"
    path.write_bytes(png((8, 2), bits, rows, palette[: 3 * 2**bits]))
    assert np.array_equal(read_index_mask(path, 2**bits, 255), labels)
    if not palette:
        assert np.array_equal(read_picture(path)[0].numpy(), labels * (255 // (2**bits - 1)))


def test_pictures_of_more_bits(tmp_path):
    grey = np.array([[0, 255, 256, 32768, 65535]])
    Image.fromarray(grey.astype(np.uint16)).save(tmp_path / "x.png")
    assert read_picture(tmp_path / "x.png")[:, 0].tolist() == [[0, 0, 1, 128, 255]] * 3
    for kind in (np.int32, np.float32):
        Image.fromarray(grey.astype(kind)).save(tmp_path / "x.tif")
        with pytest.raises(UserError, match=r"x\.tif has no 8 or 16 bits per channel: save it with 8 bits"):
            read_picture(tmp_path / "x.tif")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", r"it is none, or damaged"),
        (png((2**31 - 1, 2**31 - 1), 8, b""), "exceeds limit of .* pixels"),
        (png((20_000, 20_000), 8, b""), "exceeds limit of .* pixels"),
        (png((100, 100), 8, b""), "truncated"),
        (png((0, 5), 8, b""), ""),
    ],
)
def test_pictures_of_nothing_or_too_much(tmp_path, content, said):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    for read in (read_picture, lambda path: read_index_mask(path, 3, 255)):
        with pytest.raises(OSError, match=rf"x\.png cannot be read as a picture \(.*{said}.*\): replace it"):
            read(path)


def test_no_other_program_is_run_for_a_picture(tmp_path):
    """Pillow gives PostScript to Ghostscript, which executes it."""
    Image.new("RGB", (8, 8), "red").save(tmp_path / "x.eps")
    (tmp_path / "x.eps").rename(tmp_path / "x.jpg")
    with pytest.raises(OSError, match=r"x\.jpg cannot be read as a picture"):
        read_picture(tmp_path / "x.jpg")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF", "PPM"])
def test_the_usual_formats_are_read_whatever_their_suffix(tmp_path, kind):
    Image.new("RGB", (8, 6), (255, 0, 0)).save(tmp_path / "x", format=kind)
    picture = read_picture(tmp_path / "x")
    assert picture.shape == (3, 6, 8)
    assert int(picture[0].min()) > 240
    assert int(picture[1:].max()) < 16
