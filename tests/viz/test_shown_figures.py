"""Figures show themselves in notebooks, never import pyplot, and say what is missing without matplotlib."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from dhr_refine import viz


def test_figures_show_themselves_without_pyplot():
    html = viz.show_tau([0.4], [1.0])._repr_html_()
    assert html.startswith(
        '<img alt="figure" style="width: 100%; max-width: 1050px" src="data:image/png;base64,iVBOR'
    )


def test_pyplot_is_never_imported():
    code = (
        "import sys, torch\n"
        "from dhr_refine import viz\n"
        "assert 'matplotlib' not in sys.modules\n"
        "viz.colour_mask(torch.zeros(2, 2).long())\n"
        "assert 'matplotlib' not in sys.modules\n"
        "figure = viz.show_tau([0.4], [1.0])\n"
        "figure._repr_html_()\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "False"


def test_missing_matplotlib_is_one_line_with_the_fix(monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for call in (
        lambda: viz.show_tau([0.4], [1.0]),
        lambda: viz.overlay_cam(torch.zeros(3, 4, 4), torch.zeros(2, 2)),
    ):
        with pytest.raises(ImportError, match=r'a figure needs matplotlib.*: pip install "matplotlib>=3'):
            call()
    monkeypatch.undo()
