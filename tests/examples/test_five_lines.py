"""The example that promises five lines has five."""

from __future__ import annotations

import ast

from places import ROOT


def test_your_own_codebase_takes_five_lines():
    text = (ROOT / "examples" / "plot_04_your_codebase.py").read_text(encoding="utf-8")
    cell = next(part for part in text.split("# %%\n") if part.startswith("# The five lines\n"))
    lines = [line for line in cell.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) == len(ast.parse(cell).body) == 5
    assert lines[-1].startswith("masks = refine_mask(")
    # Nothing of them was said before.
    before = text.partition("# The five lines\n")[0]
    assert "base_mask" not in before
    assert "refine_mask" not in before
