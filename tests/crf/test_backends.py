"""Which backend runs, and what each refuses."""

from __future__ import annotations

import logging
import subprocess
import sys

import pytest
import torch
from parity import IMAGE, PROBS

from dhr_refine import DenseCRFLattice, crf, dense_crf

pytestmark = pytest.mark.usefixtures("one_thread")


def test_auto_takes_numba_on_the_cpu():
    assert DenseCRFLattice(IMAGE).backend == "numba"


def test_works_without_the_optional_packages(monkeypatch):
    monkeypatch.setattr(crf.backends, "_installed", lambda package: False)
    assert DenseCRFLattice(IMAGE).backend == "torch"
    assert dense_crf(IMAGE, PROBS).shape == PROBS.shape
    with pytest.raises(
        ValueError, match="backend='numba' needs the package numba, which cannot be imported: pip"
    ):
        dense_crf(IMAGE, PROBS, backend="numba")
    with pytest.raises(ValueError, match="backend='pydensecrf' needs the package pydensecrf"):
        dense_crf(IMAGE, PROBS, backend="pydensecrf")
    with pytest.raises(
        ValueError, match=r"backend='triton' needs the package triton, .*: PyTorch for CUDA on"
    ):
        crf.backends.choose_backend("triton", torch.device("cuda"))


def test_missing_packages_are_noticed():
    assert not crf.backends._installed("dhr_refine_does_not_exist")
    assert crf.backends._installed("numba")


def test_numba_refuses_other_devices():
    with pytest.raises(
        ValueError, match="backend='numba' runs on the CPU but images is on meta: pass backend="
    ):
        crf.backends.choose_backend("numba", torch.device("meta"))


def test_triton_refuses_other_devices(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    with pytest.raises(
        ValueError,
        match="backend='triton' runs on a CUDA device but images is on cpu: pass backend='auto', or",
    ):
        dense_crf(IMAGE, PROBS, backend="triton")
    monkeypatch.setattr(crf.backends, "_installed", lambda package: True)
    assert crf.backends.choose_backend("triton", torch.device("cuda")) == "triton"


def test_auto_says_what_it_takes(caplog, monkeypatch):
    with caplog.at_level(logging.DEBUG, logger="dhr_refine"):
        dense_crf(IMAGE, PROBS)
        assert caplog.messages == ["dense CRF: backend='auto' is 'numba' for images on cpu"]
        monkeypatch.setattr(crf.backends, "_installed", lambda package: False)
        dense_crf(IMAGE, PROBS)
        crf.backends.choose_backend("auto", torch.device("cuda"))
    assert caplog.messages[1:] == [
        "dense CRF: backend='auto' is 'torch' for images on cpu: numba cannot be used",
        "dense CRF: backend='auto' is 'torch' for images on cuda",
    ]


def test_backends_are_imported_when_they_are_needed():
    code = """
import sys, torch, dhr_refine
image, probs = torch.zeros(3, 8, 9, dtype=torch.uint8), torch.full((2, 8, 9), 0.5)
def loaded():
    names = {name.split(".")[3] for name in sys.modules if name.startswith("dhr_refine.crf.backends.")}
    return sorted(names - {"torch"})
before = loaded()
for name in ("torch", "numba", "pydensecrf"):
    dhr_refine.dense_crf(image, probs, backend=name)
    before += [name, *loaded()]
print(*before)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.split() == ["torch", "numba", "numba", "pydensecrf", "numba", "pydensecrf"]
