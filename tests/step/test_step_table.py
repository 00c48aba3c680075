"""The steps as a table, with names and small pictures."""

from __future__ import annotations

import base64
import io
import sys
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image

from dhr_refine import refine_steps
from dhr_refine.viz import palette

NAMES = ["background", "<b>cat</b> & co", "dog"]


def steps_of(height=40, width=60, *, images=None):
    """The left of the image is class 1, the right class 2, which the base mask has lost."""
    cams = torch.zeros(2, 4, 6)
    cams[0, :, :2], cams[1, :, 4:] = 1.0, 1.0
    base = torch.zeros(height, width, dtype=torch.long)
    base[:, : width // 3] = 1
    base[0] = 255
    features = torch.cat([cams, 1 - cams.amax(0, keepdim=True)]) + 0.01
    if images is None:
        return refine_steps(cams, base, features, features, labels=[0, 1], boundary=None)
    columns = [[part] * images for part in (cams, base, features, features)]
    return refine_steps(*columns, labels=[[0, 1]] * images, boundary=None)


def pictures_of(html):
    """The pictures of a fragment that must be well-formed, by their titles, as labels and as colours."""
    found = {}
    for picture in ElementTree.fromstring(html).iter("img"):
        head, data = picture.attrib["src"].split(",")
        assert head == "data:image/png;base64"
        assert picture.attrib["alt"] == picture.attrib["title"]
        image = Image.open(io.BytesIO(base64.b64decode(data, validate=True)))
        found.setdefault(picture.attrib["title"], []).append(
            (np.array(image), np.array(image.convert("RGB")))
        )
    return found


def test_names_are_shown_and_escaped():
    steps = steps_of()
    table = steps.table(NAMES)
    assert [line.split("  ")[0] for line in repr(table).splitlines()[2:]] == NAMES
    root = ElementTree.fromstring(table._repr_html_())
    assert [row[0].text for row in root.iter("tr")][1:] == NAMES
    assert "<b>" not in table._repr_html_()
    numbers = ElementTree.fromstring(steps._repr_html_())
    assert [row[0].text for row in numbers.iter("tr")][1:] == ["0", "1", "2"]
    some = ElementTree.fromstring(steps.table({1: "cat"})._repr_html_())
    assert [row[0].text for row in some.iter("tr")][1:] == ["class 0", "cat", "class 2"]


def test_what_the_base_mask_had_is_shown():
    steps = steps_of()
    assert steps.base_mask[0].unique().tolist() == [255]
    rows = [line.split()[1:3] for line in repr(steps.table({0: "a", 1: "b", 2: "c"})).splitlines()[2:]]
    assert [row[0] for row in rows] == ["65.0%", "32.5%", "0.0%"]
    assert "recovered" in repr(steps.table())


@pytest.mark.parametrize(
    ("size", "seen"), [((40, 60), (40, 60)), ((96, 90), (96, 90)), ((200, 300), (50, 75))]
)
def test_pictures_are_the_masks(size, seen):
    steps = steps_of(*size)
    pictures = pictures_of(steps._repr_html_())
    assert list(pictures) == ["base", "M_init", "result"]
    masks = {"base": steps.base_mask, "M_init": steps.init_mask, "result": steps.mask}
    step = size[0] // seen[0]
    for name, [(labels, colours)] in pictures.items():
        expected = masks[name][step // 2 :: step, step // 2 :: step].numpy()
        assert labels.shape == seen
        np.testing.assert_array_equal(labels, expected)
        np.testing.assert_array_equal(colours, palette(21)[expected])


def test_labels_beyond_a_byte_are_drawn():
    steps = steps_of()
    mask = torch.where(steps.mask == 2, 1002, steps.mask)
    classes = torch.tensor([0, 1, 1002])
    [(labels, _)] = pictures_of(replace(steps, mask=mask, classes=classes)._repr_html_())["result"]
    assert set(np.unique(labels).tolist()) == {0, 1, 1002 % 255}


def test_without_pillow_there_are_no_pictures(monkeypatch):
    steps = steps_of()
    rows = [line.split() for line in repr(steps.table()).splitlines()]
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert pictures_of(steps._repr_html_()) == {}
    assert [line.split() for line in repr(steps.table()).splitlines()] == rows


def test_lists_show_eight_images():
    table = steps_of(images=10).table(NAMES)
    assert repr(table).count("share of the pixels") == 8
    assert repr(table).endswith("\n\nand 2 more images")
    assert [len(shown) for shown in pictures_of(table._repr_html_()).values()] == [8, 8, 8]


@pytest.mark.parametrize(
    ("names", "error", "message"),
    [
        (["background", "cat"], ValueError, "names has 2 entries but label 2 is shown: name every label"),
        ("cat", TypeError, "names must be a list, got "),
        (3, TypeError, "names must be a list, got "),
    ],
)
def test_names_that_do_not_fit_are_refused_at_once(names, error, message):
    with pytest.raises(error, match=message):
        steps_of().table(names)
