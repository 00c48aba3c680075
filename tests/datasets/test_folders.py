"""Files of one image in folders of one file per image."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scene_folder import CLASSES

from dhr_refine.datasets.folders import cams_of_tags, read_levels
from dhr_refine.errors import UserError
from dhr_refine.files import read_cams
from dhr_refine.files.contents import read_safely
from dhr_refine.files.masks import read_mask


def read_class_cams(path, tags, **options):
    return cams_of_tags(path, read_safely(path, lambda: read_cams(path, **options)), tags)


def test_cams_come_in_the_order_of_the_tags(folder, scenes):
    cams = read_class_cams(folder / "cams" / "a.npy", (6, 2))
    assert torch.equal(cams, scenes["a"].cams[[6, 2]])
    with pytest.raises(UserError, match=r"has no CAM of the tags \[8\] \(0-based"):
        read_class_cams(folder / "cams" / "a.npy", (2, 8))
    maps = {0: np.zeros((4, 5)), 3: np.ones((4, 5))}
    np.save(folder / "cams" / "a.npy", maps)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"cannot be read .*background= is --cam-background"):
        read_class_cams(folder / "cams" / "a.npy", (2,))
    assert read_class_cams(folder / "cams" / "a.npy", (2,), background="first").tolist() == [maps[3].tolist()]


def test_features_are_levels_without_a_batch_axis(folder, scenes):
    (uss,) = read_levels(folder / "uss" / "b.pt")
    assert torch.equal(uss, scenes["b"].uss)
    assert all(map(torch.equal, read_levels(folder / "wss" / "b.npz"), scenes["b"].wss))
    np.save(folder / "uss" / "b.npy", np.zeros((4, 4)))
    with pytest.raises(UserError, match=r"b\.npy holds an array of shape \(4, 4\): \(D, h, w\) is needed"):
        read_levels(folder / "uss" / "b.npy")


def test_masks_are_index_pngs_or_arrays(folder, scenes):
    known = {"num_classes": CLASSES, "ignore_index": 255}
    assert torch.equal(read_mask(folder / "masks" / "c.png", **known), scenes["c"].mask)
    (folder / "masks" / "c.png").unlink()
    np.save(folder / "masks" / "c.npy", scenes["c"].mask.numpy()[None].astype(np.float32))
    mask = read_mask(folder / "masks" / "c.npy", **known)
    assert mask.dtype == torch.int64
    assert torch.equal(mask, scenes["c"].mask)
    with pytest.raises(UserError, match=r"c\.npy holds the label \d+, but there are 3 classes"):
        read_mask(folder / "masks" / "c.npy", num_classes=3, ignore_index=255)


def test_an_archive_of_a_mask_has_one_array(tmp_path):
    np.savez(tmp_path / "a.npz", mask=np.eye(3, dtype=np.uint8))
    assert read_mask(tmp_path / "a.npz", num_classes=2, ignore_index=255).tolist() == np.eye(3).tolist()
    np.savez(tmp_path / "a.npz", mask=np.eye(3), probs=np.zeros((2, 3, 3)))
    with pytest.raises(UserError, match=r"a\.npz holds dict, no array of numbers: save arrays or tensors"):
        read_mask(tmp_path / "a.npz", num_classes=2, ignore_index=255)


def test_pickles_are_executed_only_when_told_to(folder):
    level = np.ones((2, 3, 4))
    np.save(folder / "uss" / "a.npy", Counter({"a": level}))  # type: ignore[arg-type]
    (folder / "uss" / "a.pt").unlink()
    with pytest.raises(UserError, match=r"cannot be read .*allow_pickle=True is --allow-pickle"):
        read_levels(folder / "uss" / "a.npy")
    (read,) = read_levels(folder / "uss" / "a.npy", allow_pickle=True)
    assert np.array_equal(read.numpy(), level)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "holds no array"),
        ([], "holds no array"),
        ("text", "holds str, no array of numbers: save arrays or tensors"),
        ({"name": "text"}, "holds str, no array of numbers"),
        (np.array([None, None]), "holds ndarray object, no array of numbers"),
        (torch.zeros(3, 4, 4, dtype=torch.complex64), "holds complex numbers: save real ones"),
        (torch.full((3, 4, 4), torch.nan), r"holds NaN or infinity \(in single precision\): make it anew"),
        (torch.full((3, 4, 4), 1e300, dtype=torch.double), "holds NaN or infinity"),
        (torch.zeros(3, 0, 4), r"holds an array of shape \(3, 0, 4\): \(D, h, w\) is needed"),
        (torch.zeros(2, 3, 4, 4), r"holds an array of shape \(2, 3, 4, 4\)"),
    ],
)
def test_features_that_are_none(tmp_path, content, said):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UserError, match=rf"a\.pt {said}"):
        read_levels(tmp_path / "a.pt", allow_pickle=isinstance(content, np.ndarray))


@pytest.mark.parametrize("kind", [">f4", "<f2", ">i2", "u1", "u2", "u4", "u8", "?"])
def test_features_and_masks_of_every_kind_of_number(tmp_path, kind):
    values = np.eye(4)[None].astype(kind)
    np.save(tmp_path / "a.npy", values)
    (level,) = read_levels(tmp_path / "a.npy")
    assert level.tolist() == np.eye(4)[None].tolist()
    for shape in ((4, 4), (1, 4, 4), (1, 1, 4, 4), (4, 4, 1)):
        np.save(tmp_path / "a.npy", values.reshape(shape))
        mask = read_mask(tmp_path / "a.npy", num_classes=2, ignore_index=255)
        assert mask.dtype == torch.int64
        assert torch.equal(mask, torch.eye(4, dtype=torch.long))
    torch.save(torch.eye(4, dtype=torch.bfloat16), tmp_path / "b.pt")
    assert torch.equal(read_mask(tmp_path / "b.pt", num_classes=2, ignore_index=255), mask)
    np.save(tmp_path / "a.npy", values[:, :1])
    assert read_mask(tmp_path / "a.npy", num_classes=2, ignore_index=255).tolist() == [[1, 0, 0, 0]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (np.full((4, 4), 0.5), r"must hold an array \(H, W\) of whole numbers, got float64 \(4, 4\)"),
        (np.full((4, 4), np.nan), "holds NaN or infinity"),
        (np.full((4, 4), np.inf), "holds NaN or infinity"),
        (np.full((4, 4), 1e30), r"holds the label 1e\+30, but there are 3 classes"),
        (np.full((4, 4), -1), "holds the label -1, but"),
        (np.zeros((2, 4, 4)), r"must hold an array \(H, W\) .*, got float64 \(2, 4, 4\)"),
        (np.zeros((0, 4)), r"must hold an array \(H, W\) .*, got float64 \(0, 4\)"),
        (np.zeros(4), r"must hold an array \(H, W\)"),
        (np.array("text"), r"holds ndarray <U4, no array of numbers"),
    ],
)
def test_masks_that_are_none(tmp_path, content, said):
    np.save(tmp_path / "a.npy", content)
    with pytest.raises(UserError, match=rf"a\.npy {said}"):
        read_mask(tmp_path / "a.npy", num_classes=3, ignore_index=255)


def test_archives_without_an_array(tmp_path):
    np.savez(tmp_path / "a.npz")
    with pytest.raises(UserError, match=r"a\.npz has no CAM of the tags \[2\]"):
        read_class_cams(tmp_path / "a.npz", (2,))
    with pytest.raises(UserError, match=r"a\.npz holds no array"):
        read_levels(tmp_path / "a.npz")
    with pytest.raises(UserError, match=r"a\.npz holds dict, no array of numbers"):
        read_mask(tmp_path / "a.npz", num_classes=3, ignore_index=255)
