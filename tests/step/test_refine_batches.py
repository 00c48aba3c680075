"""Batches, lists, single images: the same results, deterministic, inputs untouched."""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from xml.etree import ElementTree

import pytest
import torch
from one_scene import every_recipe, run, same
from scenes import make_scene, multi_hot, stack

from dhr_refine import Recipe, RefineSteps, refine_mask, refine_steps


@every_recipe
def test_a_batch_equals_its_images(recipe):
    """Masks bit by bit; maps up to the last digits, as batched products may round another way."""
    scenes = [
        make_scene(s, tags=t, alike=t[:2]) for s, t in ((0, (2, 6)), (1, (3,)), (2, (0, 1, 2)), (3, (2, 6)))
    ]
    steps = refine_steps(*stack(scenes), labels=[s.tags for s in scenes], boundary=None, recipe=recipe)
    for b, scene in enumerate(scenes):
        alone = run(scene, recipe=recipe, labels=scene.tags)
        count = len(alone.classes)
        assert torch.equal(steps.mask[b], alone.mask)
        assert torch.equal(steps.init_mask[b], alone.init_mask)
        assert steps.classes[b, :count].tolist() == alone.classes.tolist()
        assert (steps.classes[b, count:] == -1).all()
        assert torch.allclose(steps.wss[b, :count], alone.wss, atol=1e-5)
        assert torch.allclose(steps.probs[b, :count], alone.probs, atol=1e-5)
        assert (steps.probs[b, count:] == 0).all()
        assert (steps.wss[b, count:] == 0).all()


@every_recipe
@pytest.mark.usefixtures("exact_transport")
def test_a_batch_with_boxes_equals_its_images(recipe):
    """An image without a box gives the same beside one that has a box; grids that do not divide the size."""
    scenes = [make_scene(s, size=(41, 55), uss_grid=(7, 9), cam_grid=(6, 9)) for s in range(3)]
    boxes = [None, (3, 2, 40, 31), (0, 5, 55, 41)]
    options = {"boundary": None, "recipe": recipe, "box_format": "xyxy"}
    steps = refine_steps(*stack(scenes), labels=[s.tags for s in scenes], boxes=boxes, **options)
    for b, scene in enumerate(scenes):
        alone = run(scene, labels=scene.tags, boxes=boxes[b], **options)
        assert torch.allclose(steps.uss[b], alone.uss, atol=1e-4)
        assert torch.allclose(steps.probs[b], alone.probs, atol=1e-4)
        assert torch.equal(steps.mask[b], alone.mask)


def test_grids_as_released_give_an_image_the_same_beside_a_boxed_one():
    """Masses of cells sum to 1 whether or not another image of the batch has a box."""
    recipe = replace(Recipe(), geometry="released")
    for seed in range(3):
        scenes = [make_scene(seed, tags=(2, 6), lost=(2,)), make_scene(seed + 50, tags=(1, 3))]
        boxes = [(0, 0, 56, 40), (5, 4, 50, 33)]
        options = {"labels": [s.tags for s in scenes], "boxes": boxes, "box_format": "xyxy"}
        both = refine_steps(*stack(scenes), boundary=None, recipe=recipe, **options)
        alone = run(scenes[0], recipe=recipe)
        assert torch.equal(both.mask[0], alone.mask)
        assert torch.allclose(both.probs[0], alone.probs, atol=1e-5)


@pytest.mark.parametrize("recipe", [Recipe(), replace(Recipe(), prior=1.0), Recipe.released()])
def test_no_probability_is_negative(recipe):
    """Neither what a boundary tool is given nor what comes out, whatever is rounded on the way."""
    seen = []

    def boundary(images, probs):
        seen.append(float(probs.min()))
        return probs

    for seed in range(8):
        tags = ((2, 6), (0, 3, 7), (4,))[seed % 3]
        scene = make_scene(seed, tags=tags, size=(37, 51), ignore=bool(seed % 2))
        steps = run(scene, recipe=recipe, boundary=boundary)
        seen += [float(steps.probs.min()), float(steps.uss.min()), float(steps.wss.min())]
    assert min(seen) >= 0.0


def test_an_explicit_box_of_the_whole_image_changes_nothing():
    scene = make_scene(0, size=(41, 55), uss_grid=(7, 9))
    assert same(run(scene), run(scene, boxes=[0, 0, 55, 41], box_format="xyxy"))


@every_recipe
def test_lists_of_different_sizes_mirror_their_images(recipe):
    scenes = [
        make_scene(0),
        make_scene(1, size=(33, 47), tags=(3,)),
        make_scene(2, tags=(0, 1, 2)),
        make_scene(3, size=(33, 47), tags=(4, 5)),
    ]
    columns = [[getattr(s, name) for s in scenes] for name in ("cams", "mask", "uss", "wss", "image")]
    labels = [s.tags for s in scenes]
    steps = refine_steps(*columns, labels=labels, boundary=None, recipe=recipe)
    masks = refine_mask(*columns, labels=labels, boundary=None, recipe=recipe)
    assert isinstance(masks, list)
    for b, scene in enumerate(scenes):
        alone = run(scene, labels=scene.tags, recipe=recipe)
        one = RefineSteps(**{field.name: getattr(steps, field.name)[b] for field in fields(RefineSteps)})
        assert same(one, alone, 1e-5)
        assert torch.equal(masks[b], alone.mask)


def test_a_single_image_has_no_batch_axis():
    steps = run(make_scene(2, tags=(1, 3, 6)))
    shapes = {field.name: tuple(getattr(steps, field.name).shape) for field in fields(RefineSteps)}
    assert shapes == {
        "mask": (40, 56),
        "probs": (4, 40, 56),
        "classes": (4,),
        "seed": (40, 56),
        "init_mask": (40, 56),
        "uss": (4, 8, 11),
        "wss": (4, 8, 11),
        "uss_centroids": (4, 12),
        "uss_similarity": (4, 4),
        "groups": (4, 4),
        "recovered": (4,),
        "posterior": (4, 8, 11),
        "purity": (4,),
        "base_mask": (40, 56),
    }


def test_the_repr_says_what_the_images_hold():
    lost = make_scene(0, lost=(6,))
    other = make_scene(1, size=(33, 47), tags=(1, 3, 4))
    steps = run(lost)
    assert repr(steps) == str(steps) == "RefineSteps: image of 40 x 56, classes [0, 3, 7]; recovered 7"
    assert repr(run(other)) == "RefineSteps: image of 33 x 47, classes [0, 2, 4, 5]; recovered none"

    columns = [[getattr(s, name) for s in (other, lost)] for name in ("cams", "mask", "uss", "wss")]
    listed = refine_steps(*columns, labels=[other.tags, lost.tags], boundary=None)
    assert repr(listed) == (
        "RefineSteps: 2 images of 33 x 47, 40 x 56, classes [0, 2, 4, 5], [0, 3, 7]; recovered 7 in image 1"
    )
    batch = refine_steps(
        *(torch.stack([getattr(lost, name)] * 2) for name in ("cams", "mask", "uss")),
        [torch.stack([level] * 2) for level in lost.wss],
        labels=[[2, 6], [2]],  # the second image has one class less: padding is no class
        boundary=None,
    )
    assert repr(batch) == (
        "RefineSteps: 2 images of 40 x 56, classes [0, 3, 7], [0, 3]; recovered 7 in image 0"
    )


def test_the_repr_of_batches_of_one_none_and_many():
    scene = make_scene(0, lost=(2, 6))

    def repeat(count):
        maps = [torch.stack([getattr(scene, name)] * count) for name in ("cams", "mask", "uss", "image")]
        wss = [torch.stack([level] * count) for level in scene.wss]
        labels = torch.zeros(count, 8)
        labels[:, scene.tags] = 1
        return refine_steps(*maps[:3], wss, maps[3], labels=labels, boundary=None)

    one = repeat(1)
    assert repr(one) == "RefineSteps: 1 image of 40 x 56, classes [0, 3, 7]; recovered 3, 7 in image 0"
    text = repr(repeat(12))
    assert text.startswith("RefineSteps: 12 images of 40 x 56, classes [0, 3, 7], [0, 3, 7]")
    assert text.count("[0, 3, 7]") == 8
    assert text.count("3, 7 in image") == 8
    assert text.count(", ...") == 2
    none = replace(one, **{field.name: getattr(one, field.name)[:0] for field in fields(RefineSteps)})
    assert repr(none) == "RefineSteps: 0 images"
    assert none._repr_html_() == "<p>RefineSteps of no images</p>"
    assert repeat(12)._repr_html_().count("<table>") == 8
    assert repeat(12)._repr_html_().endswith("<p>and 4 more images</p></div>")


def table_of(html):
    """Captions and rows of cells of a fragment that must be well-formed."""
    root = ElementTree.fromstring(html)
    return [
        (table.find("caption").text, [[cell.text or "" for cell in row] for row in table.iter("tr")])
        for table in root.iter("table")
    ]


def test_the_html_repr_lists_the_classes_of_each_image():
    scene = make_scene(0, lost=(6,))
    steps = run(scene)
    alike = torch.tensor([[True, False, False], [False, True, True], [False, False, True]])  # one triangle
    steps = replace(steps, groups=alike)

    def share(mask, label):
        return f"{(mask == label).double().mean():.1%}"

    caption = "40 x 56; share of the pixels"
    rows = [["class", "base", "M_init", "result", "", "alike to"]]
    for label, back, mates in ((0, "", ""), (3, "", "7"), (7, "recovered", "3")):
        shares = [share(mask, label) for mask in (scene.mask, steps.init_mask, steps.mask)]
        rows.append([str(label), *shares, back, mates])
    assert table_of(steps._repr_html_()) == [(f"Image of {caption}", rows)]
    listed = replace(steps, **{f.name: [getattr(steps, f.name)] * 2 for f in fields(RefineSteps)})
    assert table_of(listed._repr_html_()) == [(f"Image {i}, {caption}", rows) for i in range(2)]
    assert len({row[2] for row in rows}) == 4  # the shares differ, so a wrong one would show


@every_recipe
def test_the_same_call_gives_the_same_bits(recipe):
    scene = make_scene(5, alike=(2, 6))
    assert same(run(scene, recipe=recipe), run(copy.deepcopy(scene), recipe=recipe))


def test_no_randomness_is_drawn():
    before = torch.get_rng_state()
    run(make_scene(0))
    assert torch.equal(torch.get_rng_state(), before)


def test_the_output_is_an_ordinary_tensor_of_its_own():
    scene = make_scene(0)
    maps = stack([scene])
    mask = refine_mask(*maps, labels=[scene.tags], boundary=None)
    before = copy.deepcopy(maps[1])
    mask[mask == 0] = 255  # DuPL edits its pseudo labels in place
    assert not mask.requires_grad
    assert not mask.is_inference()
    assert torch.equal(maps[1], before)


@every_recipe
def test_inputs_are_untouched(recipe):
    scenes = [make_scene(0, ignore=True), make_scene(1, ignore=True, tags=(3,))]
    maps, labels = stack(scenes), multi_hot([s.tags for s in scenes], 8)
    boxes = torch.tensor([[0, 0, 56, 40], [2, 3, 50, 38]])
    before = copy.deepcopy((maps, labels, boxes))

    def meddling(images, probs):
        probs *= 0.5  # a boundary tool that edits its argument must not reach the caller either
        return probs

    for boundary in (None, "pamr", meddling):
        refine_mask(*maps, labels=labels, boxes=boxes, box_format="xyxy", boundary=boundary, recipe=recipe)
    after = (maps, labels, boxes)
    flat = [[*batch[:3], *batch[3], batch[4], *rest] for batch, *rest in (after, before)]
    assert all(torch.equal(one, other) for one, other in zip(*flat, strict=True))


def test_gradients_and_half_precision_and_autocast(device, dtype):
    scenes = [make_scene(0), make_scene(1)]
    cams, masks, uss, wss, images = stack(scenes)
    cams, uss = (t.to(device, dtype).requires_grad_() for t in (cams, uss))
    wss = [level.to(device, dtype).requires_grad_() for level in wss]
    options = {"labels": [s.tags for s in scenes], "boundary": "pamr"}
    masks, images = masks.to(device), images.to(device)
    plain = refine_steps(cams, masks, uss, wss, images, **options)
    with torch.autocast(device_type=device.type, dtype=torch.bfloat16):
        cast = refine_steps(cams, masks, uss, wss, images, **options)
    assert same(plain, cast)
    assert plain.probs.dtype == torch.float32
    assert not plain.probs.requires_grad
    wide = refine_steps(
        cams.detach().float(),
        masks,
        uss.detach().float(),
        [w.detach().float() for w in wss],
        images,
        **options,
    )
    assert same(plain, wide)
    assert plain.mask.device == masks.device
