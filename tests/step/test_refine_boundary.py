"""Boundary tools of refine_mask: by name, and the caller's own."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from one_scene import run, same
from scenes import make_scene, stack

from dhr_refine import Recipe, dense_crf, pamr, par, refine_mask, refine_steps


def test_boundary_tools_by_name_are_the_public_functions():
    scene = make_scene(0, size=(24, 32))
    for name, tool in (("pamr", pamr), ("par", par), ("crf", dense_crf)):
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

    steps = run(scene, boundary=generous, recipe=replace(Recipe(), keep=0.0))
    assert len(calls) == 2
    assert 7 not in steps.init_mask
    assert set(steps.mask.unique().tolist()) == {3}
    calls.clear()
    assert set(run(scene, boundary=generous).mask.unique().tolist()) == {0, 3}  # the background keeps its own


def test_crops_of_other_sizes_do_not_share_a_call():
    """Boxes whose edges add up to the same are not of one size."""
    scenes = [make_scene(0, tags=(2, 6)), make_scene(1, tags=(1, 3))]
    boxes = [(3, 0, 43, 20), (3, 5, 43, 15)]
    sizes = []

    def boundary(images, probs):
        sizes.append(tuple(probs.shape[-2:]))
        return probs

    options = {"boxes": boxes, "box_format": "xyxy", "boundary": boundary}
    refine_mask(*stack(scenes), labels=[s.tags for s in scenes], **options)
    assert sorted(set(sizes)) == [(10, 40), (20, 40)]


def test_released_cams_outside_the_box_take_part_in_nothing():
    """But for the maximum that they are divided by."""
    scene = make_scene(0, tags=(2, 6))
    box = (12, 8, 44, 32)  # cells 3 to 11, 2 to 8 of 14 x 10
    scene.cams[list(scene.tags), 4, 5] = scene.cams.max() + 1
    other = scene.cams.clone()
    outside = torch.ones(10, 14, dtype=torch.bool)
    outside[2:8, 3:11] = False
    other[:, outside] = 0.5 * scene.cams.max() * torch.rand(8, int(outside.sum()))
    options = {"boxes": box, "box_format": "xyxy", "recipe": Recipe.released(), "boundary": boundary_of_seed}
    first = run(scene, **options)
    second = run(scene._replace(cams=other), **options)
    assert (first.seed != 255).any()
    assert torch.equal(first.seed, second.seed)


def boundary_of_seed(images, probs):
    """None, and yet one: every call sees the probabilities as they are."""
    return probs


def test_a_released_box_of_one_cell_reads_that_cell():
    scene = make_scene(0, tags=(2,))
    cams = torch.zeros_like(scene.cams)
    cams[2, 4, 5], cams[2, 4, 6] = 1.0, 0.5
    box = (20, 16, 24, 20)  # cell (4, 5) of 4 x 4 pixels
    seen = []

    def boundary(images, probs):
        seen.append(probs.clone())
        return probs

    run(scene._replace(cams=cams), boxes=box, box_format="xyxy", recipe=Recipe.released(), boundary=boundary)
    assert seen[0].shape == (1, 2, 4, 4)
    assert (seen[0][0, 0] == 1).all()  # everywhere: the neighbour cell is not in it


def test_par_at_half_resolution_as_a_callable():
    scene = make_scene(0)
    steps = run(scene, boundary=partial(par, scale=0.5))
    assert not same(steps, run(scene, boundary="par"))

    def by_hand(images, probs):
        small = [F.interpolate(v.float(), (20, 28), mode="bilinear") for v in (images, probs)]
        return F.interpolate(par(*small), images.shape[2:], mode="bilinear")

    assert scene.mask.shape == (40, 56)
    assert same(steps, run(scene, boundary=by_hand), tolerance=1e-5)
