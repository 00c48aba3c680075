"""refine_steps against the NumPy reference of the equations."""

from __future__ import annotations

import numpy as np
import pytest
import reference
import torch
from one_scene import PIECES, RECIPES, run
from scenes import make_scene


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
