"""Lattices of the numba backend: copies of vertices, planes, memory, tiles."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from parity import assert_parity
from photos import LATTICE, PRESETS, photo, scores

import dhr_refine
from dhr_refine import DenseCRFLattice, crf, dense_crf

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("preset", ["A", "C"])
@pytest.mark.parametrize("classes", [4, 5, 21])
@pytest.mark.parametrize("window", [2**16, 5000, 800])
def test_copies_of_far_vertices(set_threads, monkeypatch, preset, classes, window):
    # A tile tells a window of vertices apart and works on copies of those that lie before it: of none where
    # an image is as small as here, of nearly all in the least window.
    from dhr_refine.crf.backends.numba import lattice as building
    from dhr_refine.crf.backends.numba import solve

    monkeypatch.setattr(building, "_WINDOW", window)
    monkeypatch.setattr(solve, "_PIXELS_PER_THREAD", 1000)
    crf.lattice.gaussian_lattices.clear()
    image, probs = photo("astronaut", 300, 310), scores(classes, 300, 310)
    options = PRESETS[preset]
    lattice = DenseCRFLattice(image, backend="numba", **{key: options[key] for key in LATTICE})
    crf.lattice.gaussian_lattices.clear()
    copies = [len(kernel.lattice.copies) for kernel in (lattice._gaussian, *lattice._bilateral)]
    if window == 2**16:
        assert copies == [0, 0]
    elif window == 800:
        assert min(copies) > 1000
    else:
        assert copies[1] > 1000
    expected = dense_crf(image, probs, backend="pydensecrf", **options)
    for number in (1, 3):
        set_threads(number)
        assert_parity(dense_crf(image, probs, lattice=lattice, **options), expected)


@pytest.mark.parametrize("size", [(61, 130), (130, 61), (8, 16), (3, 200), (1, 7)])
@pytest.mark.parametrize(
    ("gauss_sxy", "plane"), [(0.1, False), (0.4, None), (0.77, True), (1, True), (5, True)]
)
def test_planes_and_chains(size, gauss_sxy, plane):
    # Most lattices of positions are rows of cells; with a small deviation most cells would be no vertices.
    image, probs = photo("coffee", *size), scores(3, *size)
    options = {"gauss_sxy": gauss_sxy, "gauss_compat": 3}
    lattice = DenseCRFLattice(image, backend="numba", gauss_sxy=gauss_sxy)
    if plane is not None and size[0] * size[1] > 2000:
        assert (lattice._gaussian.lattice.hole_starts.size > 1) is plane
    expected = dense_crf(image, probs, backend="pydensecrf", **options)
    torch.testing.assert_close(
        dense_crf(image, probs, lattice=lattice, **options), expected, atol=1e-4, rtol=0
    )


def test_working_memory_is_kept_unless_it_is_large(monkeypatch):
    from dhr_refine.crf.backends.numba import memory

    monkeypatch.setattr(memory.Scratch, "_spare", spare := [])
    image, probs = photo("coffee", 60, 70), scores(3, 60, 70)
    first = dense_crf(image, probs, backend="numba")
    held = len(spare)  # one a thread
    assert held >= 1
    # Smaller and larger images take turns with the same memory, and leave nothing in it.
    dense_crf(photo("astronaut", 40, 30), scores(21, 40, 30), backend="numba", sxy=3, srgb=2)
    assert len(spare) == held
    assert torch.equal(dense_crf(image, probs, backend="numba"), first)
    # The limit is one for all.
    room = sum(own.nbytes for own in spare)
    with memory.Scratch.lend() as lent:
        monkeypatch.setattr(memory, "_SPARE_BYTES", room)
    assert lent in spare
    with memory.Scratch.lend() as lent:
        monkeypatch.setattr(memory, "_SPARE_BYTES", room - 1)
    assert lent not in spare
    monkeypatch.setattr(memory, "_SPARE_BYTES", 1000)
    assert torch.equal(dense_crf(image, probs, backend="numba"), first)
    assert len(spare) < held


def test_machine_code_on_disk_follows_all_sources(tmp_path):
    # The tiles are constants of one module that are compiled into the loops of another.
    twin = tmp_path / "dhr_refine"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(dhr_refine.__file__).parent, twin, ignore=ignored)
    code = """
import numpy as np
from dhr_refine.crf.backends.numba import packing, tiles
unary = np.empty(128, np.float32)
probs = np.exp(-np.arange(128, dtype=np.float32) / 16)[None]
packing.pack(probs, packing.PROBS, 16, unary, 0, tiles.tile_count(8, 16), (0,), (0,))
print(*np.rint(-16 * unary[:10]).astype(int))
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    firsts = []
    for rows in (8, 4, 4):
        source = (twin / "crf/backends/numba/tiles.py").read_text()
        source = re.sub(r"TILE_ROWS, TILE_COLUMNS = .*", f"TILE_ROWS, TILE_COLUMNS = {rows}, 16", source)
        (twin / "crf/backends/numba/tiles.py").write_text(source)
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        firsts.append(done.stdout.split())
    # Pixel numbers in lattice order: columns of 8 rows, then of 4, of an image 16 pixels wide.
    assert firsts[0] == [str(16 * (i % 8) + i // 8) for i in range(10)]
    assert firsts[1] == firsts[2] == [str(16 * (i % 4) + i // 4) for i in range(10)]
