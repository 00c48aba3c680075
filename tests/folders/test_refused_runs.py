"""Runs that would destroy what is there, or make masks of what is none."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from dhr_refine.errors import UsageError
from dhr_refine.files import read_mask, write_mask
from dhr_refine.folders import RunOptions, crf_folder, features_folder, refine_folder

QUIET = RunOptions(quiet=True)


@pytest.fixture
def root(tmp_path):
    """A VOC folder of two images with ground truth, and CAMs and features beside it."""
    rng = np.random.default_rng(0)
    for name in ("VOC/JPEGImages", "VOC/SegmentationClass", "cams", "uss"):
        (tmp_path / name).mkdir(parents=True)
    for key in "ab":
        write_mask(tmp_path / "VOC/JPEGImages" / f"{key}.png", rng.integers(0, 256, (24, 32)))
        mask = torch.zeros(24, 32, dtype=torch.long)
        mask[4:20, 6:18] = 15
        write_mask(tmp_path / "VOC/SegmentationClass" / f"{key}.png", mask)
        np.save(tmp_path / "cams" / f"{key}.npy", {14: rng.random((6, 8))})
        np.save(tmp_path / "uss" / f"{key}.npy", rng.random((8, 6, 8)))
    return tmp_path


def refine(root, **changes):
    given = {"cams": root / "cams", "uss": root / "uss", "out": root / "out", "boundary": None, "run": QUIET}
    return refine_folder(root / "VOC", **{**given, **changes})


def files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("place", ["VOC/JPEGImages", "VOC/SegmentationClass"])
def test_nothing_is_written_where_a_data_set_keeps_what_is_read(root, place, overwrite):
    before, run = files(root), RunOptions(quiet=True, overwrite=overwrite)
    with pytest.raises(UsageError, match=r"out \(--out\) would be written to the folder of"):
        crf_folder(root / "VOC", masks=root / "VOC", out=root / place, run=run)
    with pytest.raises(UsageError, match=r"would be written to the folder of|that no run has made"):
        refine(root, out=root / place, run=run)
    assert files(root) == before


def test_features_are_not_written_among_images(root):
    with pytest.raises(UsageError, match="would be written to the folder of images"):
        features_folder(root / "VOC", model="efficientnet-lite0", out=root / "VOC/JPEGImages", run=QUIET)


@pytest.mark.parametrize("overwrite", [False, True])
def test_masks_that_no_run_has_made_are_not_taken_for_results(root, overwrite):
    shutil.copytree(root / "VOC/SegmentationClass", root / "out")
    before = files(root)
    with pytest.raises(UsageError, match=r"out has files of 2 of these images \(a\) that no run has made"):
        refine(root, run=RunOptions(quiet=True, overwrite=overwrite))
    assert files(root) == before


def test_a_run_without_results_does_not_bind_the_next(root):
    (root / "none").mkdir()
    for key in "ab":
        np.save(root / "none" / f"{key}.npy", np.zeros(3))
    assert [one.stage for one in refine(root, uss=root / "none", base_score=0.9).failed] == ["read", "read"]
    own = read_mask(root / "out/base/a.png")
    assert refine(root).done == 2
    assert not torch.equal(read_mask(root / "out/base/a.png"), own)  # of the other score
    with pytest.raises(UsageError, match=r"holds results of another run \(tau was 0\.8, now 0\.5\)"):
        refine(root, tau=0.5)


def test_features_are_no_cams(root):
    report = refine(root, cams=root / "uss", tags={"a": [14], "b": [14]})
    assert [one.message for one in report.failed] == [
        f"{root}/uss/{key}.npy holds 8 maps without numbers, but there are 20 foreground classes: pass the "
        "folder of CAMs (--cams), the classes of the data set (--classes), or --cam-background first if the "
        "first map is the background"
        for key in "ab"
    ]


@pytest.mark.parametrize("name", ["cams", "uss", "masks", "wss", "memory"])
def test_a_folder_that_is_none_is_a_wrong_argument(root, name):
    with pytest.raises(UsageError, match="nowhere"):
        refine(root, **{name: root / "nowhere"})
