"""Image tags from lists, tables, JSON, annotations, names of files and masks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import shared_folder
from scene_folder import write_png

from dhr_refine.datasets.classes import ClassSet, class_set
from dhr_refine.datasets.tags import read_tags
from dhr_refine.errors import UserError

PETS = ClassSet("pets", ("background", "cat", "big dog", "tv-monitor"))


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


WANTED = {"a": (0, 2), "b": (1,), "c": ()}
FORMS = {
    "multi-hot words": "a.jpg 1 0 1\nb.jpg 0 1 0\nc.jpg 0 0 0\n",
    "multi-hot beside masks": "/x/a.jpg /m/a.png 1 0 1\n/x/b.jpg /m/b.png 0 1 0\n/x/c.jpg /m/c.png 0 0 0\n",
    "multi-hot columns": "image,cat,big dog,tvmonitor\na.jpg,1,0,1\nb.jpg,0,1,0\nc.jpg,0,0,0\n",
    "multi-hot fractions": ",id,x,y,z\n0,a,1.0,0.0,1.0\n1,b,0.0,1.0,0.0\n2,c,0.,0.,0.\n",
    "multi-hot cell": "id,label\na,1 0 1\nb,0 1 0\nc,0 0 0\n",
    "multi-hot in our table": "id,tags\na,1 0 1\nb,0 1 0\nc,0 0 0\n",
    "multi-hot list": 'name;label\na;"[1, 0, 1]"\nb;[0, 1, 0]\nc;[0,0,0]\n',
    "numbers from 0": "a 0 2\nb 1\nc\n",
    "numbers from 1": "a 1 3\nb 2\nc\n",
    "numbers in columns": "a,0,2\nb,1\nc\n",
    "numbers in a cell": 'id,split,labels\na,train,"0,2"\nb,val,1\nc,val,\n',
    "numbers with bars": "file_name,class\na.png,0|2\nb.png,1\nc.png,\n",
    "numbers in our table": "id,tags\na,0 2\nb,1\nc,\n",
    "numbers after a blank": "a 0,2\nb 1\nc\n",
    "numbers where the first has none": "c\na,0,2\nb,1\n",
    "names": "a cat tv_monitor\nb BigDog\nc\n",
    "names in cells": "id,tags\na,cat;TV monitor\nb,big dog\nc,\n",
    "names in several lines": "a,cat\na,tv-monitor\nb,big dog\na,cat\nc,\n",
    "numbers in JSON": '{"a": [2, 0], "x/b.jpg": [1], "c": []}',
    "multi-hot in JSON": '{"a": [1, 0, 1], "b": [false, true, false], "c": [0, 0, 0]}',
    "names in JSON": '{"a": ["cat", "tv monitor"], "b": ["big dog"], "c": []}',
}


@pytest.mark.parametrize("form", FORMS)
def test_tables_and_lists_of_every_form(tmp_path, form):
    path = write(tmp_path / ("tags.json" if "JSON" in form else "tags.txt"), FORMS[form])
    tags = read_tags(path, classes=PETS)
    assert tags.table == WANTED
    assert tags.classes == 3
    assert (
        tags.form
        == {
            "multi-hot": "multi-hot rows",
            "names": "class names",
            "numbers": f"class numbers from {int(form == 'numbers from 1')}",
        }[form.split()[0]]
    )
    assert read_tags(path, classes=PETS, keys=["c", "none", "a"]).table == {"c": (), "a": (0, 2)}


def test_what_needs_no_classes(tmp_path):
    for form, classes in (("multi-hot words", 3), ("numbers from 0", None), ("numbers in our table", None)):
        tags = read_tags(write(tmp_path / "tags.txt", FORMS[form]))
        assert (tags.table, tags.classes) == (WANTED, classes)
    tags = read_tags(write(tmp_path / "tags.txt", FORMS["numbers from 1"]), first=1)
    assert (tags.table, tags.form) == (WANTED, "class numbers from 1")
    assert read_tags(tmp_path / "tags.txt", first=0).table == {"a": (1, 3), "b": (2,), "c": ()}


def test_columns_in_another_order_go_by_their_titles(tmp_path):
    path = write(tmp_path / "tags.csv", "id,TV Monitor,cat,big_dog\na,1,1,0\nb,0,0,1\nc,0,0,0\n")
    assert read_tags(path, classes=PETS).table == WANTED
    assert read_tags(path).table == {"a": (0, 1), "b": (2,), "c": ()}  # without names as they stand


@given(st.lists(st.sets(st.integers(0, 5)), min_size=1), st.integers(0, 1), st.sampled_from([" ", ","]))
def test_numbers_and_rows_say_the_same(tmp_path_factory, tags, first, comma):
    folder = tmp_path_factory.mktemp("tags")
    wanted = {f"i{place}": tuple(sorted(own)) for place, own in enumerate(tags)}
    lines = [comma.join([key, *(str(tag + first) for tag in own)]) for key, own in wanted.items()]
    rows = [comma.join([key, *("01"[tag in own] for tag in range(6))]) for key, own in wanted.items()]
    assert read_tags(write(folder / "rows.txt", "\n".join(rows))).table == wanted
    if any(tags):
        known = class_set(7)
        lines.append(comma.join(["z", *map(str, range(first, 6 + first))]))
        numbers = read_tags(write(folder / "numbers.txt", "\n".join(lines)), first=first, classes=known)
        assert numbers.table == wanted | {"z": (0, 1, 2, 3, 4, 5)}
        assert read_tags(folder / "numbers.txt", classes=known).table == numbers.table


FAULTS = [
    ("a 1 3\nb 2\n", {}, "has class numbers from 1 to 3, which may count .*: dhr-refine tags --first 0"),
    ("a 1\nb 2\n", {"classes": PETS}, "has class numbers from 1 to 2, which may count from 0 or from 1"),
    ("a 0 3\n", {"classes": PETS}, "has the class number 3, but with --first 0 --classes 4 they are 0 to"),
    ("a 0 1\nb 2\n", {"first": 1}, "has the class number 0, but with --first 1 they are 1 to 65536"),
    ("a -1\nb 1\n", {}, "has the class number -1, but with --first 0"),
    ("a 70000\n", {"first": 0}, "has the class number 70000"),
    ("a 0 1\nb 1 0\n", {}, "has 2 zeros and ones for each image, which may be class numbers or"),
    ("a 1\nb 1\n", {"classes": class_set(2)}, "has 1 zeros and ones for each image"),
    ("a 1 0 1 0\nb 1 1 1 0\n", {"classes": PETS}, "has 4 zeros and ones for a but --classes 4 needs 3"),
    ("a cat\nb unicorn\n", {"classes": PETS}, "has the tag 'unicorn', which is no class of pets"),
    ("a cat\n", {}, "has the tag 'cat', which is a name: pass --classes with the set that has these names"),
    ("a 1 cat\n", {"classes": PETS}, "has the tag '1', which is no class of pets"),
    ("a\nb\n", {}, "has no tags beside its images: pass a file with some"),
    ("", {}, "has no tags beside its images"),
    ("/JPEGImages/a.jpg /SegmentationClassAug/a.png\n", {}, "has no tags beside its images"),
    ("a[1 0].png\nb.png\n", {}, r"has images with tags in their names and b without: add them"),
    ("a[1 0].png\nb[1 0 0].png\n", {}, r"has 3 zeros and ones for b\[1 0 0\] but a\[1 0\] has 2"),
    ("a[1 0].png\n", {"classes": PETS}, r"has 2 zeros and ones for a\[1 0\] but --classes 4 needs 3"),
    ("../.. 1\n", {}, "has the image id '..'"),
    ("a\0b 1\n", {}, "is no text .*: pass tags as a cls_labels.npy, a table, COCO's instances"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "options", "said"), FAULTS, ids=range(len(FAULTS)))
def test_lists_that_could_mean_something_else(tmp_path, text, options, said):
    with pytest.raises(UserError, match=rf"tags\.txt {said}"):
        read_tags(write(tmp_path / "tags.txt", text), **options)


def test_two_classes(tmp_path):
    """Two zeros and ones are multi-hot where one repeats, or has a title, and class numbers where told so."""
    path = write(tmp_path / "tags.txt", "a 0 1\nb 1 1\n")
    assert read_tags(path).table == {"a": (1,), "b": (0, 1)}
    write(path, "a 0 1\nb 1 0\n")
    assert read_tags(path, first=0).table == {"a": (0, 1), "b": (0, 1)}
    assert read_tags(path, classes=class_set(6)).table == {"a": (0, 1), "b": (0, 1)}
    assert read_tags(write(path, "id,x,y\na,0,1\nb,1,0\n")).table == {"a": (1,), "b": (0,)}
    assert read_tags(write(path, "a 0\nb 1\n")).table == {"a": (0,), "b": (1,)}
    assert read_tags(path, classes=class_set(2)).table == {"a": (), "b": (0,)}


@pytest.mark.parametrize(
    "text", ["[1, 2]", "{}", '{"a": 1}', '{"a": [1.5]}', '{"a": [null]}', '{"a": {"b": 1}}', "3"]
)
def test_json_of_something_else(tmp_path, text):
    with pytest.raises(
        UserError, match=r"tags\.json holds neither COCO's instances nor a dictionary of image ids"
    ):
        read_tags(write(tmp_path / "tags.json", text))


@pytest.mark.parametrize("text", ["{", "", "[" * 100_000, '{"a": [1' + "0" * 5000 + "]}"])
def test_json_that_is_none(tmp_path, text):
    with pytest.raises(UserError, match=r"tags\.json is no JSON \(.*\): pass the file of instances"):
        read_tags(write(tmp_path / "tags.json", text))


IMAGE_NAMES = ["{}[1 0 1].png", "x-{}-[1, 0, 1].png", "{}[101].JPG", "[0 0 0]{}+[1 0 1].png"]


@pytest.mark.parametrize("name", IMAGE_NAMES)
def test_tags_in_the_names_of_files(tmp_path, name):
    for number in range(3):
        (tmp_path / name.format(number)).touch()
    tags = read_tags(tmp_path)
    assert tags.table == {Path(name.format(number)).stem: (0, 2) for number in range(3)}
    assert (tags.classes, tags.form) == (3, "names of files")
    listed = write(tmp_path / "list.txt", "".join(f"{name.format(number)}\n" for number in range(3)))
    assert read_tags(listed).table == tags.table
    key = Path(name.format(1)).stem
    assert read_tags(tmp_path, keys=[key]).table == {key: (0, 2)}
    (tmp_path / "other.png").touch()
    with pytest.raises(UserError, match="has images with tags in their names and other without"):
        read_tags(tmp_path)


def xml(*names):
    return f"<annotation>{''.join(f'<object><name>{name}</name></object>' for name in names)}</annotation>"


@pytest.mark.parametrize("folder", [".", "Annotations", "xml"])
def test_annotations(tmp_path, folder):
    for key, names in (("a", ("cat", "person", "cat")), ("b", ()), ("c", ("aeroplane",))):
        write(tmp_path / folder / f"{key}.xml", xml(*names))
    wanted = {"a": (7, 14), "b": (), "c": (0,)}
    for classes in (None, class_set("voc"), class_set(21)):
        tags = read_tags(tmp_path, classes=classes)
        assert (tags.table, tags.classes, tags.form) == (wanted, 20, "VOC's annotations")
    assert read_tags(tmp_path, keys=["c", "z"]).table == {"c": (0,)}
    assert read_tags(tmp_path / folder / "a.xml").table == {"a": (7, 14)}
    with pytest.raises(UserError, match=r"a\.xml names the class 'person': the data set's are cat, big dog"):
        read_tags(tmp_path, classes=PETS)
    with pytest.raises(UserError, match=r"has annotations, .* but --classes 81 is a number: pass the name"):
        read_tags(tmp_path, classes=class_set(81))


MASKS = {"a": [[0, 1], [3, 255]], "b": [[3, 3], [3, 2]], "c": [[255, 255], [255, 255]]}


@pytest.mark.parametrize(
    ("background", "classes", "wanted"),
    [
        (None, None, {"a": (0, 2), "b": (1, 2), "c": ()}),
        ("first", None, {"a": (0, 2), "b": (1, 2), "c": ()}),
        (None, class_set(4), {"a": (0, 2), "b": (1, 2), "c": ()}),
        ("last", class_set(4, background="last"), {"a": (0, 1), "b": (2,), "c": ()}),
        (None, class_set(4, background="last"), {"a": (0, 1), "b": (2,), "c": ()}),
        ("none", None, {"a": (0, 1, 3), "b": (2, 3), "c": ()}),
        (None, class_set(4, background="none"), {"a": (0, 1, 3), "b": (2, 3), "c": ()}),
    ],
)
def test_masks(tmp_path, background, classes, wanted):
    pytest.importorskip("PIL.Image", reason="needs Pillow")
    (tmp_path / "SegmentationClass").mkdir()
    for key, mask in MASKS.items():
        write_png(tmp_path / "SegmentationClass" / f"{key}.png", np.array(mask))
    tags = read_tags(tmp_path, classes=classes, background=background)
    assert tags.table == wanted
    assert (
        tags.form == f"masks with the background {background or (classes.background if classes else 'first')}"
    )
    assert tags.classes == (classes and len(classes.foreground))
    own = read_tags(tmp_path, classes=classes, background=background, keys=["b", "z"])
    assert own.table == {"b": wanted["b"]}


def test_masks_that_do_not_fit(tmp_path):
    pytest.importorskip("PIL.Image", reason="needs Pillow")
    write_png(tmp_path / "a.png", np.array(MASKS["a"]))
    with pytest.raises(UserError, match="has masks whose background is the last label: pass --classes N"):
        read_tags(tmp_path, background="last")
    with pytest.raises(UserError, match=r"a\.png holds the label 3, but there are 3 classes and ignore 255"):
        read_tags(tmp_path, classes=class_set(3))
    with pytest.raises(ValueError, match="background is 'last', but the class set 4 labels has it 'first'"):
        read_tags(tmp_path, classes=class_set(4), background="last")
    assert read_tags(tmp_path / "a.png", ignore_index=3).table == {"a": (0, 254)}
    np.save(tmp_path / "b.npy", np.array(MASKS["b"]))
    assert read_tags(tmp_path).table == {"a": (0, 2), "b": (1, 2)}
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty has no mask \(a file with one of \.png"):
        read_tags(tmp_path / "empty")
    (tmp_path / "a.png").write_bytes(b"x")
    with pytest.raises(OSError, match=r"a\.png cannot be read as a picture"):
        read_tags(tmp_path)


def test_sources_that_are_not_there(tmp_path):
    for name in ("none", "none.json", "none.npy", "none.xml", "none.png"):
        with pytest.raises((UserError, OSError), match="No such file or directory"):
            read_tags(tmp_path / name)


@pytest.mark.slow
def test_real_tags_and_masks_agree():
    """Every class of a mask is tagged; a tag may lie under void alone, so a few masks lack one."""
    root = shared_folder() / "data" / "voc12"
    if not root.is_dir():
        pytest.skip(f"no real images in {root}")
    pytest.importorskip("PIL.Image", reason="needs Pillow")
    voc = class_set("voc")
    labels = read_tags(root / "cls_labels.npy", classes=voc)
    masks = read_tags(root, classes=voc)
    entries = json.loads((root / "index.json").read_text())
    assert labels.of(masks.table).table == {
        e["id"]: tuple(tag - 1 for tag in e["image_tags"]) for e in entries
    }
    assert len(masks.table) == len(entries) == 594
    assert all(set(own) <= set(labels.table[key]) for key, own in masks.table.items())
    assert sum(own == labels.table[key] for key, own in masks.table.items()) == 585
