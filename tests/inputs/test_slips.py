"""Warnings about slips: each where it was made, and none where the input can be meant."""

# ruff: noqa: E501  (tables of slips, one case a line)

from __future__ import annotations

import math
import warnings

import pytest
import torch
from scenes import make_scene, stack
from two_scenes import BOXES, CAMS, IMAGES, MASKS, TAGS, USS, WSS, call, listed, single

from dhr_refine import Recipe, refine_mask
from dhr_refine.inputs import ArgumentNames
from dhr_refine.inputs.boxes import Boxes

LAST = torch.where(MASKS == 0, 8, MASKS - 1)  # the background last
NONE = torch.where(MASKS == 0, 255, MASKS - 1)


def warned(call, **changes):
    """Texts of the warnings of a call."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        call(**changes)
    assert all(warning.category is UserWarning for warning in seen)
    assert all(warning.filename.endswith("two_scenes.py") for warning in seen)  # the line that called
    return [str(warning.message) for warning in seen]


def shifted(labels, by):
    return [[tag + by for tag in own] for own in labels]


@pytest.mark.parametrize("caller", [call, listed])
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"labels": shifted(TAGS, 1)}, "take 1 off tags that count from 1"),
        ({"masks": MASKS - (MASKS > 0).long()}, "masks is among the tags, but 2, 3, 6 would be if it were +1"),
        ({"masks": NONE}, "pass background='none' or 'last' if label 0 of masks is a class"),
        ({"masks": LAST}, "pass background='none' or 'last'"),
        ({"masks": torch.where(MASKS == 0, 0, MASKS + 1)}, "take 1 off masks whose classes start one higher"),
        ({"labels": shifted(TAGS, -1)}, "would be if it were -1"),
        ({"background": "last"}, "pass background='first' if label 0 of masks is the background"),
        ({"background": "none"}, "pass background='first' if label 0 of masks is the background"),
    ],
)  # fmt: skip
def test_tags_and_masks_that_are_one_apart(caller, changes, text):
    if caller is listed and "masks" in changes:
        changes = {"masks": list(changes["masks"])}
    seen = warned(caller, **changes)
    assert len(seen) == 1
    assert text in seen[0]


def test_one_image_with_two_labels_can_tell():
    (text,) = warned(single, labels=[3, 7])
    assert text == (
        "no foreground label of masks is among the tags, but 3, 7 would be if it were +1: tags count from 0, and "
        "with background='first' tag t has the label t + 1; take 1 off tags that count from 1 or hold the "
        "background, or pass background='none' or 'last' if label 0 of masks is a class"
    )


@pytest.mark.parametrize(
    ("masks", "labels"),
    [
        ([[3]], [[3]]),  # one label: the base mask of one image may well show another class
        ([[3], [3]], [[3], [3]]),  # of many images too, if always the same
        ([[3], [5], [7]], [[3], [5], [6]]),  # one image is as it should be
        ([[3], [5, 6]], [[3], [1]]),  # one image that no shift explains
        ([[3, 5]], [[4, 6]]),  # two apart
        ([[], [], []], [[1], [2], [3]]),  # vanished classes: what this library is for
        ([[4], [5]], [[], []]),  # no tags
        ([[3, 4], [6, 7]], [[2, 3], [5, 6]]),  # as it should be, with neighbours
        ([[3, 4], [5, 6]], [[2, 3, 4], [4, 5, 6]]),  # the same, where the last one vanished
    ],
)
@pytest.mark.parametrize("recipe", [Recipe(), Recipe.released()], ids=["default", "released"])
def test_base_masks_that_may_miss_their_tags(masks, labels, recipe):
    scene = make_scene(0)
    batch = [
        torch.stack([part] * len(masks)) for part in (scene.cams, scene.mask * 0, scene.uss, scene.wss[1])
    ]
    for mask, own in zip(batch[1], masks, strict=True):
        for place, label in enumerate(own):
            mask[5 * place : 5 * place + 5] = label
    refine_mask(*batch, labels=labels, boundary=None, recipe=recipe)  # warnings are errors


def test_tags_without_evidence_stay_silent_without_labels():
    with pytest.warns(UserWarning, match="without labels") as seen:
        call(labels=None, background="none", masks=MASKS.clamp_max(7))
    assert len(seen) == 1


@pytest.mark.parametrize("kind", [torch.float32, torch.int64])
def test_boxes_that_are_shares_of_the_image(kind):
    boxes = torch.tensor([[0, 0, 1, 1]] * 2, dtype=kind)
    (text,) = warned(call, boxes=boxes, box_format="xyxy")
    assert "shares of the image: pass pixels" in text
    if kind == torch.float32:
        assert warned(single, boxes=boxes[0], box_format="xyxy") == [text]
    else:
        single(boxes=[0, 0, 1, 1], box_format="xyxy")  # a crop may show a single pixel
    call(boxes=[(0, 0, 1, 1), BOXES[0]], box_format="xyxy")


def test_boxes_in_the_other_order():
    rows = torch.tensor([[0, 0, 20, 40], [0, 0, 30, 40]])
    (text,) = warned(call, boxes=rows, box_format="yyxx")
    assert text == "boxes are all empty read as 'yyxx', and none as 'xyxy': pass box_format='xyxy'"
    call(boxes=[(0, 0, 0, 0), (5, 5, 5, 9)], box_format="xyxy")  # windows beside the image
    single(boxes=(0, 5, 0, 9), box_format="xyxy")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"cams": CAMS.mT.contiguous()}, "cams has 14 x 10 cells, .*: pass cams.mT if height and width are exchanged"),
        ({"uss_features": torch.rand(2, 4, 14, 10)}, "uss_features has 14 x 10 cells, .* pass uss_features.mT"),
        ({"wss_features": [WSS[0], WSS[1].mT]}, r"wss_features\[1\] has 14 x 10 .* pass wss_features\[1\].mT"),
        ({"uss_features": torch.rand(2, 10, 14, 32)}, r"pass uss_features.movedim\(-1, -3\) if the channels are its last"),
        ({"uss_features": torch.rand(2, 4, 9, 30)}, "neither that of masks .* nor that of the other maps: pass maps of what"),
    ],
)  # fmt: skip
def test_maps_of_another_aspect_ratio(changes, text):
    with pytest.warns(UserWarning, match=text) as seen:
        call(**changes)
    assert len(seen) == 1


def test_the_grid_of_a_list_is_named_by_its_place():
    features = [USS[0], torch.rand(12, 14, 9)]
    with pytest.warns(UserWarning, match=r"uss_features\[1\] has 14 x 9 cells"):
        listed(uss_features=features)


SIZES = [
    (375, 500),
    (500, 375),
    (333, 500),
    (281, 500),
    (500, 334),
    (512, 512),
    (448, 448),
    (427, 640),
    (97, 500),
]


def grids_of(size):
    """Grids that networks make of an image: strides, patches, padding, cut borders, resizing to squares."""
    for stride in (4, 8, 14, 16, 32):
        up = [math.ceil(side / stride) for side in size]
        down = [max(1, side // stride) for side in size]
        yield up
        yield down
        yield [up[0], down[1]]
        yield [side + 1 for side in up]  # a patch of padding
        yield [max(1, side - 1) for side in down]  # a border without padding
    for side in (14, 16, 28, 32, 37, 60, 64):
        yield [side, side]


@pytest.mark.parametrize("size", SIZES)
def test_no_grid_that_networks_make_is_taken_for_a_slip(size):
    from dhr_refine.inputs.slips import Evidence, warn_about_slips

    grids = [grid for grid in grids_of(size) if grid[0] <= size[0] and grid[1] <= size[1]]
    for one in grids:
        maps = [("cams", "", [20, *one]), *(("uss_features", "", [90, *other]) for other in grids)]
        boxes = Boxes([(0, 0, size[1], size[0])], [None], False)
        evidence = Evidence(ArgumentNames("batch", [0]), size, maps, [[0]], [[1]], 20, boxes, None, None)
        warn_about_slips([evidence], "first", None)


@pytest.mark.parametrize("grid", [(30, 40), (24, 32), (9, 16)])
def test_one_fixed_size_for_all_images_is_no_slip(grid):
    """A network may resize portraits and landscapes alike: its maps agree with each other."""
    scene = make_scene(0, size=(60, 44), uss_grid=grid, cam_grid=grid, wss_grids=(grid,))
    refine_mask(*stack([scene])[:4], labels=[scene.tags], boundary=None)


def test_a_square_grid_does_not_tell_of_an_image_that_is_not_square():
    scene = make_scene(0, size=(44, 48), uss_grid=(12, 12), cam_grid=(9, 16), wss_grids=((9, 16),))
    refine_mask(*stack([scene])[:4], labels=[scene.tags], boundary=None)
    scene = make_scene(0, size=(48, 48), uss_grid=(12, 12), cam_grid=(9, 16), wss_grids=((9, 16),))
    with pytest.warns(UserWarning, match="cams has 9 x 16 cells"):
        refine_mask(*stack([scene])[:4], labels=[scene.tags], boundary=None)


def test_images_normalised_with_one_half():
    span = IMAGES.float().clone()
    span[:, :, 0, 0], span[:, :, 0, 1] = 0, 255
    span = span / 127.5 - 1
    (text,) = warned(call, images=span)
    assert "images span exactly [-1, 1]" in text
    call(images=span, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    unit = IMAGES.float() / 255
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    call(images=(unit - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    call(images=unit)
    call(images=IMAGES)


def test_a_warning_is_silenced_in_the_usual_way():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", message="no foreground label of masks is among the tags")
        call(labels=shifted(TAGS, 1))


def test_several_slips_give_a_warning_each():
    seen = warned(call, labels=shifted(TAGS, 1), cams=CAMS.mT.contiguous())
    assert len(seen) == 2
