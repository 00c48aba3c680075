"""Palettes: VOC's exact colours, and distances between those that continue them."""

from __future__ import annotations

import numpy as np
import pytest
from shown import CREAM

from dhr_refine import viz
from dhr_refine.palettes import _oklab


def test_palette_of_few_classes_is_that_of_voc():
    for num_classes in (1, 2, 21):
        colours = viz.palette(num_classes)
        assert colours.shape == (256, 3)
        assert colours.dtype == np.uint8
        assert colours[[0, 1, 2, 4, 15, 20, 22, 255]].tolist() == [
            [0, 0, 0],
            [128, 0, 0],
            [0, 128, 0],
            [0, 0, 128],
            [192, 128, 128],
            [0, 64, 128],
            [0, 192, 128],
            CREAM,
        ]
        assert len(np.unique(colours, axis=0)) == 256


@pytest.mark.parametrize("num_classes", [22, 81, 171, 255])
def test_palette_of_many_classes_is_distinct_and_continues_voc(num_classes):
    colours = viz.palette(num_classes)
    assert (colours[:21] == viz.palette(21)[:21]).all()
    assert (colours == viz.palette(255)).all()  # a label keeps its colour whatever the number of classes
    assert colours[255].tolist() == CREAM
    used = _oklab(colours[[*range(num_classes), 255]])
    apart = np.linalg.norm(used[:, None] - used, axis=-1)
    voc = _oklab(viz.palette(21)[[*range(21), 255]])
    voc_apart = np.linalg.norm(voc[:, None] - voc, axis=-1)
    # Of 171 classes none are much closer than VOC's own closest pair, of 255 than half of that.
    least = voc_apart[~np.eye(22, dtype=bool)].min()
    assert apart[~np.eye(num_classes + 1, dtype=bool)].min() > (0.7 if num_classes <= 171 else 0.5) * least
    # Beyond VOC's none is a grey (it would pass for the photo).
    assert (np.ptp(colours[21:num_classes].astype(int), axis=1) > 15).all()


def test_oklab_has_white_at_lightness_one_and_red_at_its_published_place():
    found = _oklab(np.array([[255, 255, 255], [0, 0, 0], [255, 0, 0]]))
    assert np.allclose(found, [[1, 0, 0], [0, 0, 0], [0.628, 0.225, 0.126]], atol=1e-3)


def test_vivid_colours_stand_out_from_any_grey_photo_and_from_each_other():
    colours = viz.palette(21, style="vivid")
    assert (colours == viz.palette(255, style="vivid")).all()
    assert colours[0].tolist() == [0, 0, 0]
    assert colours[255].tolist() == CREAM
    greys = np.arange(0, 256, 5, dtype=np.uint8)
    photo = np.repeat(greys[None, :, None], 3, axis=2)
    shape = (1, len(greys))

    def distances(table, labels):
        """Of each label laid over a grey from the background laid over the same grey."""
        ground = _oklab(viz.overlay_mask(photo, np.zeros(shape, int), colours=table)[0])
        laid = [_oklab(viz.overlay_mask(photo, np.full(shape, one), colours=table)[0]) for one in labels]
        return np.linalg.norm(np.stack(laid) - ground, axis=-1).min(axis=1)

    assert (distances(colours, range(1, 21)) > 0.12).all()
    assert (distances(viz.palette(21), (8, 16)) < 0.12).all()  # VOC's cat and plant do vanish
    used = _oklab(colours[[*range(8), 255]])
    apart = np.linalg.norm(used[:, None] - used, axis=-1)[~np.eye(9, dtype=bool)]
    assert apart.min() > 0.09


def test_palette_is_a_new_array_each_time():
    viz.palette(21)[:] = 7
    viz.palette(255)[:] = 7
    viz.palette(21, style="vivid")[:] = 7
    assert viz.palette(21, style="vivid")[1].tolist() == [213, 94, 0]
    assert viz.palette(21)[1].tolist() == [128, 0, 0]
    assert viz.palette(255)[1].tolist() == [128, 0, 0]


@pytest.mark.parametrize(
    ("num_classes", "error", "text"),
    [
        (0, ValueError, "num_classes must be at least 1, got 0"),
        (256, ValueError, r"num_classes must lie in \[1, 255\], got 256"),
        (21.0, TypeError, "num_classes must be an int"),
    ],
)
def test_palette_refuses_other_numbers(num_classes, error, text):
    with pytest.raises(error, match=text):
        viz.palette(num_classes)


def test_palette_refuses_other_styles():
    with pytest.raises(ValueError, match="style must be one of 'voc', 'vivid', got 'loud'"):
        viz.palette(21, style="loud")
