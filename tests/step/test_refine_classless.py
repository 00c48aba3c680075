"""Images without any class beside others: they keep their base mask, and the others do not notice."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_scene import RECIPES, every_recipe
from scenes import make_scene, multi_hot, stack

from dhr_refine import RefineSteps, refine_mask, refine_steps

SCENES = [make_scene(0), make_scene(1, tags=(3,)), make_scene(2, tags=(0, 5, 7))]
OTHER_SIZE = make_scene(3, size=(33, 47))


def same_image(images, probs):
    """A boundary tool of one's own that needs a class to work on."""
    assert probs.shape[1] > 0
    return probs / probs.sum(1, keepdim=True).clamp_min(1e-6)


TOOLS = [None, None, "crf", "pamr", "par", same_image]


def without_classes(scene, _background=None):
    """A scene without tags, whose base mask knows nothing."""
    return scene._replace(mask=torch.full_like(scene.mask, 255), tags=[])


def renumber(scene, background):
    """The base mask of a scene, made for the background first, under another convention."""
    ground = scene.mask == 0
    if background == "first":
        return scene
    mask = torch.where(ground, 8 if background == "last" else 255, scene.mask - 1)
    return scene._replace(mask=mask)


def given_tags(scenes, form):
    tags = [scene.tags for scene in scenes]
    hot = multi_hot(tags, 8)
    return {
        "lists": tags,
        "sets": [set(own) for own in tags],
        "hot": hot,
        "bool": hot.bool(),
        "rows": list(hot.long()),
        "ids": [torch.tensor(own, dtype=torch.long) for own in tags],
    }[form]


@every_recipe
@pytest.mark.parametrize("boundary", TOOLS[1:])
@pytest.mark.parametrize("background", ["first", "last", "none"])
def test_an_image_without_classes_is_its_base_mask(recipe, boundary, background):
    bare = without_classes(SCENES[0])
    other = renumber(SCENES[1], background)
    options = {"boundary": boundary, "background": background, "recipe": recipe}
    alone = refine_steps(*bare[:5], labels=[], **options)
    assert torch.equal(alone.mask, bare.mask)
    both = refine_mask(*stack([bare, other]), labels=[[], other.tags], **options)
    assert torch.equal(both[0], bare.mask)
    assert torch.equal(both[1], refine_mask(*other[:5], labels=other.tags, **options))
    neither = refine_mask(*stack([bare, bare]), labels=torch.zeros(2, 8), **options)
    assert torch.equal(neither, torch.stack([bare.mask] * 2))


@settings(max_examples=40)
@given(data=st.data())
def test_others_in_a_batch_are_as_if_they_were_alone(data):
    draw = data.draw
    background = draw(st.sampled_from(["first", "last", "none"]))
    ragged = draw(st.booleans())
    choices = [*SCENES, OTHER_SIZE] if ragged else SCENES
    chosen = draw(st.lists(st.tuples(st.sampled_from(choices), st.booleans()), min_size=1, max_size=4))
    scenes = [(without_classes if bare else renumber)(scene, background) for scene, bare in chosen]
    labels = given_tags(scenes, draw(st.sampled_from(["lists", "sets", "hot", "bool", "rows", "ids"])))
    options = {
        "background": background,
        "boundary": draw(st.sampled_from(TOOLS)),
        "recipe": draw(st.sampled_from(list(RECIPES.values()))),
    }
    if not ragged:
        steps = refine_steps(*stack(scenes), labels=labels, **options)
        masks = list(steps.mask)
    else:
        columns = [list(column) for column in zip(*(scene[:5] for scene in scenes), strict=True)]
        steps = refine_steps(*columns, labels=labels, **options)
        masks = steps.mask
    for field in fields(RefineSteps):
        values = getattr(steps, field.name)
        assert all(torch.isfinite(value).all() for value in values)
    for (_, bare), scene, mask in zip(chosen, scenes, masks, strict=True):
        expected = scene.mask if bare else refine_mask(*scene[:5], labels=scene.tags, **options)
        assert torch.equal(mask, expected)


def test_boxes_around_nothing_beside_an_image_without_classes():
    bare = without_classes(SCENES[0])
    other = renumber(SCENES[1], "none")
    for recipe in RECIPES.values():
        mask = refine_mask(
            *stack([bare, bare, other]),
            labels=[[], [], other.tags],
            boxes=[(3, 3, 3, 9), None, None],
            box_format="xyxy",
            background="none",
            recipe=recipe,
        )
        assert (mask[:2] == 255).all()
        assert torch.equal(
            mask[2], refine_mask(*other[:5], labels=other.tags, background="none", recipe=recipe)
        )
