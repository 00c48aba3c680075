"""What every caller of refine_mask relies on."""

from __future__ import annotations

import torch
from one_scene import every_recipe, run, same
from scenes import make_scene, multi_hot, stack

import dhr_refine.rebalance
import dhr_refine.refine
import dhr_refine.seed
from dhr_refine import Recipe, refine_mask, refine_steps


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


def test_lazily_negated_maps():
    cams, masks, uss, wss, images = stack([make_scene(0), make_scene(1)])

    def negated(maps):
        return torch.complex(maps, -maps).conj().imag

    tags = {"labels": [[2, 6], [2, 6]], "boundary": None}
    result = refine_mask(
        negated(cams), masks, negated(uss), [negated(level) for level in wss], images, **tags
    )
    assert torch.equal(result, refine_mask(cams, masks, uss, wss, images, **tags))


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
