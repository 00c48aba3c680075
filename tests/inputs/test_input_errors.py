"""Every error of what refine_mask is given."""

# ruff: noqa: E501  (tables of errors, one case a line)

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scenes import multi_hot
from two_scenes import BOXES, CAMS, IMAGES, MASKS, SCENES, TAGS, USS, WSS, call, listed, single

from dhr_refine import refine_mask

NAN = torch.full_like(CAMS, math.nan)
BOXED = {"box_format": "xyxy"}


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        # ranks, types, batch sizes, devices
        ({"masks": MASKS.numpy()}, TypeError, r"masks must be a torch.Tensor of shape \(B, H, W\) or \(H, W\), or a list of \(H, W\), got a NumPy int64 array .*: convert it with torch.as_tensor"),
        ({"masks": []}, TypeError, r"masks must hold at least one mask, got an empty list: pass a list of \(H, W\)"),
        ({"masks": MASKS[None]}, ValueError, r"masks must have shape \(B, H, W\) or \(H, W\), got a torch.int64 tensor"),
        ({"masks": MASKS > 0}, TypeError, r"masks must hold labels, got a torch.bool tensor .*: call .long\(\) on it"),
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
        ({"labels": [[2]]}, ValueError, "labels has 1 entries but masks has 2 images: pass the tags of every image"),
        ({"labels": multi_hot(TAGS, 8)[:, :5]}, ValueError, r"cams has 8 channels but labels has 5: pass foreground-only labels of shape \(B, 8\)"),
        ({"labels": multi_hot(TAGS, 7), "background": "none"}, ValueError, "cams has 8 channels but labels has 7"),
        ({"labels": multi_hot(TAGS, 8) * 0.4}, ValueError, r"labels\[0\] must hold 0 and 1, got .* in floating point: threshold scores first"),
        ({"labels": -multi_hot(TAGS, 8)}, ValueError, r"(?s)labels\[0\] must hold 0 and 1"),
        ({"labels": [[2.0], [3]]}, TypeError, r"labels\[0\] must list tag indices 0, 1, ..., got 2.0: pass 2 for that index, or a tensor for multi-hot tags"),
        ({"labels": [[2], [-1]]}, ValueError, r"labels\[1\] must list tag indices 0, 1, ..., got -1: leave out what is no class"),
        ({"labels": [2, 6]}, TypeError, r"labels must have a list of tags for each image, got \[2, 6\]: pass \[\[2\], \[6\]\] where each image has one tag"),
        ({"labels": [[[2, 6]], [3]]}, TypeError, r"labels\[0\] must list tag indices, got the list \[2, 6\] in it: pass one list for each image"),
        ({"uss_features": None}, TypeError, "uss_features must be a torch.Tensor .* got NoneType None: it cannot be left out"),
        ({"uss_features": {"layer": USS}}, TypeError, "uss_features must be .* got dict .*: stack its maps with torch.stack, or pass one of its values"),
        ({"wss_features": {"layer": USS}}, TypeError, r"wss_features must be .* got dict .*: pass list\(wss_features.values\(\)\)"),
        ({"wss_features": USS.numpy()}, TypeError, r"wss_features must be .* got a NumPy float32 array .*: convert it with torch.as_tensor"),
        ({"wss_features": []}, TypeError, r"wss_features must be .* got list \[\]: pass at least one map"),
        ({"wss_features": USS[:1]}, ValueError, r"wss_features has batch size 1 but masks has 2"),
        ({"wss_features": [USS[:1]]}, ValueError, r"wss_features\[0\] has batch size 1 but masks has 2"),
        ({"masks": MASKS[:, None]}, ValueError, r"masks must have shape .* of shape \(2, 1, 40, 56\): call .squeeze\(1\) on it"),
        ({"masks": torch.zeros(2, 9, 40, 56)}, ValueError, r"masks must have shape .* of shape \(2, 9, 40, 56\): call .argmax\(1\) on it"),
        ({"labels": [[True], [1]]}, TypeError, r"labels\[0\] must list tag indices .* got True"),
        ({"labels": [[2, 2], [1]]}, ValueError, r"labels\[0\] names a tag twice, got \[2, 2\]: pass each once"),
        ({"labels": [None, [1]]}, TypeError, r"labels\[0\] must be 1-D tags or a list of indices, got NoneType None"),
        ({"labels": [multi_hot(TAGS, 8), [1]]}, TypeError, r"labels\[0\] must be 1-D tags"),
        ({"labels": [multi_hot(TAGS, 8)[0], [1]]}, ValueError, r"labels mixes multi-hot tags \(labels\[0\]\) with index lists \(labels\[1\] is \[1\]\): use one form"),
        ({"labels": [multi_hot(TAGS, 8)[0], multi_hot(TAGS, 7)[0]]}, ValueError, "labels mixes multi-hot tags of several lengths"),
        ({"labels": [[2, 9], [3]]}, ValueError, r"labels\[0\] holds the tag 9 but cams has 8 channels, neither one per class nor one per tag"),
        ({"labels": [[1, 0], [0, 1]], "cams": CAMS[:, :2]}, ValueError, "labels lists 2 tags for 2 CAM channels, in another order: .* sort the tags"),
        ({"labels": [[2, 6], [1, 3]], "cams": CAMS[:, :2], "background": "last"}, ValueError, "background='last' needs the number of classes"),
        ({"labels": [np.array([0, 1]), np.array([1, 0])], "cams": CAMS[:, :2]}, ValueError, "labels lists 2 tags for 2 CAM channels, in another order"),
        ({"labels": [np.array([0, 1]), np.array([1, 1])], "cams": CAMS[:, :2]}, ValueError, r"labels mixes multi-hot tags \(labels\[1\]\) with index lists \(labels\[0\] is \[0, 1\]\): pass multi-hot tags in floating point, or all tags as lists"),
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
        ({"boundary": "crf"}, ValueError, "images must be given for boundary='crf', 'pamr' or 'par': pass the images, or boundary=None"),
        ({"boundary": "par"}, ValueError, "images must be given for boundary='crf', 'pamr' or 'par'"),
        ({"images": IMAGES[0]}, ValueError, r"images must have shape \(B, 3, H, W\)"),
        ({"images": IMAGES[:1]}, ValueError, "images has batch size 1 but masks has 2"),
        ({"images": IMAGES[..., :-1]}, ValueError, r"images must have shape \(B, 3, H, W\) with the size of masks \(40, 56\), got a torch.uint8 tensor"),
        ({"images": IMAGES[:, :2]}, ValueError, r"images must have shape \(B, 3, H, W\) with the size of masks"),
        ({"images": IMAGES.float().permute(0, 2, 3, 1)}, ValueError, r"images must have shape \(B, 3, H, W\) with the size"),
        ({"images": IMAGES.long()}, TypeError, r"images must be uint8 or floating point, got a torch.int64 tensor .*: call .byte\(\)"),
        ({"images": IMAGES.float()}, ValueError, r"images span \[.*\] after undoing mean and std, not \[0, 1\]: call .byte\(\) on images in 0..255"),
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
        ({"images": IMAGES}, ValueError, r"images must have shape \(3, H, W\) as masks is \(H, W\)"),
        ({"labels": multi_hot(TAGS, 8)}, TypeError, r"labels must be 1-D tags or a list of indices, got a NumPy float32 array of shape \(2, 8\): pass a list"),
        ({"boxes": [1, 2, 3], **BOXED}, ValueError, r"boxes must be four whole numbers"),
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
        ({"labels": [[2]]}, ValueError, "labels has 1 entries but masks has 2 images: pass the tags of every image"),
        ({"boxes": {0: None, 1: None}, **BOXED}, ValueError, "boxes must have one entry for each of the 2 masks, got dict"),
        ({"boxes": 7, **BOXED}, ValueError, "boxes must have one entry for each of the 2 masks, got int 7"),
        ({"uss_features": None}, TypeError, r"uss_features\[0\] must be a torch.Tensor .* got NoneType None"),
    ],
)  # fmt: skip
def test_errors_of_lists(changes, error, text):
    with pytest.raises(error, match=text):
        listed(**changes)


def test_a_list_whose_images_are_partly_missing_is_refused():
    with pytest.raises(ValueError, match=r"images\[1\] must be given"):
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


def test_pictures_are_told_to_become_arrays_first():
    picture = pytest.importorskip("PIL.Image", reason="needs Pillow").new("RGB", (56, 40))
    with pytest.raises(TypeError, match=r"convert it with torch.as_tensor\(numpy.array\(...\)\)"):
        call(images=picture)
    assert torch.as_tensor(np.array(picture)).shape == (40, 56, 3)
