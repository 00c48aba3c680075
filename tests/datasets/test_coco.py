"""Image tags of COCO's instances."""

from __future__ import annotations

import copy
import json

import pytest

from dhr_refine.datasets.classes import class_set
from dhr_refine.datasets.tags import read_tags
from dhr_refine.errors import UserError

CONTENT = {
    "info": {"year": 2014},
    "images": [
        {"id": 391895, "file_name": "COCO_train2014_000000391895.jpg", "height": 2, "width": 3},
        {"id": 9, "file_name": "train2014/COCO_train2014_000000000009.jpg"},
        {"id": 25},
    ],
    "annotations": [
        {"id": 1, "image_id": 391895, "category_id": 90, "segmentation": [[0.5, 1.5, 2.5]], "iscrowd": 0},
        {"id": 2, "image_id": 391895, "category_id": 1, "segmentation": {"counts": [1, 2]}, "iscrowd": 1},
        {"id": 3, "image_id": 391895, "category_id": 1, "segmentation": [], "iscrowd": 0},
        {"id": 4, "image_id": 25, "category_id": 13, "segmentation": [], "iscrowd": 0},
    ],
    "categories": [{"id": 13, "name": "stop sign"}, {"id": 90, "name": "toothbrush"}, {"id": 1}],
}  # fmt: skip


@pytest.fixture
def source(tmp_path):
    def write(**changes):
        path = tmp_path / "instances.json"
        path.write_text(json.dumps(CONTENT | changes))
        return path

    return write


def table(*tags):
    return dict(zip(("COCO_train2014_000000391895", "COCO_train2014_000000000009", "25"), tags))


def test_tags_are_the_places_of_the_categories(source):
    """In the order of their ids; crowds count, and an image without annotations has no tag."""
    tags = read_tags(source())
    assert tags.table == table((0, 2), (), (1,))
    assert (tags.classes, tags.form) == (3, "COCO instances")
    assert read_tags(source(), classes=class_set(4)).table == tags.table


def test_ids_with_gaps_where_so_many_classes_are_wanted(source):
    tags = read_tags(source(), classes=class_set(91))
    assert (tags.table, tags.classes) == (table((0, 89), (), (12,)), 90)
    assert read_tags(source(), classes=class_set(92)).classes == 91
    with pytest.raises(
        UserError, match=r"has 3 categories with ids up to 90, but --classes 81 asks for 80 .*4,"
    ):
        read_tags(source(), classes=class_set("coco"))
    zero = [{"id": 0}, *CONTENT["categories"]]
    with pytest.raises(UserError, match="has 4 categories with ids up to 90"):
        read_tags(source(categories=zero), classes=class_set(91))
    assert read_tags(source(categories=zero)).table == table((1, 3), (), (2,))


def test_images_are_found_by_their_numbers(source):
    wanted = ["391895", "COCO_train2014_000000000009", "000000000025", "7"]
    assert read_tags(source(), keys=wanted).table == dict(zip(wanted, [(0, 2), (), (1,)]))


def test_outlines_are_not_kept(source):
    """A file of half a gigabyte would take several of memory; nothing in them can be at fault."""
    annotations = copy.deepcopy(CONTENT["annotations"])
    annotations[0]["segmentation"] = {"image_id": "x", "a": [[1e400] * 1000] * 100}
    assert read_tags(source(annotations=annotations)).table == table((0, 2), (), (1,))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"annotations": [{"image_id": 8, "category_id": 1}]}, "is of the image 8, which is not listed"),
        ({"annotations": [{"image_id": 9, "category_id": 2}]}, "is of the category 2, which is not"),
        ({"annotations": [{"image_id": 9}]}, "a part has no 'category_id'"),
        ({"annotations": [{"image_id": "9", "category_id": 1}]}, "an id is '9'"),
        ({"annotations": [{"image_id": [9], "category_id": 1}]}, r"an id is \[9\]"),
        ({"annotations": 3}, "'int' object is not iterable"),
        ({"annotations": [3]}, "'int' object is not subscriptable"),
        ({"images": None}, "'NoneType' object is not iterable"),
        ({"images": [{"id": True}]}, "an id is True"),
        ({"images": [{"file_name": "a"}]}, "a part has no 'id'"),
        ({"images": [{"id": 1, "file_name": "a/x.jpg"}, {"id": 2, "file_name": "b/x.jpg"}]}, "two images"),
        ({"categories": [{"id": 1}, {"id": 1}]}, "two categories have one id"),
        ({"categories": [], "annotations": CONTENT["annotations"]}, "which is not listed"),
    ],
)  # fmt: skip
def test_files_whose_parts_do_not_fit(source, changes, said):
    if "images" in changes and "two" in said:
        changes = changes | {"annotations": []}
    with pytest.raises(
        UserError, match=rf"instances\.json is no file of COCO's instances \(.*{said}.*\): pass the"
    ):
        read_tags(source(**changes))


def test_names_of_files_stay_in_the_data_set(source):
    images = [{"id": 1, "file_name": "../../x.jpg"}, {"id": 2, "file_name": ".."}]
    with pytest.raises(UserError, match=r"has the image id '\.\.'"):
        read_tags(source(images=images, annotations=[]))
    assert read_tags(source(images=images[:1], annotations=[])).table == {"x": ()}
