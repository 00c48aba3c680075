"""The presets and the checks of Recipe."""

from __future__ import annotations

import math
from dataclasses import FrozenInstanceError, asdict, replace

import pytest

from dhr_refine import Recipe


def test_the_default_is_what_the_measurements_chose():
    """docs/results.md has them."""
    assert asdict(Recipe()) == {
        "classes": "tags",
        "subtract_floor": True,
        "assign": "area",
        "heatmap": "relu",
        "plan": "share",
        "marginal": "background",
        "class_penalty": 0.1,
        "transport": "each",
        "groups": "connected",
        "group_background": True,
        "merge": "shrunk",
        "seed_weight": 0.5,
        "prior": 0.4,
        "memory_prior": 0.2,
        "memory_weight": 1.0,
        "memory_reach": 1.0,
        "normalise": True,
        "keep": 0.5,
        "geometry": "centred",
    }


def test_paper_is_the_literal_reading():
    recipe = Recipe.paper()
    assert recipe == replace(
        Recipe(),
        subtract_floor=False,
        marginal="uniform",
        class_penalty=math.inf,
        merge="all",
        seed_weight=0.0,
        prior=0.0,
        normalise=False,
        keep=0.0,
    )
    assert recipe.heatmap == "relu"
    assert recipe.transport == "each"


def test_released_is_the_released_arithmetic():
    recipe = Recipe.released()
    assert (recipe.classes, recipe.assign, recipe.heatmap) == ("mask", "majority", "minmax")
    assert (recipe.plan, recipe.marginal, recipe.transport) == ("minmax", "uniform", "last")
    assert (recipe.groups, recipe.prior, recipe.normalise, recipe.geometry) == (
        "rows",
        0.0,
        False,
        "released",
    )

    assert not recipe.subtract_floor
    assert recipe.keep == 0


def test_a_recipe_is_a_frozen_value():
    recipe = Recipe()
    with pytest.raises(FrozenInstanceError):
        recipe.prior = 0.5  # ty: ignore
    assert hash(recipe) == hash(Recipe())
    assert replace(recipe, prior=0.5) != recipe
    with pytest.raises(TypeError, match="positional"):
        Recipe("tags")


@pytest.mark.parametrize(
    ("field", "value", "error", "text"),
    [
        (
            "classes",
            "all",
            ValueError,
            "classes must be one of 'tags', 'mask', got 'all': choose one of them",
        ),
        ("assign", "mean", ValueError, "assign must be one of 'area', 'majority', got 'mean'"),
        ("heatmap", "cos", ValueError, "heatmap must be one of 'relu', 'minmax', got 'cos'"),
        ("plan", "mass", ValueError, "plan must be one of 'share', 'minmax', got 'mass'"),
        ("marginal", None, ValueError, "marginal must be one of 'background', 'uniform', got None"),
        ("transport", "both", ValueError, "transport must be one of 'each', 'last', got 'both'"),
        ("groups", "pairs", ValueError, "groups must be one of 'connected', 'rows', got 'pairs'"),
        ("geometry", "corners", ValueError, "geometry must be one of 'centred', 'released', got 'corners'"),
        ("group_background", 1, TypeError, "group_background must be a bool, got 1: pass True or False"),
        ("normalise", "yes", TypeError, "normalise must be a bool, got 'yes'"),
        ("merge", "lost", ValueError, "merge must be one of 'shrunk', 'all', got 'lost'"),
        ("seed_weight", 1.5, ValueError, r"seed_weight must lie in \[0.0, 1.0\], got 1.5"),
        ("seed_weight", None, TypeError, "seed_weight must be a number, got NoneType None"),
        ("prior", 1.1, ValueError, r"prior must lie in \[0.0, 1.0\], got 1.1"),
        ("prior", -0.1, ValueError, r"prior must lie in \[0.0, 1.0\], got -0.1"),
        ("prior", float("nan"), ValueError, r"prior must lie in \[0.0, 1.0\], got nan"),
        ("class_penalty", 0, ValueError, r"class_penalty must lie in \[1e-12, inf\], got 0"),
        ("class_penalty", None, TypeError, "class_penalty must be a number, got None"),
        ("keep", -0.5, ValueError, r"keep must lie in \[0.0, 1.0\], got -0.5"),
        ("keep", True, TypeError, "keep must be a number, got bool True"),
        ("prior", "0.3", TypeError, "prior must be a number, got str '0.3'"),
        ("prior", True, TypeError, "prior must be a number, got bool True"),
    ],
)
def test_choices_that_do_not_exist_are_refused(field, value, error, text):
    with pytest.raises(error, match=text):
        replace(Recipe(), **{field: value})
