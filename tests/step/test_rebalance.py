"""uss_rebalance and wss_rebalance against the NumPy reference, and their invariants."""

# ruff: noqa: E501  (tables of errors, one case a line)

from __future__ import annotations

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scenes import make_scene

from dhr_refine import Recipe, uss_rebalance, wss_rebalance
from dhr_refine.rebalance import group_classes, make_context

MARGINALS = {"background": Recipe(), "uniform": Recipe.paper()}


def local_mask(scene):
    """Mask with labels 0 .. number of tags."""
    table = torch.full((256,), 255)
    table[0] = 0
    for k, tag in enumerate(scene.tags):
        table[tag + 1] = k + 1
    return table[scene.mask][None]


def both(scene, mask, recipe, *, tau=0.8, background=0, num_classes=3, **options):
    first = uss_rebalance(
        scene.uss[None], mask, num_classes=num_classes, background=background, recipe=recipe, **options
    )
    levels = [level[None] for level in scene.wss]
    second = wss_rebalance(
        first.scores,
        levels,
        mask,
        uss_centroids=first.centroids,
        tau=tau,
        background=background,
        recipe=recipe,
        **options,
    )
    return first, second


@pytest.mark.usefixtures("exact_transport")
@pytest.mark.parametrize("marginal", ["background", "uniform"])
@pytest.mark.parametrize("background", [0, None, 2])
@pytest.mark.parametrize("boxed", [False, True])
@pytest.mark.parametrize("seeded", [False, True])
def test_equals_the_reference(marginal, background, boxed, seeded):
    scene = make_scene(3, ignore=True, alike=(2, 6), tags=(2, 6), size=(36, 44))
    mask = local_mask(scene)
    inside = torch.ones_like(mask, dtype=torch.bool)
    if boxed:
        inside[:, :5] = False
        inside[..., 39:] = False
    seed = torch.full_like(mask, 255)
    seed[:, 2:20, 8:14] = 1  # of one class alone, and partly outside the box
    recipe = replace(MARGINALS[marginal], seed_weight=0.7)
    shared = {"seed": seed} if seeded else {}
    first, second = both(
        scene, mask, recipe, background=background, valid=inside if boxed else None, **shared
    )
    options = {"background": background, "marginal": marginal, "inside": inside[0].numpy()}
    options["class_penalty"] = recipe.class_penalty
    if seeded:
        options |= {"seed": torch.where(seed == 255, -1, seed)[0].numpy(), "seed_weight": 0.7}
    plain = torch.where(mask == 255, -1, mask)[0].numpy()
    scores, centroids = reference.uss_step(scene.uss.numpy(), plain, [0, 1, 2], **options)
    assert np.abs(first.scores[0].numpy() - scores).max() < 1e-5
    assert np.abs(first.centroids[0].numpy() - centroids).max() < 1e-5
    assert first.present.all()
    levels = [level.numpy() for level in scene.wss]
    final, groups = reference.wss_step(scores, levels, plain, [0, 1, 2], centroids, tau=0.8, **options)
    assert [1, 2] in groups  # the scene does exercise a group
    assert np.abs(second.scores[0].numpy() - final).max() < 1e-5
    known = np.where(inside[0], plain, -1)
    pooling = (options.get("seed"), [0, 1, 2], 0.7, inside[0].numpy())
    expected = [reference.pool_with_seed(level, known, *pooling)[0] for level in levels]
    assert np.abs(second.centroids[0].numpy() - np.concatenate(expected, axis=1)).max() < 1e-5


@pytest.mark.usefixtures("exact_transport", "without_numba")
def test_equals_the_reference_under_autocast():
    scene = make_scene(3, alike=(2, 6))
    mask = local_mask(scene)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first, second = both(scene, mask, Recipe())
    options = {"background": 0, "marginal": "background", "class_penalty": Recipe().class_penalty}
    plain, levels = mask[0].numpy(), [level.numpy() for level in scene.wss]
    scores, centroids = reference.uss_step(scene.uss.numpy(), plain, [0, 1, 2], **options)
    assert np.abs(first.scores[0].numpy() - scores).max() < 1e-5
    final, _ = reference.wss_step(scores, levels, plain, [0, 1, 2], centroids, tau=0.8, **options)
    assert np.abs(second.scores[0].numpy() - final).max() < 1e-5


@pytest.mark.usefixtures("exact_transport")
@pytest.mark.parametrize("grid", [(8, 19), (19, 11), (8, 5), (3, 11), (16, 22), (4, 6), (16, 6)])
def test_equals_the_reference_where_a_level_is_finer_or_coarser_along_one_axis(grid):
    scene = make_scene(3, alike=(2, 6), uss_grid=(8, 11), wss_grids=(grid,))
    mask = local_mask(scene)
    first, second = both(scene, mask, Recipe.paper(), tau=-1.0)
    level, centroids = scene.wss[0].numpy(), first.centroids[0].numpy()
    final, _ = reference.wss_step(
        first.scores[0].numpy(),
        [level],
        mask[0].numpy(),
        [0, 1, 2],
        centroids,
        tau=-1.0,
        background=0,
        marginal="uniform",
    )
    assert np.abs(second.scores[0].numpy() - final).max() < 1e-5


@pytest.mark.usefixtures("exact_transport")
def test_equals_the_reference_where_cosines_are_negative():
    rng = np.random.default_rng(0)
    uss, wss = rng.normal(size=(4, 6, 7)), rng.normal(size=(3, 6, 7))
    mask = rng.integers(0, 3, size=(12, 14))
    first = uss_rebalance(torch.from_numpy(uss)[None], torch.from_numpy(mask)[None], num_classes=3)
    second = wss_rebalance(
        first.scores,
        torch.from_numpy(wss)[None],
        torch.from_numpy(mask)[None],
        uss_centroids=first.centroids,
        tau=-1.0,
    )
    options = {"background": 0, "marginal": "background", "class_penalty": Recipe().class_penalty}
    scores, centroids = reference.uss_step(uss, mask, [0, 1, 2], **options)
    assert (scores == 0).mean() > 0.2  # the ReLU has something to cut
    assert np.abs(first.scores[0].numpy() - scores).max() < 1e-5
    final, _ = reference.wss_step(scores, [wss], mask, [0, 1, 2], centroids, tau=-1.0, **options)
    assert np.abs(second.scores[0].numpy() - final).max() < 1e-5


def test_the_tolerance_of_the_transport_hardly_shows():
    scene = make_scene(3, alike=(2, 6))
    mask = local_mask(scene)
    first, _ = both(scene, mask, Recipe())
    scores, _ = reference.uss_step(
        scene.uss.numpy(),
        mask[0].numpy(),
        [0, 1, 2],
        background=0,
        marginal="background",
        class_penalty=Recipe().class_penalty,
    )
    assert np.abs(first.scores[0].numpy() - scores).max() < 1e-3


def test_a_seed_counts_for_a_class_smaller_than_a_cell():
    """Half a cell in the mask and half a cell in the seed are a class average each."""
    features = torch.tensor([[[[1.0, 2.0, 4.0]], [[8.0, 16.0, 32.0]]]])
    mask = torch.tensor([[[0, 0, 1, 255, 255, 255]]])
    seed = torch.tensor([[[255, 255, 255, 255, 255, 1]]])
    result = uss_rebalance(
        features, mask, num_classes=2, seed=seed, recipe=replace(Recipe(), seed_weight=0.25)
    )
    assert result.centroids[0].tolist() == [[1.0, 8.0], [0.75 * 2.0 + 0.25 * 4.0, 0.75 * 16.0 + 0.25 * 32.0]]


def test_a_seed_of_a_class_that_the_mask_lacks_feeds_nothing():
    features, mask = torch.rand(1, 3, 4, 5), torch.zeros(1, 4, 5, dtype=torch.long)
    seed = torch.full_like(mask, 255)
    seed[:, 1] = 1
    result = uss_rebalance(features, mask, num_classes=2, seed=seed)
    assert result.present.tolist() == [[True, False]]
    assert (result.centroids[:, 1] == 0).all()
    assert (result.scores[:, 1] == 0).all()


def test_a_class_smaller_than_a_cell_is_present():
    features, mask = torch.rand(1, 3, 1, 3), torch.tensor([[[0, 0, 1, 255, 255, 255]]])
    first = uss_rebalance(features, mask, num_classes=3)
    second = wss_rebalance(first.scores, features, mask, uss_centroids=first.centroids)
    assert first.present.tolist() == second.present.tolist() == [[True, True, False]]


def test_a_class_that_wins_no_cell_is_absent_by_majority():
    features, mask = torch.rand(1, 3, 1, 3), torch.tensor([[[0, 0, 1, 0, 2, 2]]])  # ties go to the lowest
    recipe = replace(Recipe(), assign="majority")
    first = uss_rebalance(torch.rand(1, 3, 1, 6), mask, num_classes=3, recipe=recipe)
    assert first.present.tolist() == [[True, True, True]]
    second = wss_rebalance(first.scores, features, mask, uss_centroids=first.centroids, recipe=recipe)
    assert second.present.tolist() == [[True, False, True]]
    assert (second.centroids[:, 1] == 0).all()


def test_a_mask_of_nothing_but_background_gives_it_all_of_its_similarity():
    features, mask = torch.rand(1, 3, 4, 5), torch.zeros(1, 4, 5, dtype=torch.long)
    first = uss_rebalance(features, mask, num_classes=2)
    second = wss_rebalance(first.scores, features, mask, uss_centroids=first.centroids)
    expected = torch.cosine_similarity(features, features.mean((2, 3), keepdim=True), dim=1)
    for result in (first, second):
        assert torch.allclose(result.scores[:, 0], expected, atol=1e-6)
        assert (result.scores[:, 1] == 0).all()


def test_chains_of_alike_classes_form_one_group():
    """cos(0, 1) and cos(1, 2) exceed tau, cos(0, 2) does not: connected components join all three."""
    angles = torch.tensor([0.0, 0.6, 1.2, 3.0])
    uss = torch.stack((angles.cos(), angles.sin()))[None, :, None, :]
    mask = torch.tensor([[[0, 1, 2, 3]]])
    wss = torch.eye(4)[None, :, None, :]
    options = {"tau": 0.8, "background": None}
    first = uss_rebalance(uss, mask, num_classes=4, background=None)
    result = wss_rebalance(first.scores, wss, mask, uss_centroids=first.centroids, **options)
    changed = (result.scores != first.scores).flatten(2).any(-1)
    assert changed.tolist() == [[True, True, True, False]]
    rows = replace(Recipe(), groups="rows")
    result = wss_rebalance(first.scores, wss, mask, uss_centroids=first.centroids, recipe=rows, **options)
    # Rows of the upper triangle: {0, 1} and {1, 2} overlap in class 1, which is multiplied twice.
    one = wss_rebalance(
        first.scores[:, :2],
        wss,
        torch.tensor([[[0, 1, 255, 255]]]),
        uss_centroids=first.centroids[:, :2],
        **options,
    )
    assert (result.scores[:, 1] < one.scores[:, 1] + 1e-3).all()
    assert torch.allclose(result.scores[:, 0], one.scores[:, 0], atol=1e-3)


@pytest.mark.parametrize("count", range(1, 12))
def test_a_chain_of_any_length_is_one_group(count):
    """Only neighbours on the chain are alike, and they are not neighbours in the order of the classes."""
    order = torch.randperm(count)
    alike = torch.eye(count)
    alike[order[1:], order[:-1]] = alike[order[:-1], order[1:]] = 0.9
    labels = torch.arange(count)[None, None]
    context = make_context(labels, None, seed=None, num_classes=count, background=None, recipe=Recipe())
    assert group_classes(alike[None], 0.8, context, Recipe()).all()


def test_the_background_joins_groups_only_if_the_recipe_says_so():
    scene = make_scene(4, tags=(1, 3))
    scene = scene._replace(uss=torch.ones_like(scene.uss) + 0.01 * scene.uss)  # all classes look alike
    mask = local_mask(scene)
    first, joined = both(scene, mask, Recipe())
    assert ((joined.scores - first.scores).abs().flatten(2).amax(-1) > 1e-3).all()
    _, apart = both(scene, mask, replace(Recipe(), group_background=False))
    assert torch.equal(apart.scores[:, 0], first.scores[:, 0])
    assert not torch.equal(apart.scores[:, 1:], first.scores[:, 1:])


def test_each_cell_hands_out_its_similarity_by_the_shares():
    """Eq. 3 as a check of scale: dividing the scores by the similarities gives shares that sum to 1."""
    scene = make_scene(5)
    first, _ = both(scene, local_mask(scene), Recipe())
    heat = reference.cosine_heatmaps(scene.uss.numpy(), first.centroids[0].numpy())
    shares = first.scores[0].numpy() / heat
    assert np.abs(shares.sum(0) - 1).max() < 1e-4


def test_absent_classes_are_zero_and_change_nothing():
    scene = make_scene(6, alike=(2, 6))
    mask = local_mask(scene)
    for recipe in (Recipe(), Recipe.paper(), Recipe.released()):
        few = both(scene, mask, recipe)
        many = both(scene, mask, recipe, num_classes=9)
        for small, large in zip(few, many, strict=True):
            assert (large.scores[:, 3:] == 0).all()
            assert (large.centroids[:, 3:] == 0).all()
            assert not large.present[:, 3:].any()
            assert torch.allclose(large.scores[:, :3], small.scores, atol=1e-6)


@pytest.mark.parametrize(
    "recipe", [Recipe(), Recipe.paper(), Recipe.released()], ids=["default", "paper", "released"]
)
def test_the_scale_of_the_features_does_not_matter(recipe):
    scene = make_scene(7, alike=(2, 6))
    mask = local_mask(scene)
    expected = both(scene, mask, recipe)[1].scores
    for scale in (1e-3, 1e4):
        scaled = scene._replace(uss=scene.uss * scale, wss=[scale * level for level in scene.wss])
        assert torch.allclose(both(scaled, mask, recipe)[1].scores, expected, atol=2e-4)


@settings(max_examples=10)
@given(seed=st.integers(0, 10**6))
def test_reordering_classes_reorders_the_scores(seed):
    scene = make_scene(
        seed % 50, alike=(2, 6), size=(20, 28), cam_grid=(5, 7), uss_grid=(4, 6), wss_grids=((5, 7),)
    )
    mask = local_mask(scene)
    order = torch.randperm(3, generator=torch.Generator().manual_seed(seed))
    for recipe in (Recipe(), Recipe.paper()):
        plain = both(scene, mask, recipe)[1]
        renamed = torch.where(mask == 255, 255, order[mask.clamp_max(2)])
        moved = both(scene, renamed, recipe, background=int(order[0]))[1]
        assert torch.allclose(moved.scores[:, order], plain.scores, atol=2e-3)
        assert torch.equal(moved.present[:, order], plain.present)


def test_flipping_flips():
    scene = make_scene(8, alike=(2, 6), size=(40, 56), uss_grid=(8, 14))
    mask = local_mask(scene)
    plain = both(scene, mask, Recipe())[1].scores
    flipped = scene._replace(uss=scene.uss.flip(-1), wss=[level.flip(-1) for level in scene.wss])
    assert torch.allclose(both(flipped, mask.flip(-1), Recipe())[1].scores.flip(-1), plain, atol=2e-3)


@pytest.mark.parametrize("recipe", [Recipe(), Recipe.paper()], ids=["default", "paper"])
def test_without_groups_the_scores_stay(recipe):
    scene = make_scene(9)
    first, second = both(scene, local_mask(scene), recipe, tau=1.0)
    assert torch.equal(first.scores, second.scores)


def test_at_tau_one_even_equal_centroids_form_no_group():
    """No cosine exceeds 1, whatever the rounding."""
    features = torch.rand(1, 64, 1, 1).expand(1, 64, 4, 6).contiguous()
    mask = torch.tensor([[[0, 0, 0, 1, 1, 2]] * 4])
    wss = torch.rand(1, 8, 4, 6)
    for seed in range(20):
        one = features * (seed + 0.37)
        first = uss_rebalance(one, mask, num_classes=3)
        second = wss_rebalance(first.scores, wss, mask, uss_centroids=first.centroids, tau=1.0)
        assert torch.equal(first.scores, second.scores)


def test_at_tau_minus_one_all_present_classes_form_one_group():
    scene = make_scene(10)
    first, second = both(scene, local_mask(scene), Recipe(), tau=-1.0, num_classes=4)
    changed = (first.scores != second.scores).flatten(2).any(-1)
    assert changed.tolist() == [[True, True, True, False]]


@pytest.mark.parametrize(
    "recipe", [Recipe(), Recipe.paper(), Recipe.released()], ids=["default", "paper", "released"]
)
def test_zero_and_constant_features_give_finite_scores(recipe):
    scene = make_scene(11)
    mask = local_mask(scene)
    for level in (0.0, 1.0, -3.0):
        flat = scene._replace(
            uss=torch.full_like(scene.uss, level), wss=[torch.full_like(w, level) for w in scene.wss]
        )
        for result in both(flat, mask, recipe):
            assert torch.isfinite(result.scores).all()
            assert torch.isfinite(result.centroids).all()


def test_an_unlabelled_mask_gives_zeros():
    scene = make_scene(12)
    mask = torch.full_like(local_mask(scene), 255)
    for recipe in (Recipe(), Recipe.paper(), Recipe.released()):
        for result in both(scene, mask, recipe):
            assert (result.scores == 0).all()
            assert not result.present.any()


def test_a_box_without_a_pixel_gives_zeros():
    scene = make_scene(12)
    mask = local_mask(scene)
    first, second = both(scene, mask, Recipe(), valid=torch.zeros_like(mask, dtype=torch.bool))
    assert (first.scores == 0).all()
    assert (second.scores == 0).all()


def test_pixels_outside_the_box_change_nothing():
    scene = make_scene(13, size=(40, 55), uss_grid=(8, 11))
    mask = local_mask(scene)
    valid = torch.zeros_like(mask, dtype=torch.bool)
    valid[:, 10:30, 15:50] = True
    expected = both(scene, mask, Recipe(), valid=valid)
    noise = torch.where(valid, mask, torch.randint(0, 3, mask.shape))
    cells = torch.zeros(8, 11, dtype=torch.bool)
    cells[2:6, 3:10] = True
    other = scene._replace(uss=torch.where(cells, scene.uss, torch.rand_like(scene.uss)))
    result = both(other, noise, Recipe(), valid=valid)
    for one, two in zip(expected, result, strict=True):
        assert torch.allclose(one.centroids, two.centroids, atol=1e-6)
        assert torch.allclose(one.scores[..., cells], two.scores[..., cells], atol=2e-3)


def test_one_map_equals_a_list_of_one_and_levels_average():
    scene = make_scene(14, alike=(2, 6))
    mask = local_mask(scene)
    first = uss_rebalance(scene.uss[None], mask, num_classes=3)
    options = {"uss_centroids": first.centroids}
    level = scene.wss[1][None]
    one = wss_rebalance(first.scores, level, mask, **options)
    for same in ([level], (level,), [level, level]):
        result = wss_rebalance(first.scores, same, mask, **options)
        assert torch.allclose(one.scores, result.scores, atol=1e-6)
    assert one.centroids.shape == (1, 3, 12)
    assert result.centroids.shape == (1, 3, 24)


def test_half_precision_autocast_gradients_and_inputs(device, dtype):
    scene = make_scene(15, alike=(2, 6))
    mask = local_mask(scene).to(device)
    cast = scene._replace(uss=scene.uss.to(device, dtype), wss=[w.to(device, dtype) for w in scene.wss])
    cast.uss.requires_grad_()
    before = copy.deepcopy((cast.uss.detach(), cast.wss, mask))
    plain = both(cast, mask, Recipe())
    with torch.autocast(device_type=device.type, dtype=torch.bfloat16):
        again = both(cast, mask, Recipe())
    for one, two in zip(plain, again, strict=True):
        assert one.scores.dtype == torch.float32
        assert not one.scores.requires_grad
        assert torch.equal(one.scores, two.scores)
    exact = both(
        scene._replace(uss=cast.uss.detach().float(), wss=[w.float() for w in cast.wss]), mask, Recipe()
    )
    assert torch.allclose(plain[1].scores, exact[1].scores, atol=1e-5)
    assert torch.equal(cast.uss.detach(), before[0])
    assert all(torch.equal(x, y) for x, y in zip(cast.wss, before[1], strict=True))
    assert torch.equal(mask, before[2])


U, M, SC, V = (
    torch.rand(2, 3, 4, 5),
    torch.zeros(2, 8, 8, dtype=torch.long),
    torch.rand(2, 2, 4, 5),
    torch.rand(2, 2, 3),
)


@pytest.mark.parametrize(
    ("features", "mask", "options", "error", "text"),
    [
        (U[0], M, {}, ValueError, r"features must have shape \(B, D, h, w\)"),
        (U.long(), M, {}, TypeError, "features must be floating point"),
        (U + math.nan, M, {}, ValueError, "features holds NaN or infinity"),
        (U, M[0], {}, ValueError, r"mask must have shape \(B, H, W\)"),
        (U, M[:1], {}, ValueError, "mask has batch size 1 but features has 2"),
        (U[:, :2], M[:1], {}, ValueError, "mask has batch size 1 but features has 2"),  # D equals num_classes
        (U, M + 2, {}, ValueError, "mask holds the label 2, outside 0..1"),
        (U, M[:, :0], {}, ValueError, r"mask is empty, got a torch.int64 tensor of shape \(2, 0, 8\)"),
        (U, M, {"num_classes": 0}, ValueError, "num_classes must be a positive int"),
        (U, M, {"background": 2}, ValueError, r"background must be None or a label in 0..1, got 2: pass None"),
        (U, M, {"background": -1}, ValueError, "background must be None or a label in 0..1, got -1"),
        (U, M, {"reg": 0.0}, ValueError, "reg must be above 0 and finite, got 0.0"),
        (U, M, {"recipe": "paper"}, TypeError, r"recipe must be a Recipe, got str 'paper': pass Recipe.paper\(\)"),
        (U, M, {"valid": M}, ValueError, r"valid must be a bool tensor of the shape of mask \(2, 8, 8\), got a torch.int64"),
        (U, M, {"valid": M[0].bool()}, ValueError, "valid must be a bool tensor of the shape of mask"),
        (U, M, {"valid": True}, ValueError, "valid must be a bool tensor .* got bool True"),
        (U, M, {"seed": M[:, :4]}, ValueError, r"seed must have the shape of mask \(2, 8, 8\), got a .* of shape \(2, 4, 8\): bring"),
        (U, M, {"seed": M + 2}, ValueError, "seed holds the label 2, outside 0..1"),
        (U, M, {"valid": M.bool().to("meta")}, ValueError, "valid is on meta but mask is on cpu"),
    ],
)  # fmt: skip
def test_uss_errors(features, mask, options, error, text):
    with pytest.raises(error, match=text):
        uss_rebalance(features, mask, **{"num_classes": 2, **options})


@pytest.mark.parametrize(
    ("scores", "features", "options", "error", "text"),
    [
        (SC[0], U, {}, ValueError, r"scores must have shape \(B, C, h, w\)"),
        (SC.int(), U, {}, TypeError, "scores must be floating point"),
        (SC / 0, U, {}, ValueError, "scores holds NaN or infinity"),
        (SC, U[0], {}, ValueError, r"features must have shape \(B, D, h, w\)"),
        (SC, U.long(), {}, TypeError, "features must be floating point"),
        (SC, [U, U[0]], {}, ValueError, r"features\[1\] must have shape"),
        (SC, [U, "x"], {}, TypeError, r"features\[1\] must be a torch.Tensor"),
        (SC, [], {}, TypeError, r"features must be a tensor \(B, D, h, w\) or a list of levels, got list \[\]: pass at least"),
        (SC, None, {}, TypeError, "features must be a tensor .* got NoneType None"),
        (SC, [U, U / 0], {}, ValueError, r"features\[1\] holds NaN or infinity"),
        (SC, U[:1], {}, ValueError, r"features\[0\] has batch size 1 but scores has 2"),
        (SC, U, {"uss_centroids": V[0]}, ValueError, r"uss_centroids must have shape \(B, C, D\)"),
        (SC, U, {"uss_centroids": V.long()}, TypeError, "uss_centroids must be floating point"),
        (SC, U, {"uss_centroids": V[:, :1]}, ValueError, r"uss_centroids has \(2, 1\) images and classes but scores has \(2, 2\)"),
        (SC, U, {"uss_centroids": V * math.nan}, ValueError, "uss_centroids holds NaN or infinity"),
        (SC, U, {"uss_centroids": V.to("meta")}, ValueError, "uss_centroids is on meta but scores is on cpu"),
        (SC, U, {"tau": 1.5}, ValueError, r"tau must lie in \[-1.0, 1.0\], got 1.5"),
        (SC, U, {"tau": math.nan}, ValueError, "tau must lie in"),
        (SC, U, {"tau": None}, TypeError, "tau must be a number, got NoneType None"),
        (SC, U, {"reg": -1}, ValueError, "reg must be above 0 and finite, got -1"),
        (SC, U, {"mask": M[:1]}, ValueError, "mask has batch size 1 but scores has 2"),
    ],
)  # fmt: skip
def test_wss_errors(scores, features, options, error, text):
    with pytest.raises(error, match=text):
        wss_rebalance(scores, features, **{"mask": M, "uss_centroids": V, **options})
