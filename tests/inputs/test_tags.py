"""Every form in which refine_mask takes tags."""

# ruff: noqa: E501  (tables of errors, one case a line)

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
import two_scenes
from scenes import make_scene, multi_hot, stack
from two_scenes import CAMS, EXPECTED, MASKS, SCENES, TAGS, call, listed, single

from dhr_refine import refine_mask, refine_steps


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
    assert seen[0].filename == two_scenes.__file__  # where call() calls refine_mask


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
