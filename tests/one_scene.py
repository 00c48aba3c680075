"""One scene through the step, and whether two results are the same."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from scenes import multi_hot

from dhr_refine import Recipe, RefineSteps, refine_steps

RECIPES = {"default": Recipe(), "paper": Recipe.paper(), "released": Recipe.released()}
PIECES = {
    name: {
        key: getattr(RECIPES[name], key)
        for key in (
            "marginal",
            "class_penalty",
            "merge",
            "seed_weight",
            "prior",
            "normalise",
            "keep",
            "subtract_floor",
        )
    }
    for name in ("default", "paper")
}

every_recipe = pytest.mark.parametrize("recipe", list(RECIPES.values()), ids=list(RECIPES))


def run(scene, *, recipe=None, **options):
    """One scene as a single image, without a boundary tool unless told."""
    options = {"boundary": None, "labels": multi_hot([scene.tags], scene.cams.shape[0])[0], **options}
    return refine_steps(scene.cams, scene.mask, scene.uss, scene.wss, scene.image, recipe=recipe, **options)


def same(one: RefineSteps, other: RefineSteps, tolerance: float = 0.0) -> bool:
    """Whether two results agree in every field."""
    for field in fields(RefineSteps):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        if not torch.allclose(a.double(), b.double(), rtol=0, atol=tolerance):
            return False
    return True
