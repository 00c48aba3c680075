"""The public surface: names, signatures, typing, and an import that stays light."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import fields
from importlib import resources

import pytest
import torch

import dhr_refine

NAMES = {
    "ClassCentroids",
    "Rebalanced",
    "Recipe",
    "RefineSteps",
    "TransportPlan",
    "base_mask",
    "class_avg_pool",
    "dense_crf",
    "pamr",
    "par",
    "refine_mask",
    "refine_steps",
    "sinkhorn_ot",
    "two_threshold_mask",
    "uss_rebalance",
    "wss_rebalance",
}
REFINE_OPTIONS = {
    "labels": None,
    "boxes": None,
    "box_format": None,
    "background": "first",
    "ignore_index": 255,
    "mean": (0.485, 0.456, 0.406),
    "std": (0.229, 0.224, 0.225),
    "tau": 0.8,
    "reg": 0.1,
    "boundary": "crf",
    "recipe": None,
}
MUST = inspect.Parameter.empty
# Positional arguments and keyword-only options with their defaults, as DESIGN.md, section 2, fixes them.
SIGNATURES = {
    "sinkhorn_ot": (
        {"scores": MUST},
        {"reg": 0.1, "pixel_mass": None, "class_mass": None, "class_penalty": None, "valid": None,
         "tol": 1e-3, "method": "newton"},
    ),
    "class_avg_pool": (
        {"features": MUST, "mask": MUST},
        {"num_classes": MUST, "ignore_index": 255, "assign": "area"},
    ),
    "uss_rebalance": ({"features": MUST, "mask": MUST}, {"num_classes": MUST}),
    "wss_rebalance": ({"scores": MUST, "features": MUST, "mask": MUST}, {"uss_centroids": MUST, "tau": 0.8}),
    "refine_mask": (
        {"cams": MUST, "masks": MUST, "uss_features": MUST, "wss_features": MUST, "images": None},
        REFINE_OPTIONS,
    ),
    "refine_steps": (
        {"cams": MUST, "masks": MUST, "uss_features": MUST, "wss_features": MUST, "images": None},
        REFINE_OPTIONS,
    ),
    "base_mask": (
        {"cams": MUST, "labels": MUST, "images": None},
        {"background": MUST, "refine": None, "boxes": None, "box_format": None, "ignore_index": 255},
    ),
    "two_threshold_mask": (
        {"cams": MUST, "labels": MUST, "images": None},
        {"high": MUST, "low": MUST, "refine": None, "boxes": None, "box_format": None, "ignore_index": 255},
    ),
    "dense_energy_loss": (
        {"images": MUST, "logits": MUST, "labels": MUST},
        {"boxes": None, "box_format": None, "weight": 1e-7, "sigma_rgb": 15, "sigma_xy": 100,
         "scale_factor": 0.5, "softmax": True, "mean": None, "std": None, "ignore_index": 255},
    ),
    "dense_crf": (
        {"images": MUST, "probs": MUST},
        {"iterations": 10, "sxy": 67, "srgb": 3, "compat": 4, "gauss_sxy": 1, "gauss_compat": 3},
    ),
    "pamr": ({"images": MUST, "probs": MUST}, {"iterations": 10, "dilations": (1, 2, 4, 8, 12, 24)}),
    "par": (
        {"images": MUST, "probs": MUST},
        {"iterations": 10, "dilations": (1, 2, 4, 8, 12, 24), "colour": 0.3, "position": 0.01, "scale": 1.0},
    ),
}  # fmt: skip


def test_all_names_exist_and_nothing_else_is_public():
    assert set(dhr_refine.__all__) >= NAMES
    assert list(dhr_refine.__all__) == sorted(dhr_refine.__all__)
    for name in dhr_refine.__all__:
        assert getattr(dhr_refine, name).__doc__
    visible = {
        name
        for name in dir(dhr_refine)
        if not name.startswith("_") and not inspect.ismodule(getattr(dhr_refine, name))
    }
    assert visible == set(dhr_refine.__all__)


@pytest.mark.parametrize("name", list(SIGNATURES))
def test_signatures_are_those_of_the_contract(name):
    parameters = inspect.signature(getattr(dhr_refine, name)).parameters
    positional, options = SIGNATURES[name]
    found = {p.name: p.default for p in parameters.values() if p.kind is p.POSITIONAL_OR_KEYWORD}
    assert found == positional
    for option, default in options.items():
        assert parameters[option].kind is inspect.Parameter.KEYWORD_ONLY
        assert parameters[option].default == default
    assert all(p.annotation is not MUST for p in parameters.values())


def test_result_fields_are_those_of_the_contract():
    assert dhr_refine.TransportPlan._fields == ("plan", "residual", "iterations")
    assert dhr_refine.ClassCentroids._fields == ("vectors", "counts")
    assert dhr_refine.Rebalanced._fields == ("scores", "centroids", "present")
    assert [field.name for field in fields(dhr_refine.RefineSteps)] == [
        "mask",
        "probs",
        "classes",
        "seed",
        "init_mask",
        "uss",
        "wss",
        "uss_centroids",
        "uss_similarity",
        "groups",
        "recovered",
        "posterior",
        "purity",
        "base_mask",
    ]


def test_the_package_is_marked_as_typed():
    assert resources.files("dhr_refine").joinpath("py.typed").is_file()


def test_importing_stays_light():
    code = (
        "import sys, dhr_refine\n"
        "dhr_refine.refine_mask\n"
        "heavy = {'ot', 'numba', 'matplotlib', 'transformers', 'pydensecrf', 'skimage', 'PIL', 'onnx'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_names_are_imported_when_they_are_asked_for():
    code = (
        "import sys, dhr_refine\n"
        "early = 'torch' in sys.modules\n"
        "named = hasattr(dhr_refine, 'nothing'), hasattr(dhr_refine, '__wrapped__')\n"
        "from dhr_refine import *\n"
        "print(early, named, refine_mask is dhr_refine.refine_mask, dhr_refine.viz.palette(2).shape)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False (False, False) True (256, 3)"


def test_results_show_their_shapes():
    """A notebook that ends a cell with a result must not print its numbers."""
    features, mask = torch.rand(1, 4, 3, 5), torch.zeros(1, 6, 10, dtype=torch.long)
    plan = dhr_refine.sinkhorn_ot(torch.rand(2, 3, 8, 9), method="sinkhorn")
    pooled = dhr_refine.class_avg_pool(features, mask, num_classes=2)
    scores = dhr_refine.uss_rebalance(features, mask, num_classes=2)
    assert repr(plan) == "TransportPlan(plan=(2, 3, 8, 9), residual=(2,), iterations=(2,)) by torch"
    assert repr(pooled) == "ClassCentroids(vectors=(1, 2, 4), counts=(1, 2))"
    assert repr(scores) == "Rebalanced(scores=(1, 2, 3, 5), centroids=(1, 2, 4), present=(1, 2))"
