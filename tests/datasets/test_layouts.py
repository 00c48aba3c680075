"""Where data sets keep their images and masks."""

from __future__ import annotations

import pytest

from dhr_refine.datasets.index import MASKS
from dhr_refine.datasets.layouts import find_images, find_masks
from dhr_refine.errors import UserError


def make(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


LAYOUTS = [
    (["a.jpg", "b.PNG", "notes.txt"], ".", "."),
    (["a.jpg", "b.jpg", "test/c.jpg"], ".", "."),
    (["JPEGImages/a.jpg", "JPEGImages/b.jpg", "preview.png"], ".", "JPEGImages"),
    (["devkit/VOC/JPEGImages/a.jpg", "devkit/VOC/JPEGImages/b.jpg"], "devkit", "VOC/JPEGImages"),
    (["train2014/a.jpg", "val2014/b.jpg", "annotations/x.json"], ".", "train2014 val2014"),
    (["train2017/a.jpg", "val2017/b.jpg"], ".", "train2017 val2017"),
    (["images/train2014/a.jpg", "images/val2014/b.jpg"], ".", "images/train2014 images/val2014"),
    (["images/train/a.jpg", "images/val/b.jpg"], ".", "images/train images/val"),
    (["JPEGImages/train/a.jpg", "JPEGImages/val/b.jpg"], ".", "JPEGImages/train JPEGImages/val"),
    (["train/image/a.jpg", "train/image/b.jpg", "train/mask/a.png"], "train", "image"),
    (["train/image/a.jpg", "test/image/b.jpg", "train/mask/a.png"], ".", "test/image train/image"),
]  # fmt: skip


@pytest.mark.parametrize(("files", "passed", "places"), LAYOUTS, ids=range(len(LAYOUTS)))
def test_images_of_every_layout(tmp_path, files, passed, places):
    root = make(tmp_path, *files) / passed
    index = find_images(root)
    assert index.keys() == ["a", "b"]
    assert sorted(index.places) == sorted(root / place for place in places.split())


@pytest.mark.parametrize(
    ("files", "places"),
    [
        (["a.png", "b.npy"], "."),
        (["a.npy", "b.npz"], "."),
        (["SegmentationClass/a.png", "SegmentationClass/b.npy", "cls_labels.npy"], "SegmentationClass"),
        ([f"SegmentationClass{name}.png" for name in ("/c", "Aug/a", "Aug/b")], "SegmentationClassAug"),
        (
            ["SegmentationClass/train2014/a.png", "SegmentationClass/val2014/b.png"],
            "SegmentationClass/train2014 SegmentationClass/val2014",
        ),
        (
            ["annotations/train2017/a.png", "annotations/val2017/b.png", "annotations/x.json"],
            "annotations/train2017 annotations/val2017",
        ),
        (["mask/a.png", "mask/b.png", "image/a.png"], "mask"),
        (["train/mask/a.png", "val/mask/b.png", "train/image/c.png"], "train/mask val/mask"),
        (["SegmentationClass/.keep", "masks/a.png", "masks/b.png"], "masks"),
    ],
)  # fmt: skip
def test_masks_of_every_layout(tmp_path, files, places):
    index = find_masks(make(tmp_path, *files), MASKS)
    assert index.keys() == ["a", "b"]
    assert sorted(index.places) == sorted(tmp_path / place for place in places.split())


def test_ground_truth_is_pngs(tmp_path):
    make(tmp_path, "a.npy")
    with pytest.raises(UserError, match=r"has no mask \(a file with one of \.png\)"):
        find_masks(tmp_path)
    assert find_masks(make(tmp_path, "b.png")).keys() == ["b"]


def test_one_image_alone(tmp_path):
    make(tmp_path, "a.jpg", "b.jpg", "c.txt", "c.png")
    assert find_images(tmp_path / "a.jpg").keys() == ["a"]
    assert find_masks(tmp_path / "c.png").keys() == ["c"]
    with pytest.raises(UserError, match=r"c\.txt is no image: pass a folder, or a file with one of \.jpg"):
        find_images(tmp_path / "c.txt")


def test_an_image_of_two_domains(tmp_path):
    index = find_images(make(tmp_path, "one/image/a.jpg", "two/image/a.jpg", "two/image/b.jpg"))
    assert index["b"].parts[-3:] == ("two", "image", "b.jpg")
    with pytest.raises(UserError, match=r"two files of image a: remove .*, or name the folder of one"):
        index["a"]


def test_folders_without_images(tmp_path):
    make(tmp_path, "notes.txt", "other/folder/a.jpg", "images/notes.txt")
    looked = r"nor have its folders JPEGImages, images, .* train2014, .*, \*/JPEGImages, \*/image: pass the"
    with pytest.raises(UserError, match=looked):
        find_images(tmp_path)
    with pytest.raises(UserError, match=r"\*/SegmentationClass, \*/mask: pass the folder of the masks"):
        find_masks(tmp_path)
    with pytest.raises(UserError, match=r"nowhere cannot be read as a folder \(No such file or directory\)"):
        find_images(tmp_path / "nowhere")
