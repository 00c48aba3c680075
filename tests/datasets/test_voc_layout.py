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
    assert voc.voc_targets(root) == root / "SegmentationClass"
    (root / "SegmentationClassAug").mkdir()
    assert voc.voc_targets(root) == root / "SegmentationClassAug"
    assert voc.voc_targets(root / "Annotations") is None


def test_splits_of_a_list_or_of_the_index(root):
    with pytest.raises(UserError, match=r"neither ImageSets/Segmentation/val\.txt nor index\.json"):
        voc.voc_split(root, "val")
    write_index(root)
    assert voc.voc_split(root, "val") == ["a", "b"]
    (root / "ImageSets/Segmentation/val.txt").write_text("z\nb\n")
    assert voc.voc_split(root, "val") == ["z", "b"]


@pytest.mark.parametrize("text", ["[]", '[{"id": "a", "split": "train"}]'])
def test_a_split_without_images(root, text):
    (root / "index.json").write_text(text)
    assert voc.voc_split(root, "val") == []
    assert voc.voc_tags(root, "val") == {}


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


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", r"index\.json must be a list of images with id, split and image_tags each .*: mend it"),
        ("7", r"index\.json must be a list of images"),
        ('["a"]', r"index\.json must be a list of images"),
        ('[{"id": "a"}]', r"index\.json must be a list of images .*'split'"),
        ('[{"id": 3, "split": "val"}]', r"index\.json must be a list of images .*an id is no text"),
        (
            '[{"id": "../a", "split": "val"}]',
            r"index\.json has the image id '\.\./a': an id is the name of a file",
        ),
        ('[{"id": "/a", "split": "val"}]', r"index\.json has the image id '/a'"),
        ("[" * 100_000, r"index\.json must be a list of images"),
    ],
)
def test_an_index_that_cannot_be_understood(root, text, said):
    (root / "index.json").write_text(text)
    for read in (voc.voc_split, voc.voc_tags):
        with pytest.raises(UserError, match=said):
            read(root, "val")


@pytest.mark.parametrize("tags", [[0], [21], [-1], [1.0], [True], ["cat"], "cat", None, 3])
def test_tags_that_are_no_labels(root, tags):
    (root / "index.json").write_text(json.dumps([{"id": "a", "split": "val", "image_tags": tags}]))
    with pytest.raises(UserError, match="image_tags of a must be labels from 1 to 20, got"):
        voc.voc_tags(root, "val")


def test_a_list_or_an_annotation_that_cannot_be_understood(root):
    listed = root / "ImageSets/Segmentation/val.txt"
    listed.write_text("\n \n")
    assert voc.voc_tags(root, "val") == {}
    with pytest.raises(UserError, match=r"or a split that there is: val"):
        voc.voc_tags(root, "train")
    with pytest.raises(UserError, match=r"pass --list FILE, or a split that there is: val"):
        voc.voc_split(root, "train")
    listed.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"val\.txt is no text"):
        voc.voc_tags(root, "val")
    listed.write_text("a\n")
    annotation = root / "Annotations/a.xml"
    with pytest.raises(UserError, match=r"a\.xml cannot be read \(No such file or directory\): replace it"):
        voc.voc_tags(root, "val")
    for text, said in (
        ("<annotation>", r"a\.xml is no annotation of VOC"),
        (
            "<annotation><object><name>unicorn</name></object></annotation>",
            "the class 'unicorn': VOC",
        ),
        ("<annotation><object></object></annotation>", "names the class 'None'"),
    ):
        annotation.write_text(text)
        with pytest.raises(UserError, match=said):
            voc.voc_tags(root, "val")
    annotation.write_text(
        "<annotation><object><name> cat\r\n</name></object></annotation>", encoding="utf-16"
    )
    assert voc.voc_tags(root, "val") == {"a": (7,)}


@pytest.mark.parametrize("kind", ["SYSTEM 'none.dtd'", "[<!ENTITY a 'person'>]", "bomb"])
def test_annotations_with_entities_are_refused_before_they_expand(root, kind):
    """Ten entities, each ten times the one before: 10 GB of text, if anyone asked for it."""
    entities = "".join(f"<!ENTITY e{i} '{f'&e{i - 1};' * 10}'>" for i in range(1, 11))
    kind = f"[<!ENTITY e0 'x'>{entities}]" if kind == "bomb" else kind
    path = root / "Annotations" / "a.xml"
    path.write_text(
        f"<!DOCTYPE annotation {kind}><annotation><object><name>&e10;</name></object></annotation>"
    )
    with pytest.raises(UserError, match=r"a\.xml is no annotation of VOC \(it has a document type"):
        voc.read_xml_tags(path)


def test_annotations_of_any_depth(root):
    path = root / "Annotations" / "a.xml"
    path.write_text("<a>" * 100_000 + "<object><name>cat</name></object>" + "</a>" * 100_000)
    assert voc.read_xml_tags(path) == (7,)


def test_a_split_that_is_a_path(root):
    with pytest.raises(UserError, match=r"has neither ImageSets/Segmentation//nowhere\.txt nor index\.json"):
        voc.voc_split(root, "/nowhere")
    with pytest.raises(UserError, match=r"has neither index\.json nor ImageSets/Segmentation//nowhere\.txt"):
        voc.voc_tags(root, "/nowhere")
