"""Where numba is missing, broken or switched off, everything works by torch, with one warning at the most."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import dhr_refine

CODE = """
import warnings
import torch
from dhr_refine import DenseCRFLattice, dense_crf, refine_mask, sinkhorn_ot
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    solvers = {sinkhorn_ot(torch.rand(1, 2, 9)).solver for _ in range(2)}
    image = torch.zeros(1, 3, 8, 8, dtype=torch.uint8)
    dense_crf(image, torch.full((1, 2, 8, 8), 0.5))
    features = torch.rand(1, 4, 4, 4)
    base = torch.zeros(1, 8, 8).long()
    refine_mask(torch.rand(1, 2, 4, 4), base, features, features, image, labels=[[0, 1]])
    backend = DenseCRFLattice(image).backend
texts = [str(one.message) for one in seen if issubclass(one.category, RuntimeWarning)]
print(*solvers, backend, len(texts), *texts)
"""


def answer(tmp_path: Path, numba: str | None, **environment: str) -> str:
    """What the code prints, with the text of a numba package of its own."""
    if numba is not None:
        (tmp_path / "numba").mkdir()
        (tmp_path / "numba" / "__init__.py").write_text(numba)
    paths = [str(tmp_path), str(Path(dhr_refine.__file__).parents[1])]
    everything = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment}
    command = [sys.executable, "-c", CODE]
    done = subprocess.run(command, env=everything, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "text", ["raise ImportError('no llvmlite')", "raise RuntimeError('no llvmlite')", "import numba.absent"]
)
def test_a_broken_numba_is_one_warning_and_the_torch_path(tmp_path, text):
    found = answer(tmp_path, text)
    assert found.startswith("torch torch 1 numba is installed but cannot be imported (")
    assert "pip install -U numba" in found


def test_a_numba_that_does_not_compile_is_one_warning_and_the_torch_path(tmp_path):
    pytest.importorskip("numba", reason="needs numba: pip install numba")
    found = answer(tmp_path, None, NUMBA_DISABLE_JIT="1")
    assert found.startswith("torch torch 1 numba is installed but does not compile")
    assert "NUMBA_DISABLE_JIT" in found


def test_a_numba_that_works_is_taken_without_a_word(tmp_path):
    pytest.importorskip("numba", reason="needs numba: pip install numba")
    assert answer(tmp_path, None) == "numba numba 0"
