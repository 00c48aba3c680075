"""show_tau: curves, bands and the mark."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.colors import to_hex

from dhr_refine import viz


def test_tau_draws_curves_bands_and_the_mark():
    taus = [0.4, 0.8, 1.0]
    values = {"default": [60.0, 62.0, 61.0], "paper": np.array([50.0, 52.0, np.nan])}
    figure = viz.show_tau(taus, values, errors={"default": [1.0, 2.0, 3.0]}, ylabel="IoU")
    (axes,) = figure.axes
    mark, *curves = axes.lines
    assert mark.get_xdata() == [0.8, 0.8]
    assert axes.texts[0].get_text() == "τ = 0.8"
    for curve, (name, wanted) in zip(curves, values.items(), strict=True):
        assert curve.get_label() == name
        assert curve.get_xdata().tolist() == taus
        assert np.array_equal(curve.get_ydata(), wanted, equal_nan=True)
    assert len({(curve.get_color(), curve.get_marker()) for curve in curves}) == 2
    (band,) = axes.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices.tolist()}
    assert {(0.4, 59.0), (0.4, 61.0), (0.8, 60.0), (0.8, 64.0), (1.0, 58.0), (1.0, 64.0)} <= corners
    assert to_hex(band.get_facecolor()[0]) == to_hex(curves[0].get_color())
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["default", "paper"]
    assert axes.get_ylabel() == "IoU"


def test_tau_of_one_curve_has_no_legend():
    figure = viz.show_tau(np.array([0.1, 0.2]), [1, 2], errors=[0.1, 0.1], mark=None)
    (axes,) = figure.axes
    assert axes.get_legend() is None
    assert len(axes.lines) == len(axes.collections) == 1
    assert not axes.texts


@pytest.mark.parametrize(
    ("arguments", "errors", "text"),
    [
        (([0.8, 0.4], [1, 2]), None, "taus must hold increasing numbers, got"),
        (([], []), None, "taus must hold increasing numbers"),
        (([[0.4]], [1]), None, "taus must hold a list of numbers, got an array of shape"),
        (([0.4, 0.8], [1]), None, "values must hold 2 numbers, one per tau"),
        (([0.4], {"a": [1, 2]}), None, r"values\['a'\] must hold 1 numbers"),
        (([0.4], {"a": [1]}), {"a": [1, 2]}, r"errors\['a'\] must hold 1 numbers"),
        (([0.4], {"a": [1]}), {"b": [1]}, r"errors holds 'b', values holds \['a'\]"),
        (([0.4], {"a": [1]}), [1], "errors holds ''"),
    ],
)
def test_tau_names_what_is_wrong(arguments, errors, text):
    with pytest.raises(ValueError, match=text):
        viz.show_tau(*arguments, errors=errors)
