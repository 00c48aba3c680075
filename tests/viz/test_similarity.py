"""show_similarity: values, frames and names of the matrix."""

from __future__ import annotations

import itertools
from dataclasses import fields

import numpy as np
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from scenes import make_scene
from shown import MINUS, NAMES, assert_nothing_overlaps, refine

from dhr_refine import RefineSteps, viz

DASH = "\N{EN DASH}"

COSINE = [[1.0, 0.25, 0.7], [0.25, 1.0, 0.85], [0.7, 0.85, 1.0]]

PAIRED = [[True, False, False], [False, True, True], [False, True, True]]


def with_similarity(steps, cosine, groups):
    changed = {"uss_similarity": torch.tensor(cosine), "groups": torch.tensor(groups)}
    return RefineSteps(**{f.name: getattr(steps, f.name) for f in fields(RefineSteps)} | changed)


def test_similarity_writes_every_value_and_frames_the_groups(steps):
    figure = viz.show_similarity(with_similarity(steps, COSINE, PAIRED), 0.8, NAMES)
    axes, bar = figure.axes
    texts = {tuple(map(int, reversed(text.get_position()))): text for text in axes.texts}
    assert {place: text.get_text() for place, text in texts.items()} == {
        (i, j): f"{COSINE[i][j]:.2f}" for i, j in itertools.product(range(3), repeat=2)
    }
    bold = {place for place, text in texts.items() if text.get_fontweight() == "bold"}
    assert bold == {(0, 0), (1, 1), (2, 2), (1, 2), (2, 1)}
    framed = {(round(p.get_y() + 0.46), round(p.get_x() + 0.46)) for p in axes.patches}
    assert framed == {(1, 2), (2, 1)}
    assert [text.get_text() for text in axes.get_yticklabels()] == ["background", "three", "seven"]
    assert np.allclose(axes.images[0].get_array(), COSINE)
    assert [text.get_text() for text in bar.texts] == ["τ = 0.8"]
    assert bar.texts[0].xy[1] == 0.8
    assert [text.get_text() for text in figure.texts] == ["Alike: three, seven"]


def test_similarity_without_groups_with_absent_and_opposite_classes(steps):
    cosine = [[1.0, -0.34, 0.0], [-0.34, 1.0, 0.0], [0.0, 0.0, 0.0]]
    figure = viz.show_similarity(with_similarity(steps, cosine, np.eye(3, dtype=bool).tolist()), 0.5)
    axes = figure.axes[0]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["1.00", f"{MINUS}0.34", DASH, f"{MINUS}0.34", "1.00", *[DASH] * 4]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["class 0", "class 3", "class 7 (absent)"]
    assert axes.images[0].get_clim() == (-0.4, 1.0)
    assert not axes.patches
    assert figure.texts[0].get_text() == "No classes are alike."


def test_similarity_marks_the_upper_triangle_of_the_released_groups_on_both_sides(steps):
    upper = np.triu(PAIRED).tolist()
    figure = viz.show_similarity(with_similarity(steps, COSINE, upper))
    assert len(figure.axes[0].patches) == 2
    assert figure.texts[0].get_text() == "Alike: class 3, class 7"


def test_similarity_refuses_a_tau_that_did_not_make_the_groups(steps):
    grouped = with_similarity(steps, COSINE, PAIRED)
    with pytest.raises(ValueError, match=r"tau 0\.9 does not give the groups of steps"):
        viz.show_similarity(grouped, 0.9)
    with pytest.raises(ValueError, match=r"tau must lie in \[-1"):
        viz.show_similarity(grouped, 1.5)
    chain = [[1.0, 0.9, 0.1], [0.9, 1.0, 0.9], [0.1, 0.9, 1.0]]  # 0 and 2 are alike only through 1
    figure = viz.show_similarity(with_similarity(steps, chain, [[True] * 3] * 3))
    assert len(figure.axes[0].patches) == 6


@pytest.mark.parametrize("count", [1, 2, 8])
def test_no_text_of_the_similarity_overlaps(count):
    scene = make_scene(1, tags=tuple(range(count)))
    names = ["background", *(f"long class name {i}" for i in range(count))]
    figure = viz.show_similarity(refine(scene), 0.8, names)
    assert_nothing_overlaps(figure)
    renderer = FigureCanvasAgg(figure).get_renderer()
    labels = [
        *figure.axes[0].get_xticklabels(),
        *figure.axes[0].get_yticklabels(),
        figure.axes[1].yaxis.label,
    ]
    foot = figure.texts[0].get_window_extent(renderer)
    for box in (label.get_window_extent(renderer) for label in labels):
        assert box.x0 >= 0
        assert box.x1 <= figure.bbox.width
        assert box.y0 >= foot.y1
