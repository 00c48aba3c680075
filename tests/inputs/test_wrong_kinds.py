"""Whatever kind of thing an argument is given, an error is the library's own, in one line, with a fix."""

# ruff: noqa: E501  (a table of calls)

from __future__ import annotations

import inspect
import re
import traceback
import warnings

import numpy as np
import pytest
import torch
from scenes import make_scene, stack

import dhr_refine
from dhr_refine import Recipe, metrics, training, viz

pytest.importorskip("matplotlib", reason="needs matplotlib: pip install matplotlib")

SCENE = make_scene(0)
BATCH = [SCENE, make_scene(1)]
CAMS, MASKS, USS, WSS, IMAGES = stack(BATCH)
FEATURES = torch.rand(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(120).view(10, 12) % 3).repeat(2, 1, 1)
FIRST = dhr_refine.uss_rebalance(FEATURES, MASK, num_classes=3)
STEPS = dhr_refine.refine_steps(*SCENE[:4], labels=SCENE.tags, boundary=None)
COUNTS = metrics.image_counts(MASKS, MASKS, num_classes=9)
PROBS = torch.full((3, 40, 56), 1 / 3)
ENOUGH = {"iterations": 1}

CALLS = {
    "class_avg_pool": (dhr_refine.class_avg_pool, {"features": FEATURES, "mask": MASK, "num_classes": 3}),
    "sinkhorn_ot": (dhr_refine.sinkhorn_ot, {"scores": torch.rand(2, 3, 20)}),
    "uss_rebalance": (dhr_refine.uss_rebalance, {"features": FEATURES, "mask": MASK, "num_classes": 3}),
    "wss_rebalance": (
        dhr_refine.wss_rebalance,
        {"scores": FIRST.scores, "features": [FEATURES], "mask": MASK, "uss_centroids": FIRST.centroids},
    ),
    "refine_mask": (
        dhr_refine.refine_mask,
        {
            "cams": CAMS, "masks": MASKS, "uss_features": USS, "wss_features": WSS, "images": IMAGES,
            "labels": [[2, 6], [2, 6]], "boxes": [(0, 0, 9, 9), None], "box_format": "xyxy", "boundary": None,
        },
    ),
    "base_mask": (
        dhr_refine.base_mask,
        {
            "cams": CAMS, "labels": [[2, 6], [2, 6]], "images": IMAGES, "background": 0.3, "refine": "par",
            "boxes": [(0, 0, 9, 9), None], "box_format": "xyxy",
        },
    ),
    "two_threshold_mask": (
        dhr_refine.two_threshold_mask,
        {
            "cams": CAMS, "labels": [[2, 6], [2, 6]], "images": IMAGES, "high": 0.7, "low": 0.3,
            "boxes": [(0, 0, 9, 9), None], "box_format": "xyxy",
        },
    ),
    "dense_crf": (dhr_refine.dense_crf, {"images": SCENE.image, "probs": PROBS, "iterations": 1}),
    "pamr": (dhr_refine.pamr, {"images": SCENE.image, "probs": PROBS, "iterations": 1, "dilations": (1,)}),
    "par": (dhr_refine.par, {"images": SCENE.image, "probs": PROBS, "iterations": 1, "dilations": (1,)}),
    "probs_from_labels": (dhr_refine.probs_from_labels, {"labels": SCENE.mask, "num_classes": 9}),
    "Recipe": (Recipe, {}),
    "View.of": (training.View.of, {"image_size": (10, 12), "window": (0, 0, 5, 5)}),
    "View.crop": (training.View.of((10, 12), window=(0, 0, 5, 5)).crop, {"features": FEATURES[0]}),
    "has_labels": (training.has_labels, {"masks": MASKS}),
    "MaskScores": (metrics.MaskScores, {"num_classes": 9}),
    "image_counts": (metrics.image_counts, {"pred": SCENE.mask, "target": SCENE.truth, "num_classes": 9}),
    "image_scores": (metrics.image_scores, {"counts": COUNTS}),
    "scores_of": (metrics.scores_of, {"counts": COUNTS, "base": COUNTS}),
    "inter_class_share": (metrics.inter_class_share, {"masks": SCENE.mask}),
    "palette": (viz.palette, {"num_classes": 21}),
    "colour_mask": (viz.colour_mask, {"mask": SCENE.mask}),
    "overlay_mask": (viz.overlay_mask, {"image": SCENE.image, "mask": SCENE.mask}),
    "overlay_cam": (viz.overlay_cam, {"image": SCENE.image, "cam": SCENE.cams[2]}),
    "show_tau": (viz.show_tau, {"taus": [0.6, 0.8], "values": {"a": [1, 2]}, "errors": {"a": [0.1, 0.1]}}),
    "show_similarity": (viz.show_similarity, {"steps": STEPS}),
    "show_steps": (viz.show_steps, {"steps": STEPS, "image": SCENE.image, "base": SCENE.mask, "cams": {3: SCENE.cams[2]}}),
    "show_extremes": (
        viz.show_extremes,
        {"images": IMAGES, "targets": MASKS, "before": MASKS, "after": MASKS.roll(1, 1), "count": 1},
    ),
}  # fmt: skip
WRONG = {
    "None": None,
    "text": "x",
    "bytes": b"x",
    "a fraction": 1.5,
    "a negative number": -3,
    "a huge number": 2**70,
    "a larger one": 10**400,
    "NaN": float("nan"),
    "a complex number": 1j,
    "an object": object(),
    "a ragged list": [[1, 2], [3]],
    "a list of None": [None],
    "a list of text": ["a"],
    "a list of floats": [1.0],
    "an empty list": [],
    "a dict": {"a": 1},
    "a function": lambda *arguments: 3,
    "an array": np.zeros(3),
    "an array of text": np.array(["x"]),
    "an array of objects": np.array([None, {}], dtype=object),
    "a 0-d tensor": torch.tensor(0.5),
    "a tensor of no entry": torch.zeros(0),
    "a tensor": torch.zeros(2, 3, 4, 5, 6),
    "a complex tensor": torch.zeros(3) * 1j,
    "a sparse tensor": torch.zeros(2, 3).to_sparse(),
    "a tensor without data": torch.rand(2, 4, 5, 6, device="meta"),
}
# Times to do something may be as large as a caller likes, and takes as long.
LONG = {"iterations", "max_iter", "num_classes"}


def arguments_of(name):
    function, _ = CALLS[name]
    return [argument for argument in inspect.signature(function).parameters if argument != "self"]


@pytest.mark.parametrize(("name", "argument"), [(n, a) for n in CALLS for a in arguments_of(n)])
def test_an_error_is_the_librarys_own(name, argument):
    function, given = CALLS[name]
    for kind, value in WRONG.items():
        if (argument in LONG and "number" in kind) or (argument in LONG and kind == "a larger one"):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                function(**{**given, argument: value})
        except Exception as error:
            check_error(error, f"{name}({argument}={kind})", argument)


def check_error(error, call, argument):
    place = traceback.extract_tb(error.__traceback__)[-1]
    text = str(error)
    told = f"{call}: {type(error).__name__}: {text[:300]} ({place.filename}:{place.lineno})"
    assert type(error) in (ValueError, TypeError), told
    assert "/dhr_refine/" in place.filename, told
    assert re.search(r": \S", text), told  # a fix
    assert len(text) < 420, told
    assert "\n" not in text, told
