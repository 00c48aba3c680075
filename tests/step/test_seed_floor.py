"""CAMs with a floor: what holds no signal is not part of the seed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from one_scene import PIECES, RECIPES, run
from scenes import make_scene

from dhr_refine import Recipe, refine_mask

AS_GIVEN = replace(Recipe(), subtract_floor=False)


def with_cams(scene, change):
    return scene._replace(cams=change(scene.cams))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 20.0])
def test_a_constant_floor_changes_nothing(share):
    """Multiples of 1/8 and floors that float32 holds exactly: equal to the last bit."""
    scene = with_cams(make_scene(2, tags=(1, 3, 6)), lambda cams: (8 * cams.relu()).round() / 8)
    floor = (8 * share * scene.cams.amax()).floor() / 8
    lifted = run(with_cams(scene, lambda cams: cams + floor))
    expected = run(scene)
    assert torch.equal(lifted.seed, expected.seed)
    assert torch.equal(lifted.mask, expected.mask)
    assert (
        run(with_cams(scene, lambda c: c + floor), recipe=AS_GIVEN).seed != expected.seed
    ).any() or share < 1


@pytest.mark.parametrize("seed", range(4))
def test_cams_that_are_zero_somewhere_stay_as_they_are(seed):
    scene = make_scene(seed, tags=(1, 3, 6), alike=(1, 6))
    assert all((scene.cams[tag] <= 0).any() for tag in scene.tags)
    one, other = run(scene), run(scene, recipe=AS_GIVEN)
    assert torch.equal(one.seed, other.seed)
    assert torch.equal(one.mask, other.mask)


@pytest.mark.parametrize("lift", [0.0, 1e-6, 0.3, 1e4])
def test_a_cam_without_contrast_claims_nothing(lift):
    """Constant, or with no more than half precision's rounding on it; another class beside it, or none."""
    scene = make_scene(0)
    rng = np.random.default_rng(0)
    noise = torch.from_numpy(1 + 4e-4 * rng.random(scene.cams.shape[1:])).float()
    for flat in (torch.ones_like(noise), noise):
        cams = scene.cams.clone()
        cams[6] = lift * flat
        steps = run(scene._replace(cams=cams))
        assert not (steps.seed == 7).any()
        assert (steps.seed == 3).any()
        alone = make_scene(0, tags=(6,))._replace(cams=cams)
        assert (run(alone).seed == 255).all()


def test_a_class_whose_cam_is_a_floor_does_not_take_the_background():
    scene = make_scene(1, tags=(2, 6), lost=(6,))
    cams = scene.cams.clone()
    cams[6] = 1e-6
    result = run(scene._replace(cams=cams)).mask
    assert not (result == 7).any()
    cams[6] = 0
    assert torch.equal(result, run(scene._replace(cams=cams)).mask)


def sigmoid_maps(cams):
    """What a sigmoid makes of logits whose background lies around 1: the background at 0.73, with noise."""
    return torch.sigmoid(4 * cams + 1)


def test_sigmoid_maps_give_nearly_the_seed_of_their_logits():
    for seed in range(4):
        scene = make_scene(seed, tags=(3,))
        maps = with_cams(scene, sigmoid_maps)
        expected, result, flooded = run(scene).seed, run(maps).seed, run(maps, recipe=AS_GIVEN).seed
        assert (flooded == 255).float().mean() < 0.1
        assert (result != expected).float().mean() < 0.25 < (flooded != expected).float().mean()


@pytest.mark.usefixtures("exact_transport")
@pytest.mark.parametrize(
    "change", [sigmoid_maps, lambda c: c.relu() + 0.7, lambda c: torch.full_like(c, 0.3)]
)
@pytest.mark.parametrize("background", ["first", "none"])
@pytest.mark.parametrize("box", [None, (3, 2, 49, 31)], ids=["whole", "boxed"])
def test_equals_the_reference_with_floors(change, background, box):
    scene = with_cams(make_scene(2, tags=(1, 3, 6), ignore=True), change)
    offset = 1
    if background == "none":
        offset = 0
        scene = scene._replace(mask=torch.where(scene.mask % 255 == 0, 255, scene.mask - 1))
    steps = run(scene, recipe=RECIPES["default"], background=background, boxes=box, box_format="xyxy")
    expected = reference.refine(
        scene.cams.numpy()[scene.tags],
        scene.mask.numpy(),
        scene.uss.numpy(),
        [level.numpy() for level in scene.wss],
        tag_labels=[tag + offset for tag in scene.tags],
        background=0 if background == "first" else None,
        box=box,
        **PIECES["default"],
    )
    assert np.array_equal(steps.seed.numpy(), expected.seed)
    assert (steps.mask.numpy() != expected.mask).mean() < 1e-3


@settings(max_examples=50, deadline=None)
@given(
    st.integers(0, 1000),
    st.sampled_from([0.0, 1e-30, 1e-6, 1.0, 1e30]),
    st.sampled_from([0.0, 1e-30, 1e-6, 0.5, 1e30]),
    st.sampled_from([torch.float32, torch.float16, torch.float64]),
)
def test_any_floor_and_scale_give_labels(seed, scale, floor, dtype):
    scene = make_scene(seed, tags=(1, 3, 6))
    cams = (scene.cams.double() * scale + floor).clamp(-1e30, 1e30)
    cams = cams.clamp(-6e4, 6e4) if dtype == torch.float16 else cams
    mask = refine_mask(cams.to(dtype), scene.mask, scene.uss, scene.wss, labels=scene.tags, boundary=None)
    assert set(mask.unique().tolist()) <= {0, 2, 4, 7}
