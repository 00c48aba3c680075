"""The layout of PASCAL VOC: folders, lists, an index, and XML annotations."""

from __future__ import annotations

import json

import pytest

from dhr_refine.datasets import voc
from dhr_refine.errors import UserError


@pytest.fixture
def root(tmp_path):
    """Folders without files."""
    for part in ("JPEGImages", "ImageSets/Segmentation", "Annotations", "SegmentationClass"):
        (tmp_path / part).mkdir(parents=True)
    return tmp_path


def write_index(root):
    entries = [
        {"id": key, "split": split, "image_tags": tags}
        for key, split, tags in (("b", "val", [1, 20]), ("a", "val", [15]), ("c", "train", [2]))
    ]
    (root / "index.json").write_text(json.dumps(entries))


def test_the_augmented_masks_come_first(root):
    assert voc.voc_folders(root) == (root / "JPEGImages", root / "SegmentationClass")
    (root / "SegmentationClassAug").mkdir()
    assert voc.voc_folders(root) == (root / "JPEGImages", root / "SegmentationClassAug")
    (root / "JPEGImages").rmdir()
    with pytest.raises(UserError, match="needs the folders JPEGImages and SegmentationClassAug"):
        voc.voc_folders(root)
    assert voc.voc_targets(root / "Annotations") is None


def test_splits_of_a_list_or_of_the_index(root):
    with pytest.raises(UserError, match=r"neither ImageSets/Segmentation/val\.txt nor index\.json"):
        voc.voc_split(root, "val")
    write_index(root)
    assert voc.voc_split(root, "val") == ["a", "b"]
    (root / "ImageSets/Segmentation/val.txt").write_text("z\nb\n")
    assert voc.voc_split(root, "val") == ["z", "b"]


def test_tags_of_the_annotations_or_of_the_index(root):
    with pytest.raises(UserError, match=r"neither index\.json nor ImageSets/Segmentation/val\.txt"):
        voc.voc_tags(root, "val")
    (root / "ImageSets/Segmentation/val.txt").write_text("a\n")
    objects = "".join(f"<object><name>{name}</name></object>" for name in ("person", "cat", "person"))
    (root / "Annotations/a.xml").write_text(f"<annotation>{objects}</annotation>")
    assert voc.voc_tags(root, "val") == {"a": (7, 14)}
    write_index(root)
    assert voc.voc_tags(root, "val") == {"a": (14,), "b": (0, 19)}


def test_twenty_classes_in_the_order_of_their_labels():
    assert len(voc.CLASSES) == len(set(voc.CLASSES)) == 20
    assert [voc.CLASSES[place] for place in (0, 14, 19)] == ["aeroplane", "person", "tvmonitor"]
