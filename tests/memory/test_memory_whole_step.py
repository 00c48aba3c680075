"""refine_steps with a memory against the NumPy reference of the whole step, on drawn images."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import reference
import torch
from data_set import CLASSES, in_labels, scenes
from one_scene import PIECES, RECIPES, run
from test_memory_reference import DIM, agreement, area_weights, clean, solve, sum_up, tokens_of

from dhr_refine import ClassMemory

pytestmark = pytest.mark.usefixtures("one_thread")
CASES = 24


class MemoryStep(NamedTuple):
    """The USS step of one image with a memory, in the place of ``reference.uss_step``."""

    known: tuple[np.ndarray, np.ndarray, np.ndarray]  # means, inverse covariance, classes that are known
    reach: float
    weight: float
    prior: float
    memory_prior: float

    def says(self, present: list[int]) -> bool:
        """Whether two classes of the image are known."""
        return self.known[2][present].sum() >= 2

    def prior_of(self, present: list[int]) -> float:
        return self.memory_prior if self.prior > 0 and self.says(present) else self.prior

    def rebalance(
        self, features, mask, labels, *, background, marginal, seed, seed_weight, inside, reg, class_penalty
    ):
        grid = features.shape[1:]
        mask = np.where(inside, mask, -1)
        weights = area_weights(mask, labels, grid)
        seeds = area_weights(np.where(inside, seed, -1), labels, grid)
        for k in range(len(labels)):
            own, seeded = weights[k].sum(), seeds[k].sum()
            weights[k] /= own or 1.0
            if own > 0 and seeded > 0:
                weights[k] = (1 - seed_weight) * weights[k] + seed_weight * seeds[k] / seeded
        present = [k for k in range(len(labels)) if weights[k].any()]
        here = [labels[k] for k in present]
        tokens, cells = tokens_of(features), reference.cell_masses(inside, grid)
        weights = clean(weights, tokens, labels, self.known, cells, self.reach)[0]
        centroids = weights @ features.reshape(len(features), -1).T.astype(np.float64)
        heat = reference.cosine_heatmaps(features, centroids)
        if self.says(here):
            factor = agreement(weights[present], tokens, here, self.known) ** self.weight
            heat[present] *= factor.reshape(-1, *grid)
        masses = reference.class_masses(mask, labels, background, marginal, inside)
        if masses.sum() > 0:
            heat = heat * reference.plan_shares(heat, cells, masses, reg, class_penalty)
        return heat * np.isin(labels, here)[:, None, None], centroids


def case(number):
    """A drawn image, a box, a background, switches of the memory and a recipe."""
    rng = np.random.default_rng(number)
    size = ((40, 56), (37, 51), (21, 33), (12, 10))[rng.integers(4)]
    options = {
        "size": size,
        "uss_grid": ((8, 11), (7, 9), (14, 17))[rng.integers(3)],
        "cam_grid": ((10, 14), (9, 13))[rng.integers(2)],
        "tags": ((2, 6), (1, 3, 6), (4,), (0, 5, 7))[rng.integers(4)],
        "ignore": bool(rng.integers(2)),
    }
    options["lost"] = options["tags"][-1:] if rng.integers(2) else ()
    box = (3, 2, size[1] - 4, size[0] - 1) if rng.integers(2) else None
    background = ("first", "first", "last", "none")[rng.integers(4)]
    knobs = {"memory_reach": (1.0, 0.0, 3.0)[rng.integers(3)], "memory_weight": (1.0, 0.4)[rng.integers(2)]}
    return options, box, background, knobs, ("default", "paper")[number % 2]


@pytest.mark.usefixtures("exact_transport")
@pytest.mark.parametrize("number", range(CASES))
def test_equals_the_reference(number):
    options, box, background, knobs, name = case(number)
    offset = int(background == "first")
    behind = {"first": 0, "last": CLASSES, "none": None}[background]
    memory = ClassMemory(CLASSES + (background != "none"), DIM, background=background)
    images = []
    for other in [
        *scenes(6, tags=(2, 6, 1), size=(24, 30), uss_grid=(6, 7)),
        *scenes(5, tags=(0, 5), size=(24, 30), uss_grid=(6, 7)),
        *scenes(4, tags=(7,), size=(24, 30), uss_grid=(6, 7)),  # too few
    ]:
        mask = in_labels(other.mask, background)
        memory.update(other.uss, mask, labels=other.tags)
        labels = [tag + offset for tag in other.tags] + ([] if behind is None else [behind])
        weights = area_weights(mask.numpy(), labels, other.uss.shape[1:])
        images.append((tokens_of(other.uss.numpy()), weights, labels))
    scene = scenes(number + 1, **options)[-1]
    scene = scene._replace(mask=in_labels(scene.mask, background))
    recipe = replace(RECIPES[name], **knobs)
    steps = run(scene, recipe=recipe, background=background, boxes=box, box_format="xyxy", memory=memory)
    known = solve(sum_up(images, background, pooled=False), background, pooled=False)
    slow = MemoryStep(known, recipe.memory_reach, recipe.memory_weight, recipe.prior, recipe.memory_prior)
    expected = reference.refine(
        scene.cams.numpy()[scene.tags],
        scene.mask.numpy(),
        scene.uss.numpy(),
        [level.numpy() for level in scene.wss],
        tag_labels=[tag + offset for tag in scene.tags],
        background=behind,
        box=box,
        rebalance=slow.rebalance,
        **{**PIECES[name], "prior": slow.prior_of},
    )
    assert steps.classes.tolist() == expected.labels
    for field, tolerance in (("uss_centroids", 2e-4), ("uss", 5e-4), ("wss", 5e-4), ("probs", 5e-4)):
        assert np.abs(getattr(steps, field).numpy() - getattr(expected, field)).max() < tolerance, field
    wrong = steps.mask.numpy() != expected.mask
    top = np.sort(expected.probs, axis=0)
    near_tie = top[-1] - top[-2] < 1e-3 if len(top) > 1 else np.zeros_like(wrong)
    assert not (wrong & ~near_tie).any()


def test_the_cases_hold_what_they_are_for():
    drawn = [case(number) for number in range(CASES)]
    assert {background for _, _, background, _, _ in drawn} == {"first", "last", "none"}
    assert {box is None for _, box, *_ in drawn} == {True, False}
    assert {(knobs["memory_reach"], name) for *_, knobs, name in drawn} >= {(0.0, "default"), (3.0, "paper")}
    assert len({options["size"] for options, *_ in drawn}) == 4
    assert torch.tensor([options["ignore"] for options, *_ in drawn]).any()
