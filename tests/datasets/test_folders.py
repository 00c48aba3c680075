"""Files of one image in folders of one file per image."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from scene_folder import CLASSES

from dhr_refine.datasets.folders import find_file, read_class_cams, read_levels, read_mask
from dhr_refine.errors import UserError


def test_the_first_suffix_wins_and_a_missing_file_is_named(tmp_path):
    for name in ("a.pt", "a.npy", "b.c.npy"):
        (tmp_path / name).touch()
    assert find_file(tmp_path, "a", (".npy", ".pt")) == tmp_path / "a.npy"
    assert find_file(tmp_path, "b.c", (".npy", ".pt")) == tmp_path / "b.c.npy"
    with pytest.raises(UserError, match=r"has no file of image b: add b with one of \.npy, \.pt"):
        find_file(tmp_path, "b", (".npy", ".pt"))


def test_cams_come_in_the_order_of_the_tags(folder, scenes):
    cams = read_class_cams(folder / "cams", "a", (6, 2))
    assert torch.equal(cams, scenes["a"].cams[[6, 2]])
    with pytest.raises(UserError, match=r"has no CAM of the tags \[8\] \(0-based"):
        read_class_cams(folder / "cams", "a", (2, 8))
    maps = {0: np.zeros((4, 5)), 3: np.ones((4, 5))}
    np.save(folder / "cams" / "a.npy", maps)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"cannot be read .*background= is --cam-background"):
        read_class_cams(folder / "cams", "a", (2,))
    assert read_class_cams(folder / "cams", "a", (2,), background="first").tolist() == [maps[3].tolist()]


def test_features_are_levels_without_a_batch_axis(folder, scenes):
    (uss,) = read_levels(folder / "uss", "b")
    assert torch.equal(uss, scenes["b"].uss)
    assert all(map(torch.equal, read_levels(folder / "wss", "b"), scenes["b"].wss))
    np.save(folder / "uss" / "b.npy", np.zeros((4, 4)))
    with pytest.raises(UserError, match=r"b\.npy holds an array of shape \(4, 4\): \(D, h, w\) is needed"):
        read_levels(folder / "uss", "b")


def test_masks_are_index_pngs_or_arrays(folder, scenes):
    known = {"classes": CLASSES, "ignore_index": 255}
    assert torch.equal(read_mask(folder / "masks", "c", **known), scenes["c"].mask)
    (folder / "masks" / "c.png").unlink()
    np.save(folder / "masks" / "c.npy", scenes["c"].mask.numpy()[None].astype(np.float32))
    mask = read_mask(folder / "masks", "c", **known)
    assert mask.dtype == torch.int64
    assert torch.equal(mask, scenes["c"].mask)
    with pytest.raises(UserError, match=r"c\.npy holds the label \d+, but there are 3 classes"):
        read_mask(folder / "masks", "c", classes=3, ignore_index=255)


def test_pickles_are_executed_only_when_told_to(folder):
    level = np.ones((2, 3, 4))
    np.save(folder / "uss" / "a.npy", Counter({"a": level}))  # type: ignore[arg-type]
    (folder / "uss" / "a.pt").unlink()
    with pytest.raises(UserError, match=r"cannot be read .*allow_pickle=True is --allow-pickle"):
        read_levels(folder / "uss", "a")
    (read,) = read_levels(folder / "uss", "a", allow_pickle=True)
    assert np.array_equal(read.numpy(), level)
