"""Parity with the released arithmetic: Recipe.released() against the `alt.` run of the golden files."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from places import shared_folder

from dhr_refine import Recipe, dense_crf, refine_mask, refine_steps

FOLDER = shared_folder() / "golden"
CASES = sorted(path.stem for path in FOLDER.glob("*.npz")) or [
    pytest.param("none", marks=pytest.mark.skip(reason=f"no golden data in {FOLDER}; set DHR_REFINE_SHARED"))
]


def crf(images, probs):
    """The CRF that the golden data was made with."""
    pytest.importorskip("pydensecrf.densecrf", reason="needs pydensecrf: pip install pydensecrf2")
    return dense_crf(images, probs, backend="pydensecrf")


def load(case):
    with np.load(FOLDER / f"{case}.npz") as file:
        data = {name: file[name] for name in file.files}
    background = bool(data["background"])
    arguments = {
        "cams": torch.from_numpy(data["cams"])[None],
        "masks": torch.from_numpy(data["base_mask"])[None],
        "uss_features": torch.from_numpy(data["f_us"])[None],
        "wss_features": [torch.from_numpy(data[name])[None] for name in ("c4", "c5")],
        "images": torch.from_numpy(data["crf_image"]).permute(2, 0, 1)[None],
        "labels": torch.from_numpy(data["labels"])[None],
        "boxes": torch.from_numpy(data["box"])[None],
        "box_format": "xyxy",
        "background": "first" if background else "none",
        "tau": float(data["tau"]),
        "boundary": crf,
        "recipe": Recipe.released(),
    }
    return data, arguments


def unit(vectors):
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


@pytest.fixture(scope="module")
def cases():
    """Golden arrays and our steps, computed once per file."""
    kept = {}

    def get(case):
        if case not in kept:
            data, arguments = load(case)
            kept[case] = data, refine_steps(**arguments), arguments
        return kept[case]

    return get


def placed(case, cases):
    """Golden arrays, our steps, and where our class axes hold the golden classes."""
    data, steps, _ = cases(case)
    ours = steps.classes[0].tolist()
    return data, steps, [ours.index(label) for label in data["alt.classes"].tolist()]


@pytest.mark.parametrize("case", CASES)
def test_seed_and_init_mask(case, cases):
    data, steps, _ = cases(case)
    x0, y0, x1, y1 = data["box"]
    seed = np.full(data["base_mask"].shape, 255)
    seed[y0:y1, x0:x1] = data["alt.seed"]
    assert (steps.seed[0].numpy() == seed).mean() >= 0.999
    inside = np.s_[y0:y1, x0:x1]
    assert (steps.init_mask[0].numpy()[inside] == data["alt.mask_init"][inside]).mean() >= 0.999


@pytest.mark.parametrize("case", CASES)
def test_classes_are_those_that_win_a_cell(case, cases):
    _, steps, where = placed(case, cases)
    weight = steps.uss_centroids[0].abs().sum(-1)
    others = [k for k in range(steps.classes.shape[1]) if k not in where]
    assert (weight[where] > 0).all()
    assert (weight[others] == 0).all()
    assert (steps.uss[0, others] == 0).all()
    assert (steps.probs[0, others] == 0).all()


@pytest.mark.parametrize("case", CASES)
def test_centroids_and_similarities(case, cases):
    data, steps, where = placed(case, cases)
    assert np.abs(unit(steps.uss_centroids[0, where].numpy()) - data["alt.v_us"]).max() < 1e-4
    similarity = np.triu(np.maximum(steps.uss_similarity[0][where][:, where].numpy(), 0))
    assert np.abs(similarity - data["alt.correlation"]).max() < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_groups(case, cases):
    data, steps, where = placed(case, cases)
    assert np.array_equal(steps.groups[0][where][:, where].numpy(), data["alt.groups"])


@pytest.mark.parametrize("case", CASES)
def test_heatmaps(case, cases):
    data, steps, where = placed(case, cases)
    assert np.abs(steps.uss[0, where].numpy() - data["alt.heatmaps_us"]).max() < 1e-4
    if len(where) > 1:  # a constant min-max scaled is rounding noise
        assert np.abs(steps.wss[0, where].numpy() - data["alt.heatmaps_dhr"]).max() < 1e-4


@pytest.mark.parametrize("case", CASES)
def test_final_mask_and_probabilities(case, cases):
    data, steps, arguments = cases(case)
    x0, y0, x1, y1 = data["box"]
    inside = np.s_[y0:y1, x0:x1]
    mask = steps.mask[0].numpy()
    assert (mask[inside] == data["alt.final_mask"][inside]).mean() >= 0.999
    outside = np.ones(mask.shape, dtype=bool)
    outside[inside] = False
    assert (mask[outside] == 255).all()
    _, _, where = placed(case, cases)
    probs = steps.probs[0, where].numpy()[(slice(None), *inside)]
    assert np.abs(probs - data["alt.prob_final"]).max() < 5e-3  # stored as float16
    assert torch.equal(refine_mask(**arguments), steps.mask)


@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no golden data in {FOLDER}; set DHR_REFINE_SHARED")
def test_the_files_cover_groups_boxes_and_no_background():
    """The parity above is about something: without these the cases would be too easy."""
    files = [load(case)[0] for case in CASES]
    assert any((data["alt.groups"].sum(1) > 1).any() for data in files)
    assert any(tuple(data["box"][2:]) != data["base_mask"].shape[::-1] for data in files)
    assert {bool(data["background"]) for data in files} == {True, False}
