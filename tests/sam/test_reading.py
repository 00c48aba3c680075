"""Segments out of files and folders."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image
from sam_reference import compress, encode
from scene_folder import write_png

from dhr_refine.errors import UserError
from dhr_refine.sam import SegmentIndex, as_segments, read_segments

LABELS = np.array([[0, 1, 1, 3], [2, 1, 0, 3]])
STACK = np.stack([label == LABELS for label in (1, 2, 3)])


def run_lengths():
    return [
        {"segmentation": {"size": list(mask.shape), "counts": compress(encode(mask))}, "area": 1}
        for mask in STACK
    ]


def write_masks(folder):
    """Masks as amg.py writes them."""
    folder.mkdir()
    for number, mask in enumerate(STACK):
        write_png(folder / f"{number}.png", mask * 255)
    (folder / "metadata.csv").write_text("id,area\n0,3\n")
    return folder


WRITERS = {
    "a.png": lambda path: write_png(path, LABELS),
    "b.png": lambda path: write_png(path, LABELS * 300, np.uint16),
    "c.json": lambda path: path.write_text(json.dumps(run_lengths())),
    "d.json": lambda path: path.write_text(json.dumps({"image": {}, "annotations": run_lengths()})),
    "e.npy": lambda path: np.save(path, LABELS),
    "f.npz": lambda path: np.savez_compressed(path, masks=STACK),
    "g.pt": lambda path: torch.save(torch.from_numpy(STACK), path),
    "h": write_masks,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_form_is_read(name, tmp_path):
    WRITERS[name](tmp_path / name)
    segments = read_segments(tmp_path / name)
    assert torch.equal(segments.masks(), torch.from_numpy(STACK))
    assert torch.equal(read_segments(str(tmp_path / name)).masks(), segments.masks())


def test_masks_of_a_folder_come_in_the_order_of_their_numbers(tmp_path):
    for number in range(12):
        mask = np.zeros((1, 12), np.uint8)
        mask[0, number] = 255
        write_png(tmp_path / f"{number}.png", mask)
    assert read_segments(tmp_path).pixels.tolist() == list(range(12))


def save_object(path):
    np.save(path, np.array([print], object))


BROKEN = {
    "missing": (lambda folder: folder / "a.png", "a.png cannot be read"),
    "json": (lambda folder: put(folder / "a.json", b"[{"), "a.json is no JSON"),
    "no segments": (
        lambda folder: put(folder / "a.json", b'["a"]'),
        r"a.json holds no segments \(segments\[0\]",
    ),
    "no list": (lambda folder: put(folder / "a.json", b"3"), "a.json holds no segments"),
    "empty list": (lambda folder: put(folder / "a.json", b"[]"), "pass a label map"),
    "empty folder": (lambda folder: folder, "has no PNG: pass a label map, masks, or a list"),
    "damaged picture": (lambda folder: put(folder / "a.png", b"no"), "a.png cannot be read"),
    "code": (lambda folder: call(save_object, folder / "a.npy"), "a.npy cannot be read .*--allow-pickle"),
    "two arrays": (
        lambda folder: call(lambda path: np.savez(path, a=LABELS, b=LABELS), folder / "a.npz"),
        "a.npz holds 2 arrays, not one",
    ),
    "colours": (
        lambda folder: call(lambda path: Image.new("RGB", (2, 2)).save(path), folder / "a.png"),
        "labels come from index or grey PNGs",
    ),
}


def put(path, content):
    path.write_bytes(content)
    return path


def call(write, path):
    write(path)
    return path


@pytest.mark.parametrize("name", BROKEN)
def test_what_holds_no_segments_is_named(name, tmp_path):
    make, text = BROKEN[name]
    with pytest.raises(UserError, match=text):
        read_segments(make(tmp_path))


def test_a_label_map_among_the_masks_of_a_folder_is_named(tmp_path):
    write_png(tmp_path / "7.png", LABELS)
    with pytest.raises(UserError, match=r"7.png\[0\] must be a mask .*name the file itself"):
        read_segments(tmp_path)


def test_masks_of_several_sizes_in_a_folder_are_refused(tmp_path):
    write_png(tmp_path / "0.png", STACK[0])
    write_png(tmp_path / "1.png", STACK[0, :1])
    with pytest.raises(UserError, match=r"segments of one image"):
        read_segments(tmp_path)


def test_an_index_finds_files_before_folders(tmp_path):
    write_png(tmp_path / "a.png", LABELS)
    for name in ("a", "b"):
        write_masks(tmp_path / name)
    index = SegmentIndex(tmp_path)
    assert [index[key].name for key in ("a", "b")] == ["a.png", "b"]
    assert len(index) == 3
    with pytest.raises(UserError, match=r"has no segments of image c: add c with one of .png, .json"):
        index["c"]


def test_what_was_read_is_what_arrays_give(tmp_path):
    write_png(tmp_path / "a.png", LABELS)
    assert torch.equal(read_segments(tmp_path / "a.png").pixels, as_segments(LABELS).pixels)
