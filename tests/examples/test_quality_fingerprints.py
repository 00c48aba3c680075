"""What the benchmark's cache takes for the code that masks depend on."""

from __future__ import annotations

import ast
import shutil
from pathlib import Path

import pytest
from quality import fingerprints
from quality.fingerprints import PACKAGE, WITHOUT_INFLUENCE, mask_sources


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A copy of the package that may be changed, in place of the package."""
    shutil.copytree(PACKAGE, tmp_path / "dhr_refine", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(fingerprints, "PACKAGE", tmp_path / "dhr_refine")
    monkeypatch.setattr(
        fingerprints.pretrained, "__file__", str(tmp_path / "dhr_refine/pretrained/__init__.py")
    )
    return tmp_path / "dhr_refine"


def appended(path: Path, hashed) -> bool:
    """Whether a hash changes with a file, which is then restored."""
    before, text = hashed.__wrapped__(), path.read_text()
    path.write_text(text + "\n")
    after = hashed.__wrapped__()
    path.write_text(text)
    assert hashed.__wrapped__() == before
    return before != after


@pytest.mark.parametrize(
    "name", ["refine.py", "base_masks.py", "crf/inference.py", "transport/plan.py", "__init__.py"]
)
def test_masks_are_made_anew_when_their_code_changes(package, name):
    assert appended(package / name, fingerprints.library_code)
    assert not appended(package / name, fingerprints.network_code)


def test_masks_stay_when_other_code_changes(package):
    others = [
        path for name in WITHOUT_INFLUENCE for path in (package / name, *(package / name).rglob("*.py"))
    ]
    files = [path for path in others if path.is_file()]
    assert len(files) > len(WITHOUT_INFLUENCE)
    for path in files:
        assert not appended(path, fingerprints.library_code), path
    assert appended(package / "pretrained" / "vit.py", fingerprints.network_code)


def test_what_is_left_out_exists_and_masks_import_none_of_it():
    assert all((PACKAGE / name).exists() for name in WITHOUT_INFLUENCE)
    left_out = {name.removesuffix(".py") for name in WITHOUT_INFLUENCE}
    for path in mask_sources():
        if path == PACKAGE / "__init__.py":  # exports everything public
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                above = path.relative_to(PACKAGE).parents[node.level - 1].parts
                parts = (*above, *(node.module or "").split("."), *(name.name for name in node.names))
                assert next(part for part in parts if part) not in left_out, (path, ast.unparse(node))
