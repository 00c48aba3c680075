"""refine_mask and refine_steps: the step against the NumPy reference, and what every caller relies on."""

from __future__ import annotations

import copy
from dataclasses import fields, replace
from xml.etree import ElementTree

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import make_scene, multi_hot, stack

import dhr_refine.rebalance
import dhr_refine.refine
import dhr_refine.seed
from dhr_refine import Recipe, RefineSteps, refine_mask, refine_steps

RECIPES = {"default": Recipe(), "paper": Recipe.paper(), "released": Recipe.released()}
PIECES = {
    name: {
        key: getattr(RECIPES[name], key) for key in ("marginal", "merge", "seed_weight", "prior", "normalise")
    }
    for name in ("default", "paper")
}

every_recipe = pytest.mark.parametrize("recipe", list(RECIPES.values()), ids=list(RECIPES))


def run(scene, *, recipe=None, **options):
    """One scene as a single image, without a boundary tool unless told."""
    options = {"boundary": None, "labels": multi_hot([scene.tags], scene.cams.shape[0])[0], **options}
    return refine_steps(scene.cams, scene.mask, scene.uss, scene.wss, scene.image, recipe=recipe, **options)


def same(one: RefineSteps, other: RefineSteps, tolerance: float = 0.0) -> bool:
    """Whether two results agree in every field."""
    for field in fields(RefineSteps):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if not torch.allclose(a.double(), b.double(), rtol=0, atol=tolerance):
            return False
    return True


# -- against the reference -------------------------------------------------------------------------


def smooth(maps):
    """A boundary tool in NumPy: mean over the 3 x 3 neighbours inside the crop."""
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)), mode="edge")
    h, w = maps.shape[1:]
    return sum(padded[:, i : i + h, j : j + w] for i in range(3) for j in range(3)) / 9


def smooth_torch(images, probs):
    return torch.stack([torch.from_numpy(smooth(p.double().numpy())) for p in probs])


CASES = {
    "plain": {"seed": 0},
    "one tag": {"seed": 1, "tags": (4,)},
    "three tags, two alike": {"seed": 2, "tags": (1, 3, 6), "alike": (1, 6)},
    "all alike, one lost": {"seed": 3, "tags": (1, 3, 6), "alike": (1, 6, 3), "lost": (3,)},
    "ignore": {"seed": 4, "ignore": True, "alike": (2, 6)},
    "grids finer than the mask": {
        "seed": 5,
        "size": (10, 14),
        "uss_grid": (20, 28),
        "cam_grid": (20, 14),
        "wss_grids": ((30, 7),),
    },
    "full-size cams": {"seed": 6, "cam_grid": (40, 56), "uss_grid": (10, 14), "lost": (2,)},
    "odd sizes": {"seed": 7, "size": (37, 51), "cam_grid": (9, 13), "uss_grid": (7, 9), "alike": (2, 6)},
}


@pytest.mark.usefixtures("exact_transport")
@pytest.mark.parametrize("case", list(CASES))
@pytest.mark.parametrize("name", ["default", "paper"])
@pytest.mark.parametrize("box", [None, (3, 2, 49, 31)], ids=["whole", "boxed"])
@pytest.mark.parametrize("background", ["first", "last", "none"])
def test_equals_the_reference(case, name, box, background):
    if background != "first" and (case not in ("plain", "three tags, two alike") or box is None):
        return
    options = {"uss_grid": (8, 14), **CASES[case]}
    scene = make_scene(**options)
    if box is not None and case == "grids finer than the mask":
        box = (2, 1, 13, 9)
    classes = scene.cams.shape[0]
    if background == "last":
        scene = scene._replace(mask=torch.where(scene.mask == 255, 255, (scene.mask - 1) % (classes + 1)))
    elif background == "none":
        scene = scene._replace(mask=torch.where(scene.mask == 0, 255, scene.mask - 1))
    offset = 1 if background == "first" else 0
    boundary = case == "three tags, two alike"
    steps = run(
        scene,
        recipe=RECIPES[name],
        background=background,
        boxes=box,
        box_format="xyxy",
        boundary=smooth_torch if boundary else None,
    )
    expected = reference.refine(
        scene.cams.numpy()[scene.tags],
        scene.mask.numpy(),
        scene.uss.numpy(),
        [level.numpy() for level in scene.wss],
        tag_labels=[tag + offset for tag in scene.tags],
        background={"first": 0, "last": classes, "none": None}[background],
        box=box,
        boundary=smooth if boundary else None,
        **PIECES[name],
    )
    assert steps.classes.tolist() == expected.labels
    assert np.array_equal(steps.seed.numpy(), expected.seed)
    assert np.array_equal(steps.init_mask.numpy(), expected.init_mask)
    assert np.abs(steps.uss_centroids.numpy() - expected.uss_centroids).max() < 1e-4
    assert np.abs(steps.uss_similarity.numpy() - reference.cosine_table(expected.uss_centroids)).max() < 1e-4
    assert np.abs(steps.uss.numpy() - expected.uss).max() < 1e-4
    assert [row.nonzero()[:, 0].tolist() for row in steps.groups] == [
        next(group for group in expected.groups if k in group) for k in range(len(expected.labels))
    ]
    assert np.abs(steps.wss.numpy() - expected.wss).max() < 1e-4
    assert np.abs(steps.probs.numpy() - expected.probs).max() < 1e-4
    wrong = steps.mask.numpy() != expected.mask
    top = np.sort(expected.probs, axis=0)
    near_tie = top[-1] - top[-2] < 2e-4 if len(top) > 1 else np.zeros_like(wrong)
    assert not (wrong & ~near_tie).any()
    assert wrong.mean() < 1e-3


def test_the_reference_cases_hold_what_they_are_for():
    """Groups of two and of three classes, lost classes that return, ignored pixels."""
    sizes = {name: run(make_scene(**case)).groups.sum(-1).amax().item() for name, case in CASES.items()}
    assert sizes["plain"] == 1
    assert sizes["ignore"] == 2
    assert sizes["three tags, two alike"] == 3  # the background joins them
    assert sizes["all alike, one lost"] == 3
    assert run(make_scene(**CASES["all alike, one lost"])).recovered.sum() == 1
    assert (make_scene(**CASES["ignore"]).mask == 255).any()


def test_the_usual_tolerance_gives_the_same_mask():
    for seed in range(4):
        scene = make_scene(
            seed, size=(64, 64), tags=(1, 3, 6), alike=(1, 6), uss_grid=(16, 16), cam_grid=(16, 16)
        )
        expected = reference.refine(
            scene.cams.numpy()[scene.tags],
            scene.mask.numpy(),
            scene.uss.numpy(),
            [level.numpy() for level in scene.wss],
            tag_labels=[2, 4, 7],
            background=0,
            **PIECES["default"],
        )
        assert (run(scene).mask.numpy() != expected.mask).mean() < 1e-3


@pytest.mark.parametrize("name", ["default", "paper"])
def test_the_scores_do_not_depend_on_how_pixels_fall_into_cells(name):
    """The prior adds each cell's class shares, which sum to 1 where every pixel is known."""
    scene = make_scene(0, size=(40, 56), uss_grid=(9, 11))
    steps = run(scene, recipe=RECIPES[name], boundary=lambda images, probs: probs)
    if name == "default":
        assert torch.allclose(steps.probs.sum(0), torch.ones(40, 56), atol=1e-4)


# -- what the mask may hold ------------------------------------------------------------------------


@every_recipe
def test_refine_mask_is_the_mask_of_refine_steps(recipe):
    scenes = [make_scene(s, tags=t) for s, t in ((0, (2, 6)), (1, (3,)), (2, (0, 1, 2)))]
    labels = multi_hot([s.tags for s in scenes], 8)
    options = {"labels": labels, "recipe": recipe, "boundary": None}
    mask = refine_mask(*stack(scenes), **options)
    assert torch.equal(mask, refine_steps(*stack(scenes), **options).mask)
    assert mask.dtype == torch.int64
    assert mask.shape == (3, 40, 56)


def test_only_tags_and_background_appear_and_ignore_outside_the_boxes():
    scenes = [make_scene(s, ignore=True) for s in range(3)]
    for scene in scenes:
        scene.mask[:4, :9] = 5  # a label that is no tag
    boxes = [(0, 0, 56, 40), (5, 3, 50, 30), (20, 20, 56, 40)]
    for recipe in (Recipe(), Recipe.paper()):
        mask = refine_mask(
            *stack(scenes),
            labels=[s.tags for s in scenes],
            boxes=boxes,
            box_format="xyxy",
            boundary=None,
            recipe=recipe,
        )
        for one, (x0, y0, x1, y1) in zip(mask, boxes, strict=True):
            assert set(one[y0:y1, x0:x1].unique().tolist()) <= {0, 3, 7}
            outside = torch.ones_like(one, dtype=torch.bool)
            outside[y0:y1, x0:x1] = False
            assert (one[outside] == 255).all()


def test_a_vanished_class_comes_back_and_is_marked():
    scene = make_scene(0, lost=(6,))
    steps = run(scene)
    assert 7 not in scene.mask
    assert steps.recovered.tolist() == [False, False, True]
    truth = scene.truth == 7
    found = steps.mask == 7
    assert (truth & found).sum() / (truth | found).sum() > 0.7
    assert run(make_scene(0)).recovered.tolist() == [False, False, False]


@every_recipe
def test_the_step_improves_a_noisy_mask(recipe):
    """The method does its job: on clear features the result is nearer to the truth than the base mask."""
    for seed in range(3):
        scene = make_scene(
            seed, lost=(2,), alike=(2, 6), uss_grid=(20, 28), wss_grids=((20, 28),), cam_grid=(20, 28)
        )
        result = run(scene, recipe=recipe).mask
        assert (result == scene.truth).float().mean() > (scene.mask == scene.truth).float().mean()


def test_recovered_ignores_padding_whatever_the_ignore_index():
    scenes = [make_scene(0, tags=(2,)), make_scene(1, tags=(1, 3, 6))]
    scenes[0].mask[0, 0] = 255
    for ignore in (255, -1):
        maps = list(stack(scenes))
        maps[1] = torch.where(maps[1] == 255, ignore, maps[1])
        steps = refine_steps(
            *maps,
            labels=[[2], [1, 3, 6]],
            boundary=None,
            ignore_index=ignore,
            boxes=[(2, 2, 50, 30)] * 2,
            box_format="xyxy",
        )
        assert steps.classes.tolist() == [[0, 3, -1, -1], [0, 2, 4, 7]]
        assert steps.recovered.tolist() == [[False] * 4] * 2
        assert (steps.mask[:, 0] == ignore).all()


def test_an_image_without_tags_returns_its_base_mask():
    scenes = [make_scene(0, ignore=True), make_scene(1, ignore=True)]
    labels = multi_hot([[], [2, 6]], 8)
    for keep in (refine_mask, lambda *a, **k: refine_steps(*a, **k).mask):
        mask = keep(*stack(scenes), labels=labels, boundary=None)
        assert torch.equal(mask[0], scenes[0].mask)
        assert not torch.equal(mask[1], scenes[1].mask)
    mask = refine_mask(
        *stack(scenes),
        labels=torch.zeros(2, 8),
        boundary=None,
        boxes=[(5, 0, 56, 40), None],
        box_format="xyxy",
    )
    assert torch.equal(mask[0, :, 5:], scenes[0].mask[:, 5:])
    assert (mask[0, :, :5] == 255).all()
    assert torch.equal(mask[1], scenes[1].mask)
    assert mask.data_ptr() != scenes[1].mask.data_ptr()
    assert torch.equal(refine_mask(*stack(scenes), labels=[[], []], boundary=None), stack(scenes)[1])


@every_recipe
def test_the_number_of_classes_does_not_matter(recipe):
    few = make_scene(2, tags=(1, 3, 6), classes=20)
    many = few._replace(cams=torch.cat((few.cams, torch.rand(151, 10, 14))))
    assert same(run(few, recipe=recipe), run(many, recipe=recipe))


def test_memory_follows_the_tags_not_the_classes(monkeypatch):
    seen = []
    compare = dhr_refine.rebalance.compare
    monkeypatch.setattr(
        dhr_refine.rebalance,
        "compare",
        lambda features, weights, *rest: seen.append(weights.shape[1]) or compare(features, weights, *rest),
    )
    scene = make_scene(2, tags=(1, 3), alike=(1, 3), classes=171)
    run(scene)
    assert seen == [3, 3, 3]


# -- batches, lists, determinism -------------------------------------------------------------------


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
    steps = run(make_scene(0, lost=(6,)))
    alike = torch.tensor([[True, False, False], [False, True, True], [False, False, True]])  # one triangle
    steps = replace(steps, groups=alike)

    def share(mask, label):
        return f"{(mask == label).double().mean():.1%}"

    caption = "40 x 56; share of the pixels"
    rows = [["class", "M_init", "result", "", "alike to"]]
    for label, back, mates in ((0, "", ""), (3, "", "7"), (7, "recovered", "3")):
        rows.append([str(label), share(steps.init_mask, label), share(steps.mask, label), back, mates])
    assert table_of(steps._repr_html_()) == [(f"Image of {caption}", rows)]
    listed = replace(steps, **{f.name: [getattr(steps, f.name)] * 2 for f in fields(RefineSteps)})
    assert table_of(listed._repr_html_()) == [(f"Image {i}, {caption}", rows) for i in range(2)]
    assert len({row[1] for row in rows}) == 4  # the shares differ, so a wrong one would show


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


# -- boundary tools --------------------------------------------------------------------------------


def test_boundary_tools_by_name_are_the_public_functions():
    from dhr_refine import dense_crf, pamr

    scene = make_scene(0, size=(24, 32))
    for name, tool in (("pamr", pamr), ("crf", dense_crf)):
        by_name = run(scene, boundary=name)
        assert same(by_name, run(scene, boundary=tool))
        assert not torch.equal(by_name.probs, run(scene).probs)
    assert torch.equal(
        refine_mask(scene.cams, scene.mask, scene.uss, scene.wss, scene.image, labels=scene.tags),
        run(scene, boundary="crf").mask,
    )


def test_a_callable_gets_crops_of_uint8_images_and_float_probabilities():
    scenes = [make_scene(s, tags=t, uss_grid=(8, 14)) for s, t in ((0, (2, 6)), (1, (3,)), (2, (1, 5)))]
    boxes = [(0, 0, 30, 20), (1, 2, 31, 22), (10, 10, 56, 40)]
    calls = []

    def tool(images, probs):
        calls.append((images.clone(), probs.clone()))
        return probs.double()  # any dtype may come back

    steps = refine_steps(
        *stack(scenes), labels=[s.tags for s in scenes], boxes=boxes, box_format="xyxy", boundary=tool
    )
    assert len(calls) == 6  # three crops, seed and result each
    for images, probs in calls:
        assert images.dtype == torch.uint8
        assert probs.dtype == torch.float32
        assert images.shape[0] == probs.shape[0]
        assert images.shape[2:] == probs.shape[2:]
        assert (probs >= 0).all()
        assert (probs <= 1 + 1e-5).all()
        place = next(
            i
            for i, (s, (x0, y0, x1, y1)) in enumerate(zip(scenes, boxes, strict=True))
            if torch.equal(s.image[:, y0:y1, x0:x1], images[0])
        )
        assert probs.shape[1] == len(scenes[place].tags) + 1  # tags and "unassigned", or background and tags
    assert same(
        steps,
        refine_steps(
            *stack(scenes), labels=[s.tags for s in scenes], boxes=boxes, box_format="xyxy", boundary=None
        ),
    )


def test_a_callable_may_write_into_its_arguments():
    size = (40, 56)
    scene = make_scene(0, size=size, cam_grid=size, uss_grid=size, wss_grids=(size,))
    before = [value.clone() for value in (scene.cams, scene.mask, scene.uss, *scene.wss, scene.image)]

    def tool(images, probs):
        images.zero_()
        return probs.mul_(0.5)

    run(scene, boundary=tool)
    for value, kept in zip((scene.cams, scene.mask, scene.uss, *scene.wss, scene.image), before, strict=True):
        assert torch.equal(value, kept)


def test_crops_of_one_size_share_a_call():
    scenes = [make_scene(s) for s in range(3)]
    sizes = []

    def tool(images, probs):
        sizes.append(tuple(probs.shape))
        return probs

    refine_mask(*stack(scenes), labels=[s.tags for s in scenes], boundary=tool)
    assert sizes == [(3, 3, 40, 56)] * 2


def test_a_callable_works_without_images():
    scene = make_scene(0)
    seen = []
    refine_mask(
        scene.cams,
        scene.mask,
        scene.uss,
        scene.wss,
        labels=scene.tags,
        boundary=lambda i, p: seen.append(i) or p,
    )
    assert seen == [None, None]


@pytest.mark.parametrize("wrong", [None, torch.zeros(1, 2, 40, 56), torch.zeros(3, 40, 56), [1]])
def test_a_callable_that_returns_something_else_is_refused(wrong):
    with pytest.raises(
        ValueError, match=r"boundary must return probabilities of shape \(1, 3, 40, 56\), got"
    ):
        run(make_scene(0), boundary=lambda images, probs: wrong)


def test_a_boundary_tool_cannot_bring_in_a_class_that_m_init_lacks():
    scene = make_scene(0, lost=(6,))
    scene = scene._replace(cams=torch.where(torch.arange(8)[:, None, None] == 6, -1.0, scene.cams))

    calls = []

    def generous(images, probs):
        calls.append(1)
        if len(calls) == 1:
            return probs  # the seed
        return torch.ones_like(probs) + torch.arange(probs.shape[1])[:, None, None]

    steps = run(scene, boundary=generous)
    assert len(calls) == 2
    assert 7 not in steps.init_mask
    assert set(steps.mask.unique().tolist()) == {3}


# -- degenerate input ------------------------------------------------------------------------------


@every_recipe
@pytest.mark.parametrize(
    "change",
    [
        {"cams": lambda s: torch.zeros_like(s.cams)},
        {"cams": lambda s: -torch.ones_like(s.cams)},
        {"cams": lambda s: torch.ones_like(s.cams)},
        {"cams": lambda s: s.cams * 1e4},
        {"mask": lambda s: torch.full_like(s.mask, 255)},
        {"mask": lambda s: torch.zeros_like(s.mask)},
        {"mask": lambda s: torch.full_like(s.mask, 5)},
        {"mask": lambda s: torch.full_like(s.mask, 255), "cams": lambda s: torch.zeros_like(s.cams)},
        {"uss": lambda s: torch.zeros_like(s.uss)},
        {"uss": lambda s: torch.ones_like(s.uss)},
        {"wss": lambda s: [torch.zeros_like(w) for w in s.wss]},
        {
            "uss": lambda s: s.uss[:, :1, :1],
            "wss": lambda s: [w[:, :1, :1] for w in s.wss],
            "cams": lambda s: s.cams[:, :1, :1],
        },
        {"uss": lambda s: s.uss[:1], "wss": lambda s: [w[:1] for w in s.wss]},
    ],
)  # fmt: skip
def test_degenerate_input_gives_a_defined_result(recipe, change):
    scene = make_scene(0)
    scene = scene._replace(**{name: make(scene) for name, make in change.items()})
    steps = run(scene, recipe=recipe)
    allowed = {0, 3, 7, 255} | ({5} if recipe.classes == "mask" else set())
    assert set(steps.mask.unique().tolist()) <= allowed
    for field in fields(RefineSteps):
        assert torch.isfinite(getattr(steps, field.name)).all()


def test_an_unknown_crop_without_any_cam_stays_unknown():
    scene = make_scene(0)
    scene = scene._replace(cams=torch.zeros_like(scene.cams), mask=torch.full_like(scene.mask, 255))
    assert (run(scene).mask == 255).all()


@every_recipe
def test_an_empty_box_gives_ignore_at_no_great_cost(recipe, monkeypatch):
    passes = []
    solve = dhr_refine.seed.solve

    def counted(*args, **kwargs):
        result = solve(*args, **kwargs)
        passes.append(int(result.iterations.max()))
        return result

    monkeypatch.setattr(dhr_refine.seed, "solve", counted)
    monkeypatch.setattr(dhr_refine.rebalance, "solve", counted)
    scenes = [make_scene(s, uss_grid=(8, 14), cam_grid=(10, 14)) for s in range(2)]
    mask = refine_mask(
        *stack(scenes),
        labels=[s.tags for s in scenes],
        boxes=[(7, 7, 7, 9), None],
        box_format="xyxy",
        boundary=None,
        recipe=recipe,
    )
    assert max(passes, default=0) < 50
    assert (mask[0] == 255).all()
    assert torch.equal(mask[1], run(scenes[1], recipe=recipe).mask)


@every_recipe
def test_an_empty_batch_gives_an_empty_mask(recipe):
    maps = [t[:0] if isinstance(t, torch.Tensor) else [w[:0] for w in t] for t in stack([make_scene(0)])]
    mask = refine_mask(*maps, labels=torch.zeros(0, 8), boundary=None, recipe=recipe)
    assert mask.shape == (0, 40, 56)
    assert mask.dtype == torch.int64


def test_a_class_smaller_than_a_cell_survives_by_default():
    scene = make_scene(0, tags=(2,))
    scene.mask[10, 20] = 7
    steps = run(scene, labels=[2, 6], boundary=None)
    where = steps.classes.tolist().index(7)
    assert (steps.init_mask == 7).any()
    assert steps.uss_centroids[where].abs().sum() > 0


@settings(max_examples=30)
@given(data=st.data())
def test_fuzz_shapes_and_degenerate_content(data):
    draw = data.draw
    side = st.integers(1, 24)
    grid = st.tuples(st.integers(1, 9), st.integers(1, 9))
    batch, classes = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    size = draw(st.tuples(side, side))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))

    def maps(depth):
        kind = draw(st.sampled_from(["random", "zero", "one", "sparse", "large"]))
        shape = (batch, depth, *draw(grid))
        values = {
            "random": rng.normal(size=shape),
            "zero": np.zeros(shape),
            "one": np.ones(shape),
            "sparse": rng.normal(size=shape) * (rng.random(shape) > 0.8),
            "large": rng.normal(size=shape) * 1e5,
        }[kind]
        return torch.from_numpy(values).float()

    background = draw(st.sampled_from(["first", "last", "none"]))
    total = classes + (background != "none")
    values = draw(st.lists(st.sampled_from([*range(total), 255]), min_size=1, max_size=3))
    masks = torch.from_numpy(rng.choice(values, size=(batch, *size)))
    tags = [draw(st.sets(st.integers(0, classes - 1))) for _ in range(batch)]
    boxes = []
    for _ in range(batch):
        x0, y0 = draw(st.integers(0, size[1])), draw(st.integers(0, size[0]))
        boxes.append((x0, y0, draw(st.integers(x0, size[1])), draw(st.integers(y0, size[0]))))
    boxed = draw(st.booleans())
    recipe = draw(st.sampled_from(list(RECIPES.values())))
    steps = refine_steps(
        maps(classes),
        masks,
        maps(draw(st.integers(1, 4))),
        [maps(3) for _ in range(draw(st.integers(1, 2)))],
        labels=multi_hot([sorted(own) for own in tags], classes),
        boxes=boxes if boxed else None,
        box_format="xyxy",
        background=background,
        tau=draw(st.sampled_from([-1.0, 0.0, 0.8, 1.0])),
        reg=draw(st.sampled_from([0.1, 0.01, 1.0])),
        boundary=None,
        recipe=recipe,
    )
    for field in fields(RefineSteps):
        assert torch.isfinite(getattr(steps, field.name)).all(), field.name
    assert steps.mask.shape == masks.shape
    offset = int(background == "first")
    ground = {"first": {0}, "last": {classes}, "none": set()}[background]
    for b, own in enumerate(tags):
        inside = torch.zeros(size, dtype=torch.bool)
        x0, y0, x1, y1 = boxes[b] if boxed else (0, 0, size[1], size[0])
        inside[y0:y1, x0:x1] = True
        assert (steps.mask[b][~inside] == 255).all()
        seen = set(steps.mask[b][inside].tolist())
        if not own and recipe.classes == "tags":
            assert torch.equal(steps.mask[b][inside], masks[b][inside])
        else:
            allowed = {tag + offset for tag in own} | ground | {255}
            if recipe.classes == "mask":
                allowed |= set(masks[b][inside].tolist())
            assert seen <= allowed


# -- options and their errors ----------------------------------------------------------------------


def test_tau_and_reg_reach_the_steps():
    scene = make_scene(2, tags=(1, 3, 6), alike=(1, 6))
    assert run(scene, tau=1.0).groups.sum() == 4
    assert run(scene, tau=-1.0).groups.sum() == 16
    assert not torch.equal(run(scene, reg=0.01).uss, run(scene, reg=1.0).uss)


def test_a_class_without_a_pixel_joins_no_group():
    scenes = [make_scene(0, tags=(2,)), make_scene(1, tags=(1, 3, 6))]
    steps = refine_steps(*stack(scenes), labels=[s.tags for s in scenes], boundary=None, tau=-1.0)
    assert steps.groups[1].all()
    assert torch.equal(steps.groups[0, 2:].int(), torch.eye(4, dtype=torch.int32)[2:])
    assert not steps.groups[0, :2, 2:].any()


def test_only_shrunk_classes_re_enter_the_base_mask():
    """One class vanished from the base mask; the other is larger there than its seed and stays as it is."""
    scene = make_scene(4, tags=(2, 6), lost=(6,))
    scene = scene._replace(mask=torch.where(scene.mask == 3, 3, 0).roll(2, 0))  # beside its seed
    shrunk = run(scene)
    every = run(scene, recipe=replace(Recipe(), merge="all"))
    assert torch.equal(shrunk.seed, every.seed)
    assert {3, 7} <= set(shrunk.seed.unique().tolist())
    expected = torch.where(shrunk.seed == 7, 7, scene.mask)
    assert (shrunk.seed == 3).sum() <= (scene.mask == 3).sum()
    assert torch.equal(shrunk.init_mask, expected)
    assert torch.equal(every.init_mask, torch.where(every.seed == 255, scene.mask, every.seed))
    assert not torch.equal(shrunk.init_mask, every.init_mask)


def test_where_nothing_scores_every_class_at_hand_does():
    scene = make_scene(0)
    scene = scene._replace(uss=torch.zeros_like(scene.uss))
    steps = run(scene, recipe=replace(Recipe(), prior=0.0))
    assert torch.allclose(steps.probs, torch.full((3, 40, 56), 1 / 3), atol=1e-5)


def test_a_recipe_of_ones_own():
    scene = make_scene(2, tags=(1, 3, 6), alike=(1, 6))
    masks = [
        run(scene, recipe=replace(Recipe(), **change)).probs
        for change in (
            {},
            {"prior": 0.0},
            {"normalise": False},
            {"marginal": "uniform"},
            {"plan": "minmax"},
            {"seed_weight": 0.0},
        )
    ]
    for i, one in enumerate(masks):
        assert all(not torch.equal(one, other) for other in masks[:i])


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"tau": 1.2}, ValueError, r"tau must lie in \[-1.0, 1.0\], got 1.2: pass a number in that range"),
        ({"tau": "0.8"}, TypeError, "tau must be a number, got str '0.8'"),
        ({"reg": 0}, ValueError, "reg must be above 0 and finite, got 0: pass a positive number"),
        (
            {"recipe": "released"},
            TypeError,
            r"recipe must be a Recipe, got str 'released': pass Recipe.paper\(\)",
        ),
        (
            {"boundary": "densecrf"},
            ValueError,
            "boundary must be 'crf', 'pamr', None or a callable, got 'densecrf'",
        ),
    ],
)
def test_option_errors(options, error, text):
    with pytest.raises(error, match=text):
        run(make_scene(0), **options)


def test_a_callable_that_returns_nan_is_refused():
    with pytest.raises(ValueError, match="the result of boundary holds NaN or infinity"):
        run(make_scene(0), boundary=lambda images, probs: probs * float("nan"))


def test_a_unit_range_image_may_overshoot_a_little():
    scene = make_scene(0)
    image = torch.rand(3, *scene.mask.shape, generator=torch.Generator().manual_seed(0))
    image[0, 0, 0] = -0.02
    seen = []

    def look(images, probs):
        seen.append(images)
        return probs

    refine_mask(scene.cams, scene.mask, scene.uss, scene.wss, image, labels=scene.tags, boundary=look)
    assert torch.equal(seen[0][0], (image * 255).round().clamp(0, 255).byte())


def test_a_boundary_that_returns_logarithms_is_refused():
    with pytest.raises(ValueError, match="boundary returned negative values: return probabilities"):
        run(make_scene(0), boundary=lambda images, probs: probs.clamp_min(1e-6).log())
