"""The mutants are what they say they are, and those judged equivalent still exist."""

from __future__ import annotations

import json
import subprocess
import sys
from textwrap import dedent

import mutants
import pytest


def test_every_mutant_that_was_judged_equivalent_still_exists():
    judged = json.loads(mutants.EQUIVALENT.read_text(encoding="utf-8"))
    made = {mutant.key for part in mutants.FILES for found in mutants.mutants(part) for mutant in found}
    assert set(judged) <= made, "judge anew, or take out of equivalent_mutants.json"
    assert all(judged.values())


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("x = a < b <= c", {"x = a <= b <= c", "x = a < b < c"}),
        ("x = (a) == (b)", {"x = (a) != (b)"}),
        ("x = a is not b", {"x = a is b"}),
        ("x = a not in b", {"x = a in b"}),
        ("x = not (a and b)", {"x = (a and b)", "x = not (a or b)"}),
        ("x = -a + ~b", {"x = a + ~b", "x = -a - ~b", "x = -a + b"}),
        ("x = a // b", {"x = a * b"}),
        ("x = 3", {"x = 4", "x = 2"}),
        ("x = 0.0", {"x = 1.0"}),
        ("x = True", {"x = False"}),
        ("x = a if b else c", {"x = a if not (b) else c"}),
        ("x = a.amin()", {"x = a.amax()"}),
        ("x = a.abs().clamp_min(b)", {"x = (a).clamp_min(b)", "x = (a.abs())", "x = a.abs().clamp_max(b)"}),
        ("x = f(a, k=b)", {"x = f(a)"}),
        ("x = f(y for y in a)", set()),
        ("x = where(a, b, c)", {"x = where(a, c, b)"}),
        ("x = a[b:]", {"x = a[b + 1:]", "x = a[b - 1:]"}),
        ("x += a", {"x -= a", "pass"}),
        ("f(a)", {"pass"}),
        ("x = f(x)", {"pass"}),
        ('x = "text"', set()),
        ('assert x > 1, f"{x + 1}"', set()),
        ('raise ValueError(f"{x + 1}")', set()),
        ("x: a | b = c", set()),
        ("__all__ = [1]", set()),
        ("if TYPE_CHECKING:\n    x = 1", set()),
        ("@f(1)\ndef g(a: int | None) -> b | c:\n    pass", set()),
    ],
)
def test_the_changes_of_a_line(tmp_path, monkeypatch, before, after):
    (tmp_path / "part.py").write_text(f'"""Docstring, 1 + 1."""\n\n{before}\n', encoding="utf-8")
    monkeypatch.setattr(mutants, "SOURCE", tmp_path)
    monkeypatch.setitem(mutants.FILES, "part", ["part.py"])
    mutants.meaning.cache_clear()
    found = [mutant for ways in mutants.mutants("part") for mutant in ways if mutants.is_change(mutant)]
    assert {mutant.after for mutant in found} == after
    for mutant in found:
        docstring, line = mutant.source.split("\n\n")
        assert docstring == '"""Docstring, 1 + 1."""'
        assert mutants.flat(line) == mutant.after


def test_a_sample_hardly_depends_on_what_else_there_is(tmp_path, monkeypatch):
    lines = [f"x{i} = a{i} + b{i}" for i in range(40)]
    monkeypatch.setattr(mutants, "SOURCE", tmp_path)
    monkeypatch.setitem(mutants.FILES, "part", ["part.py"])
    samples = []
    for text in (lines, ["new = a + b", *lines[5:]]):
        (tmp_path / "part.py").write_text("\n".join(text) + "\n", encoding="utf-8")
        mutants.meaning.cache_clear()
        samples.append({mutant.key for mutant in mutants.choose(["part"], 20, seed=3)})
    assert len(samples[0]) == 20
    assert len(samples[0] & samples[1]) >= 14
    assert samples[0] != {mutant.key for mutant in mutants.choose(["part"], 20, seed=4)}


def test_the_changed_module_stands_in_for_the_true_one():
    recipe = (mutants.SOURCE / "recipe.py").read_text(encoding="utf-8")
    checks = (mutants.SOURCE / "checks" / "__init__.py").read_text(encoding="utf-8")
    changed = [
        ("recipe.py", recipe.replace("prior: float = 0.4", "prior: float = 0.8")),
        ("checks/__init__.py", f"{checks}CHANGED = True\n"),
    ]
    code = dedent(
        f"""
        import sys
        sys.path.insert(0, {str(mutants.ROOT / "tests")!r})
        import mutants
        sys.meta_path[:0] = [mutants.Hook(*file) for file in {changed!r}]
        import dhr_refine.checks
        print(dhr_refine.Recipe().prior, dhr_refine.checks.CHANGED, dhr_refine.recipe.__file__)
        """
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["0.8", "True", str(mutants.SOURCE / "recipe.py")]
