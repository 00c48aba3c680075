"""Degenerate input of refine_mask gives a defined result."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_scene import RECIPES, every_recipe, run
from scenes import make_scene, multi_hot, stack

import dhr_refine.rebalance
import dhr_refine.refine
import dhr_refine.seed
from dhr_refine import RefineSteps, refine_mask, refine_steps


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
