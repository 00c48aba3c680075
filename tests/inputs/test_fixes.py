"""What an error proposes works: the fix stands in the text, and with it the call goes through."""

# ruff: noqa: E501  (a table of errors, one case a line)

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy
import numpy as np
import pytest
import torch
from scenes import make_scene, multi_hot, stack
from two_scenes import CAMS, IMAGES, MASKS, SCENES, TAGS, USS, WSS

import dhr_refine
from dhr_refine import Recipe, metrics, training, viz

PAIR = [make_scene(0, tags=(2, 6)), make_scene(3, tags=(1, 5))]
FEATURES = torch.rand(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(120).view(10, 12) % 3).repeat(2, 1, 1)
STEPS = dhr_refine.refine_steps(*SCENES[0][:4], labels=TAGS[0], boundary=None)
COUNTS = metrics.image_counts(MASKS, MASKS, num_classes=9)
ONE_HOT = torch.nn.functional.one_hot(MASKS, 9)

OPTIONS = {"boundary": None}
BATCH = {
    "cams": CAMS,
    "masks": MASKS,
    "uss_features": USS,
    "wss_features": WSS,
    "labels": multi_hot(TAGS, 8),
} | OPTIONS
SINGLE = (
    dict(zip(("cams", "masks", "uss_features", "wss_features"), SCENES[0][:4], strict=True))
    | {"labels": TAGS[0]}
    | OPTIONS
)
LIST = (
    {
        name: [getattr(scene, field) for scene in SCENES]
        for name, field in (
            ("cams", "cams"),
            ("masks", "mask"),
            ("uss_features", "uss"),
            ("wss_features", "wss"),
        )
    }
    | {"labels": TAGS}
    | OPTIONS
)
FEW = dict(zip(("cams", "masks", "uss_features", "wss_features"), stack(PAIR)[:4], strict=True)) | OPTIONS
FEW |= {
    "cams": torch.stack([scene.cams[scene.tags] for scene in PAIR]),
    "labels": [scene.tags for scene in PAIR],
}

refine = dhr_refine.refine_mask
IMAGE = {"boundary": dhr_refine.pamr}

# call, good arguments, what is wrong with them, part of the error's text, what mends it
CASES = [
    # kinds and axes of maps
    (refine, BATCH, {"masks": MASKS.numpy()}, "convert it with torch.as_tensor", {"masks": "torch.as_tensor(masks)"}),
    (refine, BATCH, {"masks": MASKS.numpy()[:, ::-1]}, "torch.as_tensor(numpy.array(..., dtype='i8'))", {"masks": "torch.as_tensor(numpy.array(masks, dtype='i8'))"}),
    (refine, BATCH, {"cams": CAMS.numpy().astype(">f4")}, "torch.as_tensor(numpy.array(..., dtype='f4'))", {"cams": "torch.as_tensor(numpy.array(cams, dtype='f4'))"}),
    (refine, BATCH, {"cams": list(CAMS)}, "stack its tensors with torch.stack", {"cams": "torch.stack(cams)"}),
    (refine, BATCH, {"cams": CAMS.int()}, "call .float() on it", {"cams": "cams.float()"}),
    (refine, BATCH, {"cams": CAMS.to_sparse()}, "call .to_dense() on it", {"cams": "cams.to_dense()"}),
    (refine, BATCH, {"cams": CAMS / 0}, "torch.nan_to_num(cams, posinf=0, neginf=0)", {"cams": "torch.nan_to_num(cams, posinf=0, neginf=0)"}),
    (refine, SINGLE, {"cams": SCENES[0].cams / 0}, "torch.nan_to_num(cams, posinf=0, neginf=0)", {"cams": "torch.nan_to_num(cams, posinf=0, neginf=0)"}),
    (refine, LIST, {"cams": [SCENES[0].cams, SCENES[1].cams / 0]}, "torch.nan_to_num(cams[1], posinf=0, neginf=0)", {"cams": "[cams[0], torch.nan_to_num(cams[1], posinf=0, neginf=0)]"}),
    (refine, LIST, {"wss_features": [SCENES[0].wss, [SCENES[1].wss[0], SCENES[1].wss[1] / 0]]}, "torch.nan_to_num(wss_features[1][1], posinf=0, neginf=0)", {"wss_features": "[wss_features[0], [wss_features[1][0], torch.nan_to_num(wss_features[1][1], posinf=0, neginf=0)]]"}),
    (refine, BATCH, {"masks": MASKS > 0}, "call .long() on it", {"masks": "masks.long()"}),
    (refine, BATCH, {"masks": MASKS[:, None]}, "call .squeeze(1) on it", {"masks": "masks.squeeze(1)"}),
    (refine, BATCH, {"masks": MASKS[..., None]}, "call .squeeze(-1) on it", {"masks": "masks.squeeze(-1)"}),
    (refine, BATCH, {"masks": ONE_HOT}, "call .argmax(-1) on it", {"masks": "masks.argmax(-1)"}),
    (refine, BATCH, {"masks": ONE_HOT.movedim(-1, 1)}, "call .argmax(1) on it", {"masks": "masks.argmax(1)"}),
    (refine, LIST, {"masks": [SCENES[0].mask, MASKS[1:]]}, "call .squeeze(0) on it", {"masks": "[masks[0], masks[1].squeeze(0)]"}),
    (refine, LIST, {"masks": [SCENES[0].mask, ONE_HOT[1]]}, "call .argmax(-1) on it", {"masks": "[masks[0], masks[1].argmax(-1)]"}),
    (refine, BATCH, {"cams": dict(enumerate(CAMS))}, "stack its maps with torch.stack", {"cams": "torch.stack(list(cams.values()))"}),
    (refine, SINGLE, {"uss_features": {"layer": SCENES[0].uss}}, "pass one of its values", {"uss_features": "uss_features['layer']"}),
    (refine, BATCH, {"wss_features": {"a": WSS[0], "b": WSS[1]}}, "pass list(wss_features.values())", {"wss_features": "list(wss_features.values())"}),
    (refine, SINGLE, {"wss_features": {"a": SCENES[0].wss[0]}}, "pass list(wss_features.values())", {"wss_features": "list(wss_features.values())"}),
    (refine, LIST, {"wss_features": [{"a": SCENES[0].wss[0]}, SCENES[1].wss[:1]]}, "pass list(wss_features[0].values())", {"wss_features": "[list(wss_features[0].values()), wss_features[1]]"}),
    # labels
    (refine, BATCH, {"labels": [2, 7]}, "[[2], [7]]", {"labels": "[[2], [7]]"}),
    (refine, BATCH, {"labels": [np.int64(2), torch.tensor(7)]}, "[[2], [7]]", {"labels": "[[2], [7]]"}),
    (refine, BATCH, {"labels": torch.tensor([2, 7])}, "pass labels[:, None]", {"labels": "labels[:, None]"}),
    (refine, SINGLE, {"labels": [[2, 6]]}, "[2, 14] for a single one", {"labels": "labels[0]"}),
    (refine, SINGLE, {"labels": 2}, "pass [2] where", {"labels": "[labels]"}),
    (refine, SINGLE, {"labels": multi_hot(TAGS[:1], 8)}, "pass labels[0]", {"labels": "labels[0]"}),
    (refine, SINGLE, {"labels": [2.0]}, "pass 2 for that index, or a tensor for multi-hot tags", {"labels": "[2]"}),
    (refine, SINGLE, {"labels": [0.0] * 7 + [1.0]}, "a tensor for multi-hot tags", {"labels": "torch.tensor(labels)"}),
    (refine, SINGLE, {"labels": [True] + [False] * 7}, "pass a tensor for multi-hot tags", {"labels": "torch.tensor(labels)"}),
    (refine, SINGLE, {"labels": [0, 0, 1, 0, 0, 0, 1, 0]}, "pass torch.tensor([0, 0, 1, 0, 0, 0, ...]) for multi-hot", {"labels": "torch.tensor(labels)"}),
    (refine, SINGLE, {"labels": [2, 2]}, "pass each once", {"labels": "sorted(set(labels))"}),
    (refine, SINGLE, {"labels": torch.tensor([2.0, 6.0])}, "call .long() on it", {"labels": "labels.long()"}),
    (refine, SINGLE, {"labels": torch.tensor([0.0, 0, 0.8, 0, 0, 0, 0.9, 0])}, "threshold scores first", {"labels": "labels > 0.5"}),
    (refine, BATCH, {"labels": (multi_hot(TAGS, 8) * 2).int()}, "pass (labels > 0)", {"labels": "labels > 0"}),
    (refine, SINGLE, {"labels": [2, 6, -1]}, "leave out what is no class", {"labels": "[tag for tag in labels if tag >= 0]"}),
    (refine, SINGLE, {"labels": {2: 1, 6: 1, 3: 0}}, "[k for k, on in labels.items() if on]", {"labels": "[k for k, on in labels.items() if on]"}),
    (refine, SINGLE, {"labels": {2: None, 6: None}}, "pass list(labels)", {"labels": "list(labels)"}),
    (refine, BATCH, {"labels": {"a": [2, 6], "b": [3]}}, "pass list(labels.values())", {"labels": "list(labels.values())"}),
    (refine, BATCH, {"labels": [[2, 6], None]}, "pass a list, [] for no tags", {"labels": "[labels[0], []]"}),
    (refine, FEW, {"labels": [torch.tensor([0, 1]), torch.tensor([1, 1])], "masks": MASKS * 0}, "pass multi-hot tags in floating point", {"labels": "[row.float() for row in labels]"}),
    (refine, FEW, {"labels": [torch.tensor([0, 1]), torch.tensor([1, 0])]}, "sort the tags, and the channels", {"labels": "[[0, 1], [0, 1]]", "cams": "torch.stack([cams[0], cams[1, [1, 0]]])"}),
    (refine, BATCH, {"labels": multi_hot(TAGS, 8)[:, :5]}, "foreground-only labels of shape (B, 8)", {"labels": "torch.nn.functional.pad(labels, (0, 3))"}),
    (refine, BATCH, {"cams": CAMS.movedim(1, -1)}, "pass cams.movedim(-1, -3)", {"cams": "cams.movedim(-1, -3)"}),
    (refine, SINGLE, {"cams": SCENES[0].cams.movedim(0, -1), "labels": multi_hot(TAGS, 8)[0]}, "pass cams.movedim(-1, -3)", {"cams": "cams.movedim(-1, -3)"}),
    (refine, FEW, {"labels": [[0, 2], [1, 3]], "background": "last", "masks": MASKS * 0}, "pass multi-hot labels (B, C)", {"labels": "multi_hot(labels, 8)"}),
    (refine, BATCH, {"masks": torch.full_like(MASKS, 100)}, "check background and ignore_index", {"ignore_index": "100"}),
    (refine, BATCH, {"masks": MASKS - 300 * (MASKS == 0)}, "set ignore_index", {"ignore_index": "-300"}),
    (refine, BATCH, {"ignore_index": 3}, "pass a label that no class has, -1 say", {"ignore_index": "-1"}),
    (refine, BATCH, {"ignore_index": 2**64}, "pass 255, or -1 for none", {"ignore_index": "255"}),
    # boxes
    (refine, BATCH, {"boxes": [(0, 0, 40, 30)] * 2}, "box_format must be 'xyxy' or 'yyxx'", {"box_format": "'xyxy'"}),
    (refine, BATCH, {"boxes": [(0.25, 0, 1, 0.5)] * 2, "box_format": "xyxy"}, "by its width 56 and height 40, and round", {"boxes": "[[round(v * side) for v, side in zip(box, (56, 40, 56, 40))] for box in boxes]"}),
    (refine, SINGLE, {"boxes": (0.4, 0, 50.2, 30), "box_format": "xyxy"}, "[round(v) for v in boxes]", {"boxes": "[round(v) for v in boxes]"}),
    (refine, BATCH, {"boxes": [None, (0.4, 0, 50.2, 30)], "box_format": "xyxy"}, "[round(v) for v in boxes[1]]", {"boxes": "[boxes[0], [round(v) for v in boxes[1]]]"}),
    (refine, BATCH, {"boxes": [(3, 4, 36, 50)] * 2, "box_format": "xyxy"}, "check box_format", {"boxes": "[(y0, y1, x0, x1) for x0, y0, x1, y1 in [(4, 3, 50, 36)] * 2]", "box_format": "'yyxx'"}),
    (refine, BATCH, {"boxes": 7, "box_format": "xyxy"}, "pass a list with a box or None for each image", {"boxes": "[None, (0, 0, 9, 9)]"}),
    # images
    (refine, BATCH | IMAGE, {"images": IMAGES.int()}, "call .byte() on it", {"images": "images.byte()"}),
    (refine, BATCH | IMAGE, {"images": IMAGES.float()}, "call .byte() on images in 0..255", {"images": "images.byte()"}),
    (refine, BATCH | IMAGE, {"images": (IMAGES.float() / 255).movedim(1, -1)}, "call .movedim(-1, -3) on it", {"images": "images.movedim(-1, -3)"}),
    (refine, SINGLE | IMAGE, {"images": (IMAGES[0].float() / 255).movedim(0, -1)}, "call .movedim(-1, -3) on it", {"images": "images.movedim(-1, -3)"}),
    (refine, BATCH | IMAGE, {"images": IMAGES.mT}, "call .mT on it", {"images": "images.mT"}),
    (refine, BATCH | IMAGE, {"images": IMAGES[:, :1]}, "images.expand(-1, 3, -1, -1)", {"images": "images.expand(-1, 3, -1, -1)"}),
    (refine, SINGLE | IMAGE, {"images": IMAGES[0, :1]}, "images.expand(3, -1, -1)", {"images": "images.expand(3, -1, -1)"}),
    (refine, BATCH | IMAGE, {"images": IMAGES[:, [0, 1, 2, 0]]}, "images[:, :3]", {"images": "images[:, :3]"}),
    (refine, SINGLE | IMAGE, {"images": IMAGES[0, [0, 1, 2, 0]]}, "images[:3]", {"images": "images[:3]"}),
    (refine, LIST | IMAGE, {"images": [SCENES[0].image, IMAGES[1, [0, 1, 2, 0]]]}, "images[1][:3]", {"images": "[images[0], images[1][:3]]"}),
    (refine, BATCH | IMAGE, {"images": (IMAGES - 120.0) / 58, "mean": (120.0,) * 3, "std": (58.0,) * 3}, "mean and std divided by 255", {"mean": "[m / 255 for m in mean]", "std": "[s / 255 for s in std]"}),
    (refine, BATCH | IMAGE, {"images": (IMAGES / 255 - 0.5) / 0.05}, "pass the mean and std that they were normalised with", {"mean": "(0.5,) * 3", "std": "(0.05,) * 3"}),
    (refine, BATCH | IMAGE, {"images": IMAGES, "mean": None}, "or None for both", {"std": "None"}),
    (refine, BATCH, {"boundary": "pamr"}, "or boundary=None", {"boundary": "None"}),
    (refine, BATCH, {"recipe": "paper"}, "pass Recipe.paper(), say", {"recipe": "Recipe.paper()"}),
    # pooling, rebalancing, transport
    (dhr_refine.class_avg_pool, {"features": FEATURES, "mask": MASK, "num_classes": 3}, {"mask": MASK[:, None]}, "call .squeeze(1) on it", {"mask": "mask.squeeze(1)"}),
    (dhr_refine.class_avg_pool, {"features": FEATURES, "mask": MASK, "num_classes": 3}, {"mask": MASK > 0}, "call .long() on it", {"mask": "mask.long()"}),
    (dhr_refine.class_avg_pool, {"features": FEATURES, "mask": MASK, "num_classes": 3}, {"features": FEATURES / 0}, "torch.nan_to_num(features, posinf=0, neginf=0)", {"features": "torch.nan_to_num(features, posinf=0, neginf=0)"}),
    (dhr_refine.class_avg_pool, {"features": FEATURES, "mask": MASK, "num_classes": 3}, {"num_classes": 2}, "raise num_classes", {"num_classes": "3"}),
    (dhr_refine.uss_rebalance, {"features": FEATURES, "mask": MASK, "num_classes": 3}, {"background": 7}, "pass None where there is no background class", {"background": "None"}),
    (dhr_refine.uss_rebalance, {"features": FEATURES, "mask": MASK, "num_classes": 3}, {"mask": MASK.numpy()}, "convert it with torch.as_tensor", {"mask": "torch.as_tensor(mask)"}),
    (dhr_refine.sinkhorn_ot, {"scores": FEATURES}, {"scores": FEATURES * math.inf}, "torch.nan_to_num(scores, posinf=0, neginf=0)", {"scores": "torch.nan_to_num(scores, posinf=0, neginf=0)"}),
    (dhr_refine.sinkhorn_ot, {"scores": FEATURES}, {"valid": torch.ones(2, 5, 6)}, "pass valid.bool()", {"valid": "valid.bool()"}),
    (dhr_refine.sinkhorn_ot, {"scores": FEATURES}, {"class_mass": torch.tensor([-1.0, 1, 1, 1])}, "torch.nan_to_num(class_mass, posinf=0).clamp(0)", {"class_mass": "torch.nan_to_num(class_mass, posinf=0).clamp(0)"}),
    (dhr_refine.sinkhorn_ot, {"scores": FEATURES}, {"class_mass": [1.0, 1, 1, 1]}, "convert it with torch.as_tensor", {"class_mass": "torch.as_tensor(class_mass)"}),
    # training and metrics
    (training.View.of((10, 12), window=(0, 0, 5, 5)).crop, {"features": FEATURES[0]}, {"features": MASK[:1]}, "mode='nearest' for labels", {"mode": "'nearest'"}),
    (partial(metrics.image_counts, num_classes=9), {"pred": MASKS, "target": MASKS}, {"pred": MASKS.float()}, "call .long() on it", {"pred": "pred.long()"}),
    (partial(metrics.image_counts, num_classes=9), {"pred": MASKS, "target": MASKS}, {"pred": MASKS.numpy() * 1.0}, "call .astype(int) on it", {"pred": "pred.astype(int)"}),
    (partial(metrics.image_counts, num_classes=9), {"pred": MASKS, "target": MASKS}, {"pred": MASKS.tolist()}, "convert it with torch.as_tensor", {"pred": "torch.as_tensor(pred)"}),
    (metrics.scores_of, {"counts": COUNTS}, {"weights": [[1, 2, 3]]}, "rng.multinomial(2, np.full(2, 1 / 2), size=1000)", {"weights": "np.random.default_rng(0).multinomial(2, np.full(2, 1 / 2), size=1000)"}),
    (metrics.scores_of, {"counts": COUNTS}, {"labels": [0.5]}, "pass [0, 1], say", {"labels": "[0, 1]"}),
    # figures
    (viz.overlay_mask, {"image": SCENES[0].image, "mask": MASKS[0]}, {"image": SCENES[0].image.int()}, "call .byte() on it", {"image": "image.byte()"}),
    (viz.show_steps, {"steps": STEPS, "image": SCENES[0].image}, {"cams": SCENES[0].cams}, "{t + 1: cams[t] for t in tags}", {"cams": "{t + 1: cams[t] for t in tags}"}),
    (viz.show_similarity, {"steps": STEPS}, {"names": ["a"]}, "or pass a dict", {"names": "{0: 'a'}"}),
    (viz.show_tau, {"taus": [0.6, 0.8], "values": [1, 2]}, {"taus": [0.8, 0.6]}, "sort them and the values", {"taus": "sorted(taus)"}),
    (viz.colour_mask, {"mask": MASKS[0]}, {"colours": [[0, 0, 0]]}, "call palette()", {"colours": "viz.palette(21)"}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("call", "good", "wrong", "told", "mended"),
    CASES,
    ids=[f"{i}-{case[3][:40]}" for i, case in enumerate(CASES)],
)
def test_the_proposed_fix_works(call, good, wrong, told, mended):
    if call in (viz.show_steps, viz.show_similarity, viz.show_tau):
        pytest.importorskip("matplotlib", reason="needs matplotlib: pip install matplotlib")
    broken = good | wrong
    with pytest.raises((ValueError, TypeError)) as caught:
        call(**broken)
    assert told in str(caught.value)
    scope = {"torch": torch, "numpy": numpy, "np": np, "Recipe": Recipe, "viz": viz, "multi_hot": multi_hot}
    scope |= broken | {"tags": TAGS[0]}
    call(**broken | {name: eval(code, scope) for name, code in mended.items()})


def test_pictures_become_arrays_first():
    picture = pytest.importorskip("PIL.Image", reason="needs Pillow").fromarray(
        MASKS[0].numpy().astype(np.uint8)
    )
    for call, given in (
        (refine, SINGLE | {"masks": picture}),
        (partial(metrics.image_counts, num_classes=9, target=MASKS[0]), {"pred": picture}),
    ):
        name = next(name for name, value in given.items() if value is picture)
        with pytest.raises(TypeError, match=r"convert it with torch.as_tensor\(numpy.array\(...\)\)"):
            call(**given)
        call(**given | {name: torch.as_tensor(numpy.array(picture))})


def test_masks_of_different_sizes_are_resized_as_told():
    small = torch.nn.functional.interpolate(MASKS[:, None].float(), (20, 28), mode="nearest-exact")[
        :, 0
    ].long()
    with pytest.raises(ValueError, match="resize with mode='nearest-exact'"):
        metrics.image_counts(small, MASKS, num_classes=9)
    enlarged = torch.nn.functional.interpolate(small[:, None].float(), MASKS.shape[1:], mode="nearest-exact")
    metrics.image_counts(enlarged[:, 0].long(), MASKS, num_classes=9)


@pytest.mark.parametrize("name", ["cams", "uss_features", "wss_features", "images", "labels", "boxes"])
def test_errors_of_one_image_know_no_batch(name):
    """No (B, ...), no [0], no axis that the caller did not pass."""
    for wrong in (
        torch.zeros(1, 2, 3, 4, 5),
        torch.zeros(8, 0, 4),
        torch.zeros(8, 4, 4).int(),
        7,
        None,
        "x",
        {"a": 1},
    ):
        if wrong is None and name == "labels":
            continue  # may be left out
        try:
            refine(**SINGLE | {"box_format": "xyxy", name: wrong})
        except (ValueError, TypeError) as error:
            text = str(error)
            assert "(B" not in text
            assert "[0]" not in text.replace("labels[0]", "" if "pass labels[0]" in text else "labels[0]")
            assert (
                not isinstance(wrong, torch.Tensor) or str(tuple(wrong.shape)) in text or "on it" in text
            ), text


def test_errors_of_lists_name_the_place_in_the_callers_list():
    """Also where images of several sizes are worked on in groups."""
    scenes = [make_scene(0), make_scene(1, size=(33, 47)), make_scene(2)]
    columns = {
        name: [getattr(s, field) for s in scenes]
        for name, field in (
            ("cams", "cams"),
            ("masks", "mask"),
            ("uss_features", "uss"),
            ("wss_features", "wss"),
        )
    }
    given = columns | {
        "labels": [s.tags for s in scenes],
        "boundary": None,
        "images": [s.image for s in scenes],
    }
    changes = [
        ("cams", scenes[2].cams / 0, "cams[2] holds NaN"),
        ("masks", scenes[2].mask + 0.5, "masks[2] holds values"),
        ("masks", scenes[2].mask + 90, "masks[2] holds the label 90"),
        ("masks", scenes[2].mask - 9, "masks[2] holds the label -9"),
        (
            "uss_features",
            scenes[2].uss[:, :0],
            "uss_features[2] is empty, got a torch.float32 tensor of shape (12, 0, 11)",
        ),
        (
            "wss_features",
            [scenes[2].wss[0], scenes[2].wss[1][0]],
            "wss_features[2][1] must have shape (D, h, w) as masks[2] is (H, W)",
        ),
        ("images", scenes[2].image.float() * 9, "images[2] span"),
        ("images", scenes[2].image / math.nan, "images[2] hold NaN"),
        ("images", scenes[2].image[:2], "images[2] must have shape (3, H, W)"),
        ("labels", [9], "labels[2] holds the tag 9 but cams[2] has 8 channels"),
        ("labels", [-1], "labels[2] must list tag indices"),
    ]
    for name, value, text in changes:
        with pytest.raises((ValueError, TypeError)) as caught:
            refine(**given | {name: [*given[name][:2], value]})
        assert text in str(caught.value)
    with pytest.raises(ValueError, match=r"boxes\[2\] is x 0..57"):
        refine(**given, boxes=[None, None, (0, 0, 57, 40)], box_format="xyxy")


def test_replace_of_a_recipe_is_checked_too():
    with pytest.raises(
        ValueError, match=r"prior must lie in \[0.0, 1.0\], got 2: pass a number in that range"
    ):
        replace(Recipe(), prior=2)
