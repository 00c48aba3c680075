"""Names of the labels of the usual data sets."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest

from dhr_refine.datasets.classes import SETS, ClassSet, class_set

# Labels at places that a slip in the order would move, as the data sets' own pages number them.
KNOWN = {
    "voc": (21, "first", {0: "background", 1: "aeroplane", 8: "cat", 15: "person", 20: "tvmonitor"}),
    "coco": (81, "first", {0: "background", 1: "person", 17: "dog", 41: "wine glass", 80: "toothbrush"}),
    "context": (59, "none", {0: "aeroplane", 10: "table", 36: "ground", 41: "curtain", 58: "wood"}),
    "ade": (150, "none", {0: "wall", 12: "person", 75: "swivel chair", 126: "animal", 149: "flag"}),
    "stuff": (
        171,
        "none",
        {0: "person", 79: "toothbrush", 80: "banner", 111: "furniture-other", 170: "wood"},
    ),
}


@pytest.mark.parametrize("name", list(KNOWN))
def test_counts_orders_and_backgrounds(name):
    count, background, labels = KNOWN[name]
    found = class_set(name)
    assert (found.num_classes, found.background) == (count, background)
    assert {label: found.names[label] for label in labels} == labels
    assert len(set(found.names)) == count
    assert all(one == one.strip() and one for one in found.names)
    assert set(SETS) == set(KNOWN)


def test_a_background_joins_or_leaves_a_known_set():
    assert class_set("context", background="first").names[:2] == ("background", "aeroplane")
    assert class_set("context", background="first").num_classes == 60
    last = class_set("voc", background="last")
    assert (last.names[0], last.names[-1], last.background) == ("aeroplane", "background", "last")
    assert class_set("voc", background="none").names == class_set("voc").names[1:]


@pytest.mark.parametrize("given", ["4", 4])
def test_a_number_counts_the_background(given):
    assert class_set(given).names == ("background", "1", "2", "3")
    assert class_set(given, background="last").names == ("0", "1", "2", "background")
    assert class_set(given, background="none").names == ("0", "1", "2", "3")
    assert class_set(1).names == ("background",)
    assert class_set(given).name == "4 labels"


def test_a_class_set_stays_what_it_is():
    own = ClassSet("mine", ("sky", "sea"), "none")
    assert class_set(own) is own
    assert class_set(own, background="none") is own
    with pytest.raises(ValueError, match="background is 'first', but the class set mine has it 'none'"):
        class_set(own, background="first")
    with pytest.raises(dataclasses.FrozenInstanceError):
        own.name = "other"


@pytest.mark.parametrize("given", ["vox", "0", 0, -3, "", "65537", "1.5", "²", "9" * 5000, "VOC "])
def test_no_class_set_of_that_name(given):
    with pytest.raises(
        ValueError, match="pass one of voc, coco, context, ade, stuff, or the number of labels"
    ):
        class_set(given)


@pytest.mark.parametrize("given", [None, 2.0, True, ["cat"]])
def test_classes_are_a_name_or_a_number(given):
    with pytest.raises(TypeError, match="classes must be a name or a number, got "):
        class_set(given)


def test_no_such_place_of_the_background():
    with pytest.raises(ValueError, match="background must be one of first, last, none, got 'middle'"):
        class_set("voc", background="middle")


def test_nothing_heavy_is_imported():
    path = sys.modules["dhr_refine.datasets.classes"].__file__
    code = (
        f"import runpy, sys; runpy.run_path({path!r}); print('torch' in sys.modules, 'numpy' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["False", "False"]
