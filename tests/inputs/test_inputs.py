"""Every form in which refine_mask takes tags, boxes, images, masks and features, and every error of them."""

# ruff: noqa: E501  (tables of errors, one case a line)

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from scenes import make_scene, multi_hot, stack

from dhr_refine import refine_mask, refine_steps

TAGS = [[2, 6], [3]]
SCENES = [make_scene(0, tags=(2, 6)), make_scene(1, tags=(3,))]
CAMS, MASKS, USS, WSS, IMAGES = stack(SCENES)
EXPECTED = refine_mask(CAMS, MASKS, USS, WSS, labels=multi_hot(TAGS, 8), boundary=None)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def call(**changes):
    """The two scenes as a batch, with changes; no boundary tool unless told."""
    arguments = {
        "cams": CAMS,
        "masks": MASKS,
        "uss_features": USS,
        "wss_features": WSS,
        "labels": multi_hot(TAGS, 8),
        "boundary": None,
    }
    return refine_mask(**{**arguments, **changes})


def single(**changes):
    """The first scene without a batch axis."""
    scene = SCENES[0]
    arguments = {
        "cams": scene.cams,
        "masks": scene.mask,
        "uss_features": scene.uss,
        "wss_features": scene.wss,
        "labels": [2, 6],
    }
    return refine_mask(**{**arguments, "boundary": None, **changes})


def listed(**changes):
    """Both scenes as lists."""
    columns = dict(
        zip(
            ("cams", "masks", "uss_features", "wss_features"),
            zip(*(s[:4] for s in SCENES), strict=True),
            strict=True,
        )
    )
    arguments = {name: list(column) for name, column in columns.items()}
    return refine_mask(**{**arguments, "labels": TAGS, "boundary": None, **changes})


def test_the_scenes_are_worth_it():
    assert EXPECTED[0].unique().tolist() == [0, 3, 7]
    assert EXPECTED[1].unique().tolist() == [0, 4]
    assert not torch.equal(EXPECTED, MASKS)


# -- tags ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        torch.float32,
        torch.float64,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.uint8,
        torch.bool,
    ],
)
def test_multi_hot_tags_of_any_type(kind):
    assert torch.equal(call(labels=multi_hot(TAGS, 8, kind)), EXPECTED)
    assert torch.equal(call(labels=list(multi_hot(TAGS, 8, kind))), EXPECTED)
    if kind != torch.bfloat16:
        assert torch.equal(call(labels=multi_hot(TAGS, 8, kind).numpy()), EXPECTED)
    assert torch.equal(single(labels=multi_hot(TAGS, 8, kind)[0]), EXPECTED[0])


@pytest.mark.parametrize(
    "labels",
    [
        [[2, 6], [3]],
        [(6, 2), (3,)],
        [{6, 2}, {3}],
        [frozenset({2, 6}), range(3, 4)],
        ([2, 6], [3]),
        [np.array([2, 6]), np.array([3], dtype=np.int32)],
        [torch.tensor([2, 6]), torch.tensor([3])],
        [list(np.array([2, 6])), [torch.tensor(3)]],
    ],
)
def test_tags_as_indices(labels):
    assert torch.equal(call(labels=labels), EXPECTED)
    masks = listed(labels=labels)
    assert all(torch.equal(a, b) for a, b in zip(masks, EXPECTED, strict=True))


def test_the_order_of_indices_only_orders_the_classes():
    one = refine_steps(*stack(SCENES[:1])[:4], labels=[[2, 6]], boundary=None)
    other = refine_steps(*stack(SCENES[:1])[:4], labels=[[6, 2]], boundary=None)
    assert one.classes.tolist() == [[0, 3, 7]]
    assert other.classes.tolist() == [[0, 7, 3]]
    assert torch.equal(one.mask, other.mask)


@pytest.mark.parametrize("kind", [torch.int64, torch.uint8, torch.bool, torch.float32])
@pytest.mark.parametrize("row", [[1], [0], [0, 1], [1, 0], [1, 1], [0, 0]])
def test_multi_hot_tags_of_a_data_set_with_one_or_two_classes(kind, row):
    """A (B, C) tensor is multi-hot, however few the classes and whatever its type."""
    scene = make_scene(0, tags=(0, 1), classes=2)
    masks = scene.mask[None].clamp_max(len(row))
    steps = refine_steps(
        scene.cams[None, : len(row)],
        masks,
        scene.uss[None],
        scene.wss[1][None],
        labels=torch.tensor([row]).to(kind),
        boundary=None,
    )
    assert steps.classes.tolist() == [[0, *(tag + 1 for tag, own in enumerate(row) if own)]]


def test_no_labels_means_the_classes_of_the_masks_with_a_warning():
    with pytest.warns(
        UserWarning, match="without labels: the classes present in masks stand in for the tags"
    ) as seen:
        mask = call(labels=None)
    assert torch.equal(mask, EXPECTED)
    # The warning has to point at the caller's line, or Python shows it once per program and blames the library.
    assert seen[0].filename == __file__


def test_no_labels_with_the_background_last_or_none():
    last = torch.where(MASKS == 0, 8, MASKS - 1)
    with pytest.warns(UserWarning, match="without labels"):
        mask = call(labels=None, masks=last, background="last")
    assert torch.equal(torch.where(mask == 8, 0, mask + 1), EXPECTED)
    with pytest.warns(UserWarning, match="without labels"):
        mask = call(labels=None, masks=torch.where(MASKS == 0, 255, MASKS - 1), background="none")
    assert set(mask.unique().tolist()) == {2, 3, 6}


def test_labels_mean_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        call()


# -- CAM channels ----------------------------------------------------------------------------------


@pytest.mark.parametrize("background", ["first", "last"])
def test_cams_with_a_background_channel(background):
    extra = torch.rand(2, 1, 10, 14)
    parts = (extra, CAMS) if background == "first" else (CAMS, extra)
    masks = MASKS if background == "first" else torch.where(MASKS == 0, 8, MASKS - 1)
    mask = call(cams=torch.cat(parts, 1), masks=masks, background=background)
    assert torch.equal(mask if background == "first" else torch.where(mask == 8, 0, mask + 1), EXPECTED)


def compact():
    """CAMs of the tags alone; two images with two tags each."""
    scenes = [make_scene(0, tags=(2, 6)), make_scene(3, tags=(1, 5))]
    cams, masks, uss, wss, _ = stack(scenes)
    few = torch.stack([s.cams[s.tags] for s in scenes])
    labels = [s.tags for s in scenes]
    expected = refine_mask(cams, masks, uss, wss, labels=labels, boundary=None)
    return few, (masks, uss, wss), labels, expected


def test_cams_of_the_tags_alone():
    few, rest, labels, expected = compact()
    assert torch.equal(refine_mask(few, *rest, labels=labels, boundary=None), expected)
    keys = [np.array(own) for own in labels]
    assert torch.equal(refine_mask(few, *rest, labels=keys, boundary=None), expected)
    assert torch.equal(refine_mask(few, *rest, labels=multi_hot(labels, 8), boundary=None), expected)
    swapped = refine_mask(few.flip(1), *rest, labels=[own[::-1] for own in labels], boundary=None)
    assert torch.equal(swapped, expected)


def test_a_list_of_cams_of_the_tags_alone_one_count_per_image():
    cams = [scene.cams[scene.tags] for scene in SCENES]
    masks = listed(cams=cams)
    assert all(torch.equal(a, b) for a, b in zip(masks, EXPECTED, strict=True))
    masks = listed(cams=cams, labels=[np.array(own) for own in TAGS])
    assert all(torch.equal(a, b) for a, b in zip(masks, EXPECTED, strict=True))
    assert torch.equal(single(cams=SCENES[0].cams[[2, 6]], labels=torch.tensor([2, 6])), EXPECTED[0])


def test_index_tags_name_the_channels_of_full_cams_directly():
    """Indices do not tell of a background channel: with one, the tags must be multi-hot (as documented)."""
    extra = torch.cat((torch.rand(2, 1, 10, 14), CAMS), 1)
    assert torch.equal(call(cams=extra, labels=multi_hot(TAGS, 8)), EXPECTED)
    assert torch.equal(call(cams=CAMS, labels=TAGS), call(cams=CAMS, labels=multi_hot(TAGS, 8)))


def test_integer_arrays_of_different_lengths_are_keys():
    scenes = [SCENES[0], make_scene(3, tags=(0,))]
    cams = [scene.cams[scene.tags] for scene in scenes]
    expected = refine_mask(
        cams, *[list(x) for x in zip(*[(s.mask, s.uss, s.wss) for s in scenes])],
        labels=[list(s.tags) for s in scenes], boundary=None,
    )  # fmt: skip
    for kind in (np.array, torch.tensor):
        masks = refine_mask(
            cams, *[list(x) for x in zip(*[(s.mask, s.uss, s.wss) for s in scenes])],
            labels=[kind(list(s.tags)) for s in scenes], boundary=None,
        )  # fmt: skip
        assert all(torch.equal(a, b) for a, b in zip(masks, expected, strict=True))


# -- background, masks -----------------------------------------------------------------------------


def test_background_last_and_none():
    last = torch.where(MASKS == 0, 8, MASKS - 1)
    mask = call(masks=last, background="last")
    assert torch.equal(torch.where(mask == 8, 0, mask + 1), EXPECTED)
    none = refine_steps(
        CAMS, torch.where(MASKS == 0, 255, MASKS - 1), USS, WSS, labels=TAGS, background="none", boundary=None
    )
    assert none.classes.tolist() == [[2, 6], [3, -1]]
    assert set(none.mask.unique().tolist()) == {2, 3, 6}


@pytest.mark.parametrize(
    "kind", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.float32, torch.float64, torch.float16]
)
def test_masks_of_any_type(kind):
    mask = call(masks=MASKS.to(kind))
    assert mask.dtype == torch.int64
    assert torch.equal(mask, EXPECTED)


def test_layouts_do_not_matter():
    def turned(t):
        return t.mT.contiguous().mT

    mask = call(
        cams=CAMS.to(memory_format=torch.channels_last),
        masks=turned(MASKS),
        uss_features=turned(USS),
        wss_features=[turned(level) for level in WSS],
    )
    assert torch.equal(mask, EXPECTED)


def test_another_ignore_index():
    masks = MASKS.clone()
    masks[:, 18:22] = 255
    expected = call(masks=masks)
    for ignore in (-1, 200, -100, 999):
        mask = call(masks=torch.where(masks == 255, ignore, masks), ignore_index=ignore)
        assert torch.equal(torch.where(mask == ignore, 255, mask), expected)


def test_one_level_as_a_tensor_or_a_list():
    assert torch.equal(call(wss_features=WSS[1]), call(wss_features=[WSS[1]]))
    assert torch.equal(call(wss_features=WSS[1]), call(wss_features=(WSS[1],)))
    assert torch.equal(single(wss_features=SCENES[0].wss[1]), single(wss_features=[SCENES[0].wss[1]]))
    one = listed(wss_features=[s.wss[1] for s in SCENES])
    assert all(torch.equal(a, b) for a, b in zip(one, call(wss_features=WSS[1]), strict=True))


# -- boxes -----------------------------------------------------------------------------------------

BOXES = [(4, 3, 50, 36), (0, 0, 40, 40)]
TURNED = [(y0, y1, x0, x1) for x0, y0, x1, y1 in BOXES]


@pytest.mark.parametrize("order", ["xyxy", "yyxx"])
@pytest.mark.parametrize(
    "form",
    [
        list,
        torch.tensor,
        np.array,
        lambda b: torch.tensor(b, dtype=torch.int16),
        lambda b: torch.tensor(b).float(),
        lambda b: [torch.tensor(x) for x in b],
        lambda b: [np.array(x, dtype=np.int16) for x in b],
        lambda b: tuple(list(x) for x in b),
    ],
)
def test_boxes_in_every_form(order, form):
    expected = call(boxes=BOXES, box_format="xyxy")
    boxes = form(BOXES if order == "xyxy" else TURNED)
    mask = call(boxes=boxes, box_format=order)
    assert torch.equal(mask, expected)
    assert torch.equal(single(boxes=boxes[0], box_format=order), expected[0])
    assert all(
        torch.equal(a, b) for a, b in zip(listed(boxes=boxes, box_format=order), expected, strict=True)
    )


def test_boxes_of_some_images_only():
    expected = call(boxes=[(0, 0, 56, 40), BOXES[1]], box_format="xyxy")
    assert torch.equal(call(boxes=[None, BOXES[1]], box_format="xyxy"), expected)
    assert all(
        torch.equal(a, b)
        for a, b in zip(listed(boxes=[None, BOXES[1]], box_format="xyxy"), expected, strict=True)
    )
    assert torch.equal(call(boxes=[None, None], box_format="xyxy"), EXPECTED)
    assert all(torch.equal(a, b) for a, b in zip(listed(boxes=[None, None]), EXPECTED, strict=True))


def test_padding_changes_nothing():
    """A crop padded to a whole number of cells gives what the crop alone gives, inside its box."""
    scene = make_scene(4, size=(40, 56), uss_grid=(10, 14), cam_grid=(10, 14), wss_grids=((10, 14),))
    alone = refine_steps(scene.cams, scene.mask, scene.uss, scene.wss, labels=scene.tags, boundary=None)

    def pad(t, rows, columns, value):
        return torch.nn.functional.pad(t, (columns, 0, 0, rows), value=value)

    padded = refine_steps(
        pad(scene.cams, 3, 2, 9.0),
        pad(scene.mask, 12, 8, 5),
        pad(scene.uss, 3, 2, 1.0),
        [pad(level, 3, 2, 1.0) for level in scene.wss],
        labels=scene.tags,
        boxes=(8, 0, 64, 40),
        box_format="xyxy",
        boundary=None,
    )
    assert torch.allclose(padded.uss_centroids, alone.uss_centroids, atol=1e-5)
    assert torch.allclose(padded.uss[:, :10, 2:], alone.uss, atol=2e-3)
    assert torch.equal(padded.init_mask[:40, 8:], alone.init_mask) or (
        (padded.init_mask[:40, 8:] != alone.init_mask)[:38, 2:].sum()
        == 0  # resizing sees the padding at the rim
    )
    assert (padded.mask[40:] == 255).all()
    assert (padded.mask[:, :8] == 255).all()
    assert (padded.mask[:38, 10:] == alone.mask[:38, 2:]).float().mean() > 0.995


# -- images ----------------------------------------------------------------------------------------


def seen_images(images, **options):
    seen = []

    def tool(crops, probs):
        seen.append(crops)
        return probs

    call(images=images, boundary=tool, **options)
    return torch.cat(seen[: len(seen) // 2])


def test_images_in_every_form_reach_the_boundary_tool_as_the_same_bytes():
    unit = IMAGES.float() / 255
    normalised = (unit - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    other = (unit - 0.5) / 0.5
    assert torch.equal(seen_images(IMAGES), IMAGES)
    assert torch.equal(seen_images(IMAGES.permute(0, 2, 3, 1)), IMAGES)
    assert torch.equal(seen_images(unit), IMAGES)
    assert torch.equal(seen_images(unit, mean=None, std=None), IMAGES)
    assert torch.equal(seen_images(normalised), IMAGES)
    assert torch.equal(seen_images(normalised.double()), IMAGES)
    assert torch.equal(seen_images(other, mean=[0.5] * 3, std=[0.5] * 3), IMAGES)
    rough = seen_images(normalised.half()).int() - IMAGES.int()
    assert rough.abs().max() <= 1


def test_one_image_with_channels_last():
    seen = []

    def tool(images, probs):
        seen.append(images)
        return probs

    single(images=SCENES[0].image.permute(1, 2, 0), boundary=tool)
    assert torch.equal(seen[0][0], SCENES[0].image)
    listed(images=[s.image.permute(1, 2, 0) for s in SCENES], boundary=tool)
    assert torch.equal(seen[2][0], SCENES[0].image)


# -- errors ----------------------------------------------------------------------------------------

NAN = torch.full_like(CAMS, math.nan)
BOXED = {"box_format": "xyxy"}


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        # ranks, types, batch sizes, devices
        ({"masks": MASKS.numpy()}, TypeError, r"masks must be a tensor \(B, H, W\) or \(H, W\), or a list of \(H, W\), got a NumPy int64 array"),
        ({"masks": []}, TypeError, r"masks must be a tensor .* got list \[\]: convert arrays with torch.as_tensor"),
        ({"masks": MASKS[None]}, ValueError, r"masks must have shape \(B, H, W\) or \(H, W\), got a torch.int64 tensor"),
        ({"masks": MASKS > 0}, TypeError, "masks must hold labels, got a torch.bool tensor .*: pass integers"),
        ({"masks": MASKS * 1j}, TypeError, "masks must hold labels, got a torch.complex64 tensor"),
        ({"masks": MASKS + 0.5}, ValueError, "masks holds values that are no whole numbers: pass labels"),
        ({"masks": MASKS * math.nan}, ValueError, "masks holds values that are no whole numbers"),
        ({"masks": MASKS + 100}, ValueError, r"masks holds the label 100 but there are 8 foreground classes with background 'first' \(labels 0..8, ignore 255\): check background"),
        ({"masks": MASKS + 10**6}, ValueError, "masks holds the label 1000000, which no class has and is not ignore_index 255"),
        ({"masks": MASKS - 3}, ValueError, "masks holds the label -3, which no class has"),
        ({"masks": torch.full_like(MASKS, 8), "background": "none"}, ValueError, "masks holds the label 8 but there are 8 foreground classes with background 'none'"),
        ({"cams": CAMS[0]}, ValueError, r"cams must have shape \(B, C, h, w\), got a torch.float32 tensor of shape"),
        ({"cams": list(CAMS)}, TypeError, r"cams must be a torch.Tensor of shape \(B, C, h, w\), got list"),
        ({"cams": CAMS.int()}, TypeError, r"cams must be floating point, got a torch.int32 tensor .*: call .float\(\)"),
        ({"cams": CAMS[:1]}, ValueError, "cams has batch size 1 but masks has 2: pass the same images in both"),
        ({"cams": CAMS.to("meta")}, ValueError, r"cams is on meta but masks is on cpu: move cams with .to\(masks.device\)"),
        ({"cams": NAN}, ValueError, r"cams holds NaN or infinity: .* torch.nan_to_num\(cams\)"),
        ({"cams": CAMS / 0}, ValueError, "cams holds NaN or infinity"),
        ({"uss_features": USS[0]}, ValueError, r"uss_features must have shape \(B, D, h, w\)"),
        ({"uss_features": USS.long()}, TypeError, "uss_features must be floating point"),
        ({"uss_features": USS[:1]}, ValueError, "uss_features has batch size 1 but masks has 2"),
        ({"uss_features": USS / 0}, ValueError, "uss_features holds NaN or infinity"),
        ({"wss_features": []}, TypeError, r"wss_features must be a tensor \(B, D, h, w\) or a list of levels, got list \[\]"),
        ({"wss_features": None}, TypeError, "wss_features must be a tensor .* got NoneType None: pass at least one map"),
        ({"wss_features": WSS[0][0]}, ValueError, r"wss_features must have shape \(B, D, h, w\)"),
        ({"wss_features": [WSS[0], WSS[1][0]]}, ValueError, r"wss_features\[1\] must have shape"),
        ({"wss_features": [WSS[0], WSS[1][:1]]}, ValueError, r"wss_features\[1\] has batch size 1 but masks has 2"),
        ({"wss_features": [WSS[0], WSS[1] / 0]}, ValueError, r"wss_features\[1\] holds NaN or infinity"),
        ({"wss_features": WSS[0] / 0}, ValueError, "wss_features holds NaN or infinity"),
        ({"background": "zero"}, ValueError, "background must be one of 'first', 'last', 'none', got 'zero'"),
        # labels
        ({"labels": multi_hot(TAGS, 8)[0]}, ValueError, r"labels must have shape \(B, C\), got \(8,\): pass multi-hot tags, or"),
        ({"labels": "cat"}, TypeError, r"labels must be a multi-hot tensor \(B, C\) or a list of index lists, got str 'cat'"),
        ({"labels": {0: [1]}}, TypeError, "labels must be a multi-hot tensor .* got dict"),
        ({"labels": [[2]]}, ValueError, "labels has 1 entries but masks has batch size 2: pass the tags of every image"),
        ({"labels": multi_hot(TAGS, 8)[:, :5]}, ValueError, r"cams has 8 channels but labels has 5: pass foreground-only labels of shape \(B, 8\)"),
        ({"labels": multi_hot(TAGS, 7), "background": "none"}, ValueError, "cams has 8 channels but labels has 7"),
        ({"labels": multi_hot(TAGS, 8) * 0.4}, ValueError, r"labels\[0\] must hold 0 and 1.* or indices.* threshold scores first"),
        ({"labels": -multi_hot(TAGS, 8)}, ValueError, r"(?s)labels\[0\] must hold 0 and 1"),
        ({"labels": [[2.0], [3]]}, TypeError, r"labels\[0\] must list tag indices 0, 1, ..., got 2.0: pass a tensor for multi-hot tags"),
        ({"labels": [[2], [-1]]}, TypeError, r"labels\[1\] must list tag indices 0, 1, ..., got -1"),
        ({"labels": [[True], [1]]}, TypeError, r"labels\[0\] must list tag indices .* got True"),
        ({"labels": [[2, 2], [1]]}, ValueError, r"labels\[0\] names a tag twice, got \[2, 2\]: pass each once"),
        ({"labels": [None, [1]]}, TypeError, r"labels\[0\] must be 1-D tags or a list of indices, got NoneType None"),
        ({"labels": [multi_hot(TAGS, 8), [1]]}, TypeError, r"labels\[0\] must be 1-D tags"),
        ({"labels": [multi_hot(TAGS, 8)[0], [1]]}, ValueError, "labels mixes multi-hot tags of several lengths or with index lists"),
        ({"labels": [multi_hot(TAGS, 8)[0], multi_hot(TAGS, 7)[0]]}, ValueError, "labels mixes multi-hot tags of several lengths"),
        ({"labels": [[2, 9], [3]]}, ValueError, "labels holds the tag 9 but cams has 8 channels, neither one per class nor one per tag"),
        ({"labels": [[1, 0], [0, 1]], "cams": CAMS[:, :2]}, ValueError, "labels lists 2 tags for 2 CAM channels, in another order: .* sort the tags"),
        ({"labels": [[2, 6], [1, 3]], "cams": CAMS[:, :2], "background": "last"}, ValueError, "background='last' needs the number of classes"),
        ({"labels": [np.array([0, 1]), np.array([1, 0])], "cams": CAMS[:, :2]}, ValueError, r"labels\[0\] = \[0, 1\] may be multi-hot or a list of keys: pass a Python list for keys"),
        # boxes
        ({"boxes": BOXES}, ValueError, "box_format must be 'xyxy' or 'yyxx' where boxes are given, got None: 'xyxy' is x0, y0, x1, y1"),
        ({"boxes": BOXES, "box_format": "xywh"}, ValueError, "box_format must be 'xyxy' or 'yyxx' .* got 'xywh'"),
        ({"boxes": BOXES[:1], **BOXED}, ValueError, r"boxes must have one entry per image, got 1 for 2 images: pass \(B, 4\)"),
        ({"boxes": [BOXES[0], (1, 2, 3)], **BOXED}, ValueError, r"boxes\[1\] must be four whole numbers, got \(1, 2, 3\): pass xyxy in pixels"),
        ({"boxes": [BOXES[0], (0.5, 2, 3, 4)], **BOXED}, ValueError, r"boxes\[1\] must be four whole numbers"),
        ({"boxes": [BOXES[0], (math.nan, 2, 3, 4)], **BOXED}, ValueError, r"boxes\[1\] must be four whole numbers"),
        ({"boxes": [(0, 0, 57, 40), None], **BOXED}, ValueError, r"boxes\[0\] is x 0..57, y 0..40 read as xyxy, outside the image of height 40 and width 56: check box_format"),
        ({"boxes": [(-1, 0, 5, 4), None], **BOXED}, ValueError, r"boxes\[0\] is x -1..5"),
        ({"boxes": [(9, 0, 5, 4), None], **BOXED}, ValueError, r"boxes\[0\] is x 9..5"),
        ({"boxes": BOXES, "box_format": "yyxx"}, ValueError, r"boxes\[0\] is x 50..36, y 4..3 read as yyxx"),
        # images
        ({"boundary": "crf"}, ValueError, "images must be given for boundary='crf' or 'pamr': pass the images, or boundary=None"),
        ({"boundary": "pamr"}, ValueError, "images must be given for boundary='crf' or 'pamr'"),
        ({"images": IMAGES[0]}, ValueError, r"images must have shape \(B, 3, H, W\)"),
        ({"images": IMAGES[:1]}, ValueError, "images has batch size 1 but masks has 2"),
        ({"images": IMAGES[..., :-1]}, ValueError, r"images must have shape \(B, 3, H, W\) with the size of masks \(40, 56\), got a torch.uint8 tensor"),
        ({"images": IMAGES[:, :2]}, ValueError, r"images must have shape \(B, 3, H, W\) with the size of masks"),
        ({"images": IMAGES.float().permute(0, 2, 3, 1)}, ValueError, r"images must have shape \(B, 3, H, W\) with the size"),
        ({"images": IMAGES.long()}, TypeError, r"images must be uint8 or floating point, got a torch.int64 tensor .*: call .byte\(\)"),
        ({"images": IMAGES.float()}, ValueError, r"images span \[.*\] after undoing mean and std, not \[0, 1\]: pass the mean and std"),
        ({"images": IMAGES.float(), "mean": None, "std": None}, ValueError, "images span .* not .0, 1."),
        ({"images": IMAGES / 0.0 * 0}, ValueError, "images hold NaN or infinity: check the augmentation"),
        ({"images": IMAGES.float(), "mean": None}, ValueError, "mean and std must be given together: pass both, or None for both"),
        ({"images": IMAGES.float(), "mean": (0.5,), "std": (0.5,)}, ValueError, r"mean must have 3 entries, finite, got \(0.5,\)"),
    ],
)  # fmt: skip
def test_errors_name_the_argument_what_came_and_the_fix(changes, error, text):
    with pytest.raises(error, match=text):
        call(**changes)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"cams": CAMS}, ValueError, r"cams must have shape \(C, h, w\) as masks is \(H, W\), got a torch.float32 tensor"),
        ({"uss_features": USS}, ValueError, r"uss_features must have shape \(D, h, w\) as masks is \(H, W\)"),
        ({"wss_features": WSS[0]}, ValueError, r"wss_features must have shape \(D, h, w\) as masks is \(H, W\)"),
        ({"wss_features": WSS}, ValueError, r"wss_features\[0\] must have shape \(D, h, w\) as masks is \(H, W\)"),
        ({"images": IMAGES}, ValueError, r"images must have shape \(3, H, W\) or \(H, W, 3\) as masks is \(H, W\)"),
        ({"labels": multi_hot(TAGS, 8)}, TypeError, r"labels\[0\] must be 1-D tags or a list of indices"),
        ({"boxes": [1, 2, 3], **BOXED}, ValueError, r"boxes\[0\] must be four whole numbers"),
    ],
)  # fmt: skip
def test_errors_of_a_single_image(changes, error, text):
    with pytest.raises(error, match=text):
        single(**changes)


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"masks": [SCENES[0].mask, MASKS]}, ValueError, r"masks\[1\] must have shape \(H, W\)"),
        ({"masks": [SCENES[0].mask, None]}, TypeError, r"masks\[1\] must be a torch.Tensor of shape \(H, W\), got NoneType"),
        ({"cams": [SCENES[0].cams]}, ValueError, "cams must have one entry for each of the 2 masks, got 1 entries: pass a list of 2"),
        ({"labels": [[2]]}, ValueError, "labels must have one entry for each of the 2 masks, got 1 entries"),
        ({"boxes": 7, **BOXED}, ValueError, "boxes must have one entry for each of the 2 masks, got int 7"),
        ({"uss_features": None}, TypeError, "uss_features must be a torch.Tensor .* got NoneType None"),
    ],
)  # fmt: skip
def test_errors_of_lists(changes, error, text):
    with pytest.raises(error, match=text):
        listed(**changes)


def test_a_list_whose_images_are_partly_missing_is_refused():
    with pytest.raises(ValueError, match="images must be given"):
        listed(images=[SCENES[0].image, None], boundary="pamr")


@pytest.mark.parametrize(
    "changes", [{"masks": MASKS.numpy()}, {"cams": list(CAMS)}, {"labels": [CAMS[0], [1]]}]
)
def test_an_error_does_not_print_whole_tensors(changes):
    with pytest.raises((TypeError, ValueError)) as caught:
        call(**changes)
    assert len(str(caught.value)) < 400


def test_large_finite_maps_are_accepted():
    assert call(cams=CAMS.abs() * 1e37).shape == MASKS.shape


@pytest.mark.parametrize(
    ("background", "index"), [("first", 0), ("first", 3), ("last", 2), ("last", 8), ("none", 6)]
)
def test_an_ignore_index_that_is_a_class_is_refused(background, index):
    with pytest.raises(ValueError, match=f"ignore_index {index} is the label of a class"):
        call(masks=torch.full_like(MASKS, index), background=background, ignore_index=index)


def test_tag_254_needs_another_ignore_index():
    cams = torch.rand(1, 255, 8, 8)
    with pytest.raises(ValueError, match="ignore_index 255 is the label of a class"):
        refine_mask(cams, MASKS[:1] * 0, USS[:1], [w[:1] for w in WSS], labels=[[254, 3]], boundary=None)
    mask = refine_mask(
        cams, MASKS[:1] * 0, USS[:1], [w[:1] for w in WSS], labels=[[254, 3]], boundary=None, ignore_index=-1
    )
    assert set(mask.unique().tolist()) <= {0, 4, 255}


@pytest.mark.parametrize("value", [None, "a", 1.5, True])
def test_an_ignore_index_that_is_no_int_is_refused(value):
    with pytest.raises(TypeError, match="ignore_index must be an int"):
        call(ignore_index=value)


@pytest.mark.parametrize("scale", [1e-13, 1e12])
def test_the_scale_of_features_and_cams_does_not_matter(scale):
    expected = call()
    assert torch.equal(call(uss_features=USS * scale, wss_features=[w * scale for w in WSS]), expected)
    assert torch.equal(call(cams=CAMS * 1e-6), expected)


@pytest.mark.parametrize("name", ["uss", "wss"])
def test_features_beyond_float32_are_refused(name):
    changes = {"uss_features": USS * 1e30} if name == "uss" else {"wss_features": [w * 1e30 for w in WSS]}
    with pytest.raises(ValueError, match=r"_features.* holds numbers too large for float32"):
        call(**changes)


@pytest.mark.parametrize("name", ["cams", "masks", "uss_features", "wss_features"])
def test_empty_axes_are_refused(name):
    changes = {
        "cams": CAMS[..., :0],
        "masks": MASKS[:, :0],
        "uss_features": USS[..., :0],
        "wss_features": [w[..., :0] for w in WSS],
    }
    with pytest.raises(ValueError, match="is empty, got"):
        call(**{name: changes[name]})


@pytest.mark.parametrize(
    ("boxes", "error", "text"),
    [
        (5, TypeError, "boxes must be a tensor, array or list"),
        (["abcd", "efgh"], ValueError, r"boxes\[0\] must be four whole numbers"),
        ([[float("inf"), 10, 0, 4]] * 2, ValueError, r"boxes\[0\] must be four whole numbers"),
    ],
)
def test_broken_boxes(boxes, error, text):
    with pytest.raises(error, match=text):
        call(boxes=boxes, box_format="xyxy")


def test_boxes_in_bfloat16():
    box = torch.tensor([[0, 0, 40, 32]] * 2)
    expected = call(boxes=box, box_format="xyxy")
    assert torch.equal(call(boxes=box.bfloat16(), box_format="xyxy"), expected)


def test_tags_that_are_neither_multi_hot_nor_keys():
    with pytest.raises(ValueError, match=r"labels\[0\] must hold 0 and 1 \(multi-hot\) or distinct indices"):
        call(labels=(multi_hot(TAGS, 8) * 2).int())


@pytest.mark.parametrize(
    ("mean", "std"), [((float("nan"),) * 3, (1.0,) * 3), ((0.0,) * 3, (0.0,) * 3), (0.5, 0.2)]
)
def test_a_broken_normalisation_is_refused(mean, std):
    with pytest.raises(ValueError, match="must have 3 entries, finite"):
        call(images=IMAGES, mean=mean, std=std)


def test_a_list_beside_batched_masks_is_told_to_stack():
    with pytest.raises(TypeError, match=r"cams must be a torch.Tensor .* stack its tensors with torch.stack"):
        call(cams=list(CAMS))


@pytest.mark.parametrize("background", ["first", "none"])
def test_compact_cams_of_tags_beyond_255(background):
    generator = torch.Generator().manual_seed(0)
    cams = torch.rand(2, 8, 8, generator=generator)
    features = torch.rand(4, 8, 8, generator=generator)
    offset = 1 if background == "first" else 0
    base = torch.full((32, 32), 300 + offset)
    options = {"labels": [3, 300], "boundary": None, "background": background, "ignore_index": 1000}
    mask = refine_mask(cams, base, features, features, **options)
    allowed = {3 + offset, 300 + offset} | ({0} if background == "first" else set())
    assert 300 + offset in mask.unique().tolist()
    assert set(mask.unique().tolist()) <= allowed
