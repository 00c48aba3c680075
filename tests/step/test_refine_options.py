"""Options of refine_mask, and their errors."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from one_scene import run
from scenes import make_scene, stack

from dhr_refine import Recipe, refine_mask, refine_steps


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
            "boundary must be 'crf', 'pamr', 'par', None or a callable, got 'densecrf'",
        ),
    ],
)
def test_option_errors(options, error, text):
    with pytest.raises(error, match=text):
        run(make_scene(0), **options)


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), torch.tensor(1e300, dtype=torch.float64)])
def test_a_callable_that_returns_nan_or_infinity_is_refused(factor):
    with pytest.raises(ValueError, match="the result of boundary holds NaN or infinity"):
        run(make_scene(0), boundary=lambda images, probs: probs.double() * factor)


def test_a_callable_that_returns_no_data_is_refused():
    with pytest.raises(TypeError, match="the result of boundary is on the meta device"):
        run(make_scene(0), boundary=lambda images, probs: probs.to("meta"))


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


def test_m_init_is_mixed_in_without_normalising_too():
    scene = make_scene(0, tags=(2, 6))
    plain = run(scene, recipe=replace(Recipe(), normalise=False, prior=0.0))
    mixed = run(scene, recipe=replace(Recipe(), normalise=False, prior=0.5))
    assert not torch.allclose(plain.probs, mixed.probs, atol=0.1)
    # Half of the wss scores, half of the cells' shares: no pixel gets more than both allow.
    assert mixed.probs.max() <= 0.5 * plain.probs.max() + 0.5 + 1e-6
