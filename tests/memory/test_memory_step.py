"""The step with a class memory: who has a say, in what, and who keeps what there was without one."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
import torch
from scenes import make_scene, stack

from dhr_refine import ClassMemory, Recipe, RefineSteps, refine_mask, refine_steps

CLASSES = 9
pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def scenes():
    tags = [(2, 6), (2, 6), (6, 2), (2, 6, 4), (2, 6), (2,), (2, 6)]
    return [make_scene(seed, tags=own, lost=(6,) if seed == 1 else ()) for seed, own in enumerate(tags)]


@pytest.fixture(scope="module")
def memory(scenes):
    """It knows the background, 3 and 7, has seen 5 once, and never the others."""
    return ClassMemory.fit(
        [{"uss_features": s.uss, "masks": s.mask, "labels": s.tags} for s in scenes], CLASSES, rounds=1
    )


def run(scene, memory, **options):
    options = {"labels": scene.tags, "boundary": None, **options}
    return refine_steps(scene.cams, scene.mask, scene.uss, scene.wss, scene.image, memory=memory, **options)


def assert_same(one, other):
    """Bit for bit in all fields."""
    for field in fields(RefineSteps):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert a.dtype == b.dtype
        assert torch.equal(a, b), field.name


RECIPES = [Recipe(), Recipe.paper(), Recipe.released()]
every_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=["default", "paper", "released"])


def test_the_memory_is_what_the_tests_need(scenes, memory):
    assert memory.solve().known.nonzero()[:, 0].tolist() == [0, 3, 7]
    assert memory.images[5] == 1
    assert not torch.equal(run(scenes[1], memory).mask, run(scenes[1], None).mask)


@every_recipe
@pytest.mark.parametrize("boundary", [None, "pamr"])
@pytest.mark.parametrize("background", ["first", "none"])
def test_an_empty_memory_has_no_say(scenes, recipe, boundary, background):
    for scene in (scenes[1], scenes[3], scenes[5]):
        if background == "none":
            scene = scene._replace(mask=torch.where(scene.mask == 0, 255, scene.mask - 1))
        empty = ClassMemory(CLASSES - (background == "none"), 12, background=background)
        options = {"recipe": recipe, "boundary": boundary, "background": background}
        with_it, without = run(scene, empty, **options), run(scene, None, **options)
        assert_same(with_it, without)
        assert (without.posterior == 1).all()
        assert without.purity.tolist() == [1.0] * len(without.classes)


@every_recipe
def test_an_image_of_one_known_class_keeps_everything(scenes, memory, recipe):
    scene = make_scene(20, tags=(4, 1))
    assert memory.solve().known[[0, 5, 2]].tolist() == [True, False, False]
    assert_same(run(scene, memory, recipe=recipe), run(scene, None, recipe=recipe))
    # Two are known, but the mask has pixels of one of them alone (and CAMs that claim nothing).
    lost = make_scene(21, tags=(4, 6), lost=(6,))
    lost = lost._replace(cams=torch.zeros_like(lost.cams))
    assert_same(run(lost, memory, recipe=recipe), run(lost, None, recipe=recipe))


def test_images_without_a_say_keep_everything_beside_others(scenes, memory):
    others = [scenes[0], make_scene(20, tags=(4, 1))]
    cams, masks, uss, wss, images = stack(others)
    steps, plain = (
        refine_steps(
            cams, masks, uss, wss, images, labels=[s.tags for s in others], boundary=None, memory=given
        )
        for given in (memory, None)
    )
    for field in fields(RefineSteps):
        assert torch.equal(getattr(steps, field.name)[1], getattr(plain, field.name)[1]), field.name
    assert not torch.equal(steps.uss[0], plain.uss[0])


def test_a_class_of_too_few_images_keeps_its_average(scenes, memory):
    scene = scenes[3]
    steps, plain = run(scene, memory), run(scene, None)
    assert steps.classes.tolist() == [0, 3, 7, 5]
    torch.testing.assert_close(steps.uss_centroids[3], plain.uss_centroids[3])
    assert (steps.posterior[3] == 1).all()
    assert steps.purity[3] == 1
    for known in range(3):
        assert (steps.uss_centroids[known] - plain.uss_centroids[known]).abs().max() > 1e-3
        assert 0 < steps.purity[known] < 1
    torch.testing.assert_close(steps.posterior[:3].sum(0), torch.ones(8, 11))
    knows = ClassMemory(CLASSES, 12, least_images=1)
    knows.load_state_dict(memory.state_dict() | {"least_images": 1.0})
    assert (run(scene, knows).posterior[3] < 1).any()


@every_recipe
def test_batches_lists_and_single_images_are_the_same(scenes, memory, recipe):
    cams, masks, uss, wss, images = stack(scenes)
    tags = [scene.tags for scene in scenes]
    options = {"labels": tags, "boundary": None, "memory": memory, "recipe": recipe}
    batch = refine_steps(cams, masks, uss, wss, images, **options)
    lists = refine_steps(list(cams), list(masks), list(uss), [s.wss for s in scenes], list(images), **options)
    for row, scene in enumerate(scenes):
        single = run(scene, memory, recipe=recipe)
        count = len(single.classes)
        for field in fields(RefineSteps):
            own, of_list = getattr(single, field.name), getattr(lists, field.name)[row]
            of_batch = getattr(batch, field.name)[row]
            assert own.shape == of_list.shape
            if own.shape != of_batch.shape:
                of_batch = of_batch[:count]
                of_batch = of_batch[:, :count] if field.name in ("groups", "uss_similarity") else of_batch
            for other in (of_list, of_batch):
                torch.testing.assert_close(own, other, rtol=0, atol=1e-4, msg=field.name)
    padded = batch.classes < 0
    assert padded.any()
    assert not batch.posterior[padded].any()
    assert not batch.purity[padded].any()


def test_permuted_classes_permute_the_results(scenes):
    order = torch.tensor([5, 7, 0, 4, 6, 1, 2, 3])  # new number of each foreground class
    labels = torch.cat((torch.zeros(1, dtype=torch.long), order + 1))
    results = []
    for permuted in (False, True):
        own = [_permute(scene, order, labels) for scene in scenes] if permuted else scenes
        samples = [{"uss_features": s.uss, "masks": s.mask, "labels": s.tags} for s in own]
        memory = ClassMemory.fit(samples, CLASSES, rounds=2)
        results.append([run(scene, memory) for scene in own])
    for one, other in zip(*results):
        assert torch.equal(labels[one.mask], other.mask)
        place = [other.classes.tolist().index(label) for label in labels[one.classes].tolist()]
        torch.testing.assert_close(one.uss_centroids, other.uss_centroids[place], rtol=0, atol=1e-4)
        torch.testing.assert_close(one.posterior, other.posterior[place], rtol=0, atol=1e-4)
        torch.testing.assert_close(one.purity, other.purity[place], rtol=0, atol=1e-4)
        torch.testing.assert_close(one.uss, other.uss[place], rtol=0, atol=1e-3)


def _permute(scene, order, labels):
    cams = torch.empty_like(scene.cams)
    cams[order] = scene.cams
    return scene._replace(cams=cams, mask=labels[scene.mask], tags=order[scene.tags].tolist())


def test_the_background_may_be_last(scenes):
    last = [scene._replace(mask=(scene.mask - 1) % CLASSES) for scene in scenes]
    results = []
    for own, background in ((scenes, "first"), (last, "last")):
        samples = [{"uss_features": s.uss, "masks": s.mask, "labels": s.tags} for s in own]
        memory = ClassMemory.fit(samples, CLASSES, background=background)
        results.append([run(scene, memory, background=background) for scene in own])
    for one, other in zip(*results):
        assert torch.equal((one.mask - 1) % CLASSES, other.mask)
        place = [other.classes.tolist().index((label - 1) % CLASSES) for label in one.classes.tolist()]
        torch.testing.assert_close(one.posterior, other.posterior[place], rtol=0, atol=1e-4)


@pytest.mark.parametrize("boundary", [None, "pamr"])
def test_a_solved_memory_and_the_memory_itself_are_the_same(scenes, memory, boundary):
    scene = scenes[1]
    steps = run(scene, memory, boundary=boundary)
    assert_same(steps, run(scene, memory.solve(), boundary=boundary))
    assert_same(steps, run(scene, memory.to("cpu"), boundary=boundary))
    options = {"labels": scene.tags, "boundary": boundary, "memory": memory.solve()}
    mask = refine_mask(scene.cams, scene.mask, scene.uss, scene.wss, scene.image, **options)
    assert torch.equal(mask, steps.mask)


def test_the_step_leaves_the_memory_alone(scenes, memory):
    before = memory.state_dict()
    run(scenes[0], memory)
    after = memory.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in ("seen", "images", "weight", "first", "second"))


def test_tags_of_one_channel_each_do(scenes, memory):
    """CAMs of the tags alone."""
    scene = scenes[3]
    whole = run(scene, memory)
    own = run(scene._replace(cams=scene.cams[scene.tags]), memory)
    assert_same(whole, own)


def test_memory_weight(scenes, memory):
    """0 leaves the similarities of the cleaned averages, 1 has the whole say."""
    scene = scenes[0]
    by_weight = {
        weight: run(scene, memory, recipe=replace(Recipe(), transport="last", memory_weight=weight))
        for weight in (0.0, 0.5, 1.0)
    }
    flat, half, full = (by_weight[weight] for weight in (0.0, 0.5, 1.0))
    for one in (half, full):
        assert torch.equal(one.uss_centroids, flat.uss_centroids)
        assert torch.equal(one.posterior, flat.posterior)
    units = torch.nn.functional.normalize(flat.uss_centroids, dim=-1)
    cosine = torch.einsum("kd,dhw->khw", units, torch.nn.functional.normalize(scene.uss, dim=0)).relu()
    torch.testing.assert_close(flat.uss, cosine, rtol=0, atol=1e-4)
    factor = full.uss / cosine
    assert factor.max() <= 1.05 + 1e-4
    assert factor.min() >= 0.05 - 1e-4
    assert factor.max() - factor.min() > 0.3
    torch.testing.assert_close(half.uss, cosine * factor.sqrt(), rtol=0, atol=1e-4)


def test_memory_reach(scenes, memory):
    """0 cleans what the mask has; the more, the more an average is that of the whole image by posterior."""
    scene = scenes[0]
    recipe = replace(Recipe(), seed_weight=0.0)
    steps = {reach: run(scene, memory, recipe=replace(recipe, memory_reach=reach)) for reach in (0, 1, 1e6)}
    tokens = scene.uss.flatten(1)
    everywhere = steps[0].posterior.flatten(1) / steps[0].posterior.flatten(1).sum(-1, keepdim=True)
    torch.testing.assert_close(steps[1e6].uss_centroids, everywhere @ tokens.mT, rtol=0, atol=1e-4)
    # A mask whose classes lie apart, in whole cells: with no reach, cells of others enter no average.
    mask = torch.zeros(8, 11, dtype=torch.long)
    mask[2:5, 1:4], mask[3:6, 7:9] = 3, 7
    cells = scene._replace(mask=mask, image=scene.image[:, :8, :11], cams=torch.zeros_like(scene.cams))
    alone = run(cells, memory, recipe=replace(recipe, memory_reach=0.0))
    assert torch.equal(alone.init_mask, mask)
    for k, label in enumerate(alone.classes.tolist()):
        weights = (mask == label).flatten() * alone.posterior[k].flatten()
        expected = (weights / weights.sum()) @ tokens.mT
        torch.testing.assert_close(alone.uss_centroids[k], expected, rtol=0, atol=1e-4)
    reaching = run(cells, memory, recipe=recipe)
    assert (reaching.uss_centroids - alone.uss_centroids).abs().max() > 1e-3


def test_memory_prior(scenes, memory):
    """Of images that the memory has a say in, in place of prior; of the others not."""
    known, unknown = scenes[0], make_scene(20, tags=(4, 1))
    for scene, says in ((known, True), (unknown, False)):
        low, high = (run(scene, memory, recipe=replace(Recipe(), memory_prior=p)) for p in (0.0, 1.0))
        assert torch.equal(low.wss, high.wss)
        assert torch.equal(low.probs, high.probs) != says
        if says:
            plain = run(scene, memory, recipe=replace(Recipe(), prior=0.0, memory_prior=1.0))
            assert torch.equal(plain.probs, low.probs)
            # All the prior is M_init itself.
            assert (high.mask == high.init_mask).double().mean() > 0.9
            other = run(scene, memory, recipe=replace(Recipe(), prior=0.9))
            assert torch.equal(other.probs, run(scene, memory).probs)


def test_all_switches_off_leave_the_reading_of_the_maps(scenes, memory):
    """memory_weight 0 and memory_reach 0: only the averages are cleaned."""
    scene = scenes[0]
    recipe = replace(Recipe(), memory_weight=0.0, memory_reach=0.0, memory_prior=Recipe().prior)
    steps, plain = run(scene, memory, recipe=recipe), run(scene, None, recipe=recipe)
    for name in ("classes", "seed", "init_mask"):
        assert torch.equal(getattr(steps, name), getattr(plain, name))
    assert (steps.uss_centroids - plain.uss_centroids).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["memory_prior", "memory_weight", "memory_reach"])
def test_the_recipe_without_a_memory(scenes, name):
    recipe = replace(Recipe(), **{name: 0.7})
    assert_same(run(scenes[0], None, recipe=recipe), run(scenes[0], None))


@pytest.mark.parametrize("box", [(6, 3, 50, 36), (12, 0, 30, 40)])
def test_pixels_outside_the_box_have_no_say(scenes, memory, box):
    scene = scenes[0]
    inside = torch.zeros_like(scene.mask, dtype=torch.bool)
    inside[box[1] : box[3], box[0] : box[2]] = True
    other = scene._replace(mask=torch.where(inside, scene.mask, 7))
    steps, changed = (run(s, memory, boxes=box, box_format="xyxy") for s in (scene, other))
    for name in ("uss_centroids", "uss", "wss", "purity", "posterior"):
        assert torch.equal(getattr(steps, name), getattr(changed, name)), name
    assert torch.equal(steps.mask[inside], changed.mask[inside])


def test_degenerate_images_are_finite(scenes, memory):
    scene = scenes[0]
    changed = [
        scene._replace(uss=torch.zeros_like(scene.uss)),
        scene._replace(uss=torch.ones_like(scene.uss)),
        scene._replace(uss=scene.uss[:, :1, :1]),
        scene._replace(uss=1e12 * scene.uss),
        scene._replace(uss=1e-12 * scene.uss),
        scene._replace(mask=torch.full_like(scene.mask, 255)),
        scene._replace(mask=torch.full_like(scene.mask, 3)),
        scene._replace(tags=[]),
    ]
    for recipe in RECIPES:
        for one in changed:
            steps = run(one, memory, recipe=recipe)
            for field in fields(RefineSteps):
                assert getattr(steps, field.name).isfinite().all(), field.name
