"""Tests of the dense CRF: every backend against pydensecrf, and each of its promises."""

from __future__ import annotations

import copy
import math
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import LATTICE, PRESETS, photo, scores, voc_images

import dhr_refine
from dhr_refine import DenseCRFLattice, crf, dense_crf, pamr, probs_from_labels

pytestmark = pytest.mark.usefixtures("one_thread")

BACKENDS = ("torch", "numba")


def assert_parity(result: torch.Tensor, expected: torch.Tensor) -> None:
    assert result.shape == expected.shape
    assert (result - expected).abs().max() <= 1e-3
    assert (result.argmax(-3) == expected.argmax(-3)).double().mean() >= 0.9999


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


# --- the same result as pydensecrf --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preset", "name", "size", "classes"),
    [
        ("A", "astronaut", (203, 301), 4),
        ("B", "coffee", (151, 257), 21),
        ("C", "chelsea", (241, 187), 2),
        ("C", "astronaut", (128, 255), 21),
        ("D", "rocket", (199, 223), 3),
        ("E", "coffee", (193, 131), 6),
        ("E", "chelsea", (97, 333), 9),
    ],
)
def test_equals_pydensecrf_on_photos(backend, preset, name, size, classes):
    image, probs = photo(name, *size), scores(classes, *size)
    expected = dense_crf(image, probs, backend="pydensecrf", **PRESETS[preset])
    assert_parity(dense_crf(image, probs, backend=backend, **PRESETS[preset]), expected)


@pytest.mark.skipif(not voc_images(), reason="needs the PASCAL VOC photos in ../shared/data")
@pytest.mark.parametrize("preset", ["A", "C"])
def test_equals_pydensecrf_on_voc(backend, preset):
    from PIL import Image

    for path in voc_images()[::150]:
        array = np.asarray(Image.open(path).convert("RGB"))[:251, :317]
        image = torch.from_numpy(array.transpose(2, 0, 1).copy())
        probs = scores(5, *array.shape[:2], seed=3)
        expected = dense_crf(image, probs, backend="pydensecrf", **PRESETS[preset])
        assert_parity(dense_crf(image, probs, backend=backend, **PRESETS[preset]), expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 37), (41, 1), (2, 3), (16, 16), (17, 33)])
def test_equals_pydensecrf_on_tiny_images(backend, size):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    probs = torch.rand(3, *size).softmax(dim=0)
    expected = dense_crf(image, probs, backend="pydensecrf")
    torch.testing.assert_close(dense_crf(image, probs, backend=backend), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("iterations", [0, 1, 3])
def test_iterations(backend, iterations):
    image, probs = photo("coffee", 50, 60), scores(3, 50, 60)
    expected = dense_crf(image, probs, backend="pydensecrf", iterations=iterations)
    result = dense_crf(image, probs, backend=backend, iterations=iterations)
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)


def test_constant_image(backend):
    image, probs = torch.full((3, 40, 50), 7, dtype=torch.uint8), scores(4, 40, 50)
    expected = dense_crf(image, probs, backend="pydensecrf")
    assert_parity(dense_crf(image, probs, backend=backend), expected)


def test_dark_images_of_odd_size(backend):
    # pydensecrf fills up its groups of four pixels with black ones, whose vertices take part in the blur.
    image, probs = photo("coffee", 131, 151) // 4 + 8, scores(3, 131, 151)
    expected = dense_crf(image, probs, backend="pydensecrf", **PRESETS["A"])
    result = dense_crf(image, probs, backend=backend, **PRESETS["A"])
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=0)


def test_unnormalised_scores_are_clipped_not_rescaled(backend):
    image, probs = photo("coffee", 40, 50), 3 * scores(3, 40, 50)
    probs[:, :5] = 0
    expected = dense_crf(image, probs, backend="pydensecrf")
    assert_parity(dense_crf(image, probs, backend=backend), expected)
    assert_parity(dense_crf(image, probs.clamp(max=1), backend=backend), expected)


@pytest.mark.parametrize("preset", ["A", "C"])
@pytest.mark.parametrize("classes", [4, 5, 21])
@pytest.mark.parametrize("window", [2**16, 5000, 800])
def test_copies_of_far_vertices(monkeypatch, preset, classes, window):
    # A tile tells a window of vertices apart and works on copies of those that lie before it: of none where
    # an image is as small as here, of nearly all in the least window. The last of 5 classes is not filtered.
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
    before = torch.get_num_threads()
    try:
        for number in (1, 3):
            torch.set_num_threads(number)
            assert_parity(dense_crf(image, probs, lattice=lattice, **options), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("kept", [False, True])
def test_any_layout_of_memory(backend, kept):
    images = torch.stack([photo("coffee", 20, 31), photo("astronaut", 20, 31)])
    plain = scores(3, 20, 31, batch=2)
    wide = torch.rand(2, 6, 40, 62)
    layouts = {
        "channels last": plain.contiguous(memory_format=torch.channels_last),
        "from the last axis": plain.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        "transposed": plain.mT.contiguous().mT,
        "cut": wide[:, ::2, 3:23, :31],
        "every second": wide[:, :3, ::2, ::2],
        "expanded": torch.rand(1, 1, 20, 31).expand(2, 3, 20, 31),
        "lazily negated": torch.complex(plain, -plain).conj().imag,
    }
    for probs in layouts.values():
        copy = probs.resolve_neg().clone(memory_format=torch.contiguous_format)
        for pixels in (images, images.contiguous(memory_format=torch.channels_last)):
            lattice = DenseCRFLattice(pixels, backend=backend) if kept else None
            result = dense_crf(pixels, probs, backend=backend, lattice=lattice)
            torch.testing.assert_close(result, dense_crf(images, copy, backend=backend))


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


@pytest.mark.parametrize("number", [2, 3, 7])
@pytest.mark.parametrize(("gauss_sxy", "classes"), [(1, 4), (1, 21), (0.4, 4)])
def test_threads_inside_one_image(monkeypatch, number, gauss_sxy, classes):
    from dhr_refine.crf.backends.numba import solve

    image, probs = photo("coffee", 71, 150), scores(classes, 71, 150)
    options = {"gauss_sxy": gauss_sxy, "backend": "numba"}
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = dense_crf(image, probs, **options)
        torch.set_num_threads(number)
        monkeypatch.setattr(solve, "_PIXELS_PER_THREAD", 100)
        results = [dense_crf(image, probs, **options) for _ in range(3)]
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(results[0], expected, atol=2e-5, rtol=0)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("culprit", ["start", "first", "last"])
def test_a_thread_that_fails_stops_the_others(monkeypatch, culprit):
    from dhr_refine.crf.backends.numba import iterations, solve, threads

    class Broken(ThreadPoolExecutor):
        def submit(self, *args, **kwargs):
            if self._threads:
                raise RuntimeError("out of threads")
            return super().submit(*args, **kwargs)

    compiled = iterations.mean_field

    def broken(*arguments):
        if arguments[-5] == (0 if culprit == "first" else 2):
            raise RuntimeError("out of memory")
        compiled(*arguments)

    image, probs = photo("coffee", 71, 150), scores(4, 71, 150)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        monkeypatch.setattr(solve, "_PIXELS_PER_THREAD", 100)
        dense_crf(image, probs, backend="numba")  # builds the lattice of positions, compiles
        lattice = DenseCRFLattice(image, backend="numba")
        if culprit == "start":
            monkeypatch.setattr(threads, "ThreadPoolExecutor", Broken)
        else:
            monkeypatch.setattr(iterations, "mean_field", broken)
        with pytest.raises(RuntimeError, match="out of"):
            dense_crf(image, probs, lattice=lattice)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 8, 9, 16, 17, 18, 23, 24, 25, 32, 33, 34])
def test_any_number_of_classes(classes):
    # Those that fill the vectors, and one more or less.
    image, probs = photo("coffee", 50, 61), scores(classes, 50, 61)
    expected = dense_crf(image, probs, backend="pydensecrf", **PRESETS["A"])
    assert_parity(dense_crf(image, probs, backend="numba", **PRESETS["A"]), expected)


def test_tiny_srgb_does_not_overflow(backend):
    # pydensecrf's 16-bit keys overflow here, so the backends are compared with each other.
    image, probs = photo("coffee", 40, 50), scores(3, 40, 50)
    result = dense_crf(image, probs, srgb=0.3, compat=4, backend=backend)
    other = "torch" if backend == "numba" else "numba"
    assert_parity(result, dense_crf(image, probs, srgb=0.3, compat=4, backend=other))


@settings(max_examples=25)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    classes=st.integers(2, 21),
    sxy=st.floats(1, 200),
    srgb=st.floats(1, 60),
    gauss_sxy=st.floats(0.5, 10),
    seed=st.integers(0, 1000),
)
def test_backends_agree(height, width, classes, sxy, srgb, gauss_sxy, seed):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)
    probs = scores(classes, height, width, seed=seed)
    options = {"sxy": sxy, "srgb": srgb, "gauss_sxy": gauss_sxy, "iterations": 5}
    expected = dense_crf(image, probs, backend="pydensecrf", **options)
    for backend in BACKENDS:
        torch.testing.assert_close(
            dense_crf(image, probs, backend=backend, **options), expected, atol=1e-3, rtol=0
        )


# --- properties ---------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(classes=st.integers(2, 20), seed=st.integers(0, 1000), data=st.data())
@pytest.mark.parametrize("backend", BACKENDS)
def test_class_order_does_not_matter(backend, classes, seed, data):
    order = torch.tensor(data.draw(st.permutations(range(classes))))
    image, probs = photo("coffee", 30, 37), scores(classes, 30, 37, seed=seed)
    result = dense_crf(image, probs, backend=backend)
    torch.testing.assert_close(
        dense_crf(image, probs[order], backend=backend), result[order], atol=1e-4, rtol=0
    )


def test_probabilities_sum_to_one(backend):
    result = dense_crf(photo("rocket", 60, 70), scores(7, 60, 70), backend=backend)
    assert result.min() >= 0
    torch.testing.assert_close(result.sum(dim=0), torch.ones(60, 70))


def test_without_compatibility_nothing_moves(backend):
    probs = scores(3, 30, 40)
    result = dense_crf(photo("coffee", 30, 40), probs, compat=0, gauss_compat=0, backend=backend)
    torch.testing.assert_close(result, probs, atol=1e-5, rtol=0)


def test_refines_towards_the_edge_of_the_image(backend):
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    image[:, :, 20:] = 200
    truth = torch.zeros(40, 40)
    truth[:, 20:] = 1
    foreground = torch.full((40, 40), 0.4)
    foreground[10:30, 17:34] = 0.9  # too small, and over the edge
    probs = torch.stack([1 - foreground, foreground])
    result = dense_crf(image, probs, sxy=30, srgb=10, compat=10, backend=backend).argmax(dim=0)
    before = (probs.argmax(dim=0) == truth).double().mean()
    assert (result == truth).double().mean() > max(0.95, float(before))


# --- batches, dtypes, layouts -------------------------------------------------------------------------


def test_batch_equals_single_images(backend):
    images = torch.stack([photo(name, 70, 90) for name in ("coffee", "astronaut", "rocket")])
    probs = scores(5, 70, 90, batch=3)
    result = dense_crf(images, probs, backend=backend)
    for image, prob, one in zip(images, probs, result, strict=True):
        assert torch.equal(dense_crf(image, prob, backend=backend), one)


def test_threads_change_rounding_only(two_threads):
    images = torch.stack([photo(name, 210, 190) for name in ("coffee", "astronaut", "chelsea")])
    probs = scores(5, 210, 190, batch=3)
    batch = dense_crf(images, probs, backend="numba")
    assert torch.equal(batch, dense_crf(images, probs, backend="numba"))
    for image, prob, one in zip(images, probs, batch, strict=True):
        split = dense_crf(image, prob, backend="numba")  # two threads in one image
        assert torch.equal(split, dense_crf(image, prob, backend="numba"))
        torch.testing.assert_close(split, one, atol=1e-4, rtol=0)
    torch.set_num_threads(1)
    assert torch.equal(batch, dense_crf(images, probs, backend="numba"))
    torch.set_num_threads(2)


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 18, 21])
def test_two_threads_in_one_image(two_threads, classes):
    image, probs = photo("astronaut", 210, 190), scores(classes, 210, 190)
    expected = dense_crf(image, probs, backend="pydensecrf")
    assert_parity(dense_crf(image, probs, backend="numba"), expected)


def test_callers_may_use_threads(backend):
    image, probs = photo("coffee", 64, 80), scores(3, 64, 80)
    expected = dense_crf(image, probs, backend=backend)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: dense_crf(image, probs, backend=backend), range(8)))
    assert all(torch.equal(result, expected) for result in results)


def test_keeps_dtype_and_device(backend, dtype, device):
    if backend == "numba" and device.type != "cpu":
        pytest.skip("numba runs on the CPU only")
    image, probs = photo("coffee", 30, 40).to(device), scores(3, 30, 40).to(device, dtype)
    result = dense_crf(image, probs, backend=backend)
    assert (result.dtype, result.device, result.shape) == (dtype, probs.device, probs.shape)
    expected = dense_crf(image, probs.float(), backend=backend)
    torch.testing.assert_close(result.float(), expected, atol=4e-3, rtol=0)


def test_runs_in_float32_under_autocast(backend, device):
    if backend == "numba" and device.type != "cpu":
        pytest.skip("numba runs on the CPU only")
    image, probs = photo("coffee", 30, 40).to(device), scores(3, 30, 40).to(device)
    expected = dense_crf(image, probs, backend=backend)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        result = dense_crf(image, probs, backend=backend)
    assert torch.equal(result, expected)


def test_non_contiguous_inputs_stay_untouched(backend):
    image = photo("coffee", 30, 40).permute(1, 2, 0).contiguous().permute(2, 0, 1)
    probs = scores(3, 40, 30).transpose(1, 2).requires_grad_()
    assert not image.is_contiguous()
    assert not probs.is_contiguous()
    before = copy.deepcopy((image, probs.detach()))
    result = dense_crf(image, probs, backend=backend)
    assert torch.equal(image, before[0])
    assert torch.equal(probs.detach(), before[1])
    assert not result.requires_grad
    expected = dense_crf(image.contiguous(), probs.detach().contiguous(), backend=backend)
    assert torch.equal(result, expected)
    result.zero_()  # an ordinary tensor, and the caller's own
    assert torch.equal(probs.detach(), before[1])


def test_single_class_gives_ones(backend):
    image = photo("coffee", 30, 40)
    assert torch.equal(dense_crf(image, 0.3 * torch.ones(1, 30, 40), backend=backend), torch.ones(1, 30, 40))


def test_empty_batch(backend):
    images = torch.zeros(0, 3, 8, 9, dtype=torch.uint8)
    probs = torch.zeros(0, 4, 8, 9)
    assert dense_crf(images, probs, backend=backend).shape == (0, 4, 8, 9)
    lattice = DenseCRFLattice(images, backend=backend)
    assert dense_crf(images, probs, lattice=lattice).shape == (0, 4, 8, 9)


# --- classes left out ---------------------------------------------------------------------------------


def test_min_prob_leaves_out_absent_classes(backend):
    images = torch.stack([photo("coffee", 60, 70), photo("astronaut", 60, 70)])
    probs = 1e-4 * torch.rand(2, 8, 60, 70)
    probs[0, [1, 6]] += scores(2, 60, 70)
    probs[1, [0, 3, 5]] += scores(3, 60, 70, seed=1)
    result = dense_crf(images, probs, min_prob=1e-3, backend=backend)
    absent = torch.ones(2, 8, dtype=torch.bool)
    absent[0, [1, 6]] = absent[1, [0, 3, 5]] = False
    assert not result[absent].any()
    torch.testing.assert_close(result.sum(dim=1), torch.ones(2, 60, 70))
    expected = dense_crf(images[0], probs[0, [1, 6]], backend=backend)
    torch.testing.assert_close(result[0, [1, 6]], expected, atol=1e-5, rtol=0)
    everything = dense_crf(images, probs, backend=backend)
    torch.testing.assert_close(result, everything, atol=5e-3, rtol=0)


def test_min_prob_above_everything_keeps_all_probable(backend):
    image, probs = photo("coffee", 20, 30), 0.1 * torch.rand(3, 20, 30)
    result = dense_crf(image, probs, min_prob=0.5, backend=backend)
    assert torch.isfinite(result).all()
    torch.testing.assert_close(result.sum(dim=0), torch.ones(20, 30))


def test_min_prob_with_one_class_left(backend):
    image, probs = photo("coffee", 20, 30), torch.zeros(3, 20, 30)
    probs[1] = 1
    result = dense_crf(image, probs, min_prob=0.5, backend=backend)
    torch.testing.assert_close(result[1], torch.ones(20, 30))
    assert not result[[0, 2]].any()


# --- the lattice as an object -------------------------------------------------------------------------


def test_lattice_is_reusable(backend):
    images = torch.stack([photo("coffee", 60, 70), photo("astronaut", 60, 70)])
    lattice = DenseCRFLattice(images, backend=backend)
    for classes in (2, 5, 21):
        probs = scores(classes, 60, 70, batch=2)
        expected = dense_crf(images, probs, compat=7, backend=backend)
        assert torch.equal(dense_crf(images, probs, compat=7, lattice=lattice), expected)


def test_lattice_describes_itself(backend):
    lattice = DenseCRFLattice(photo("coffee", 60, 70), sxy=80, srgb=13, gauss_sxy=3, backend=backend)
    assert repr(lattice) == (
        f"DenseCRFLattice(1 x 60 x 70, sxy=80, srgb=13, gauss_sxy=3, backend='{backend}', device='cpu')"
    )
    assert (lattice.shape, lattice.device, lattice.backend) == ((1, 60, 70), torch.device("cpu"), backend)
    per_pixel = lattice.nbytes / (60 * 70)
    assert 3 + 6 * 6 < per_pixel < 400


def test_lattice_refuses_other_calls(backend):
    images = torch.stack([photo("coffee", 40, 50), photo("astronaut", 40, 50)])
    lattice = DenseCRFLattice(images, backend=backend)
    probs = scores(3, 40, 50, batch=2)

    def refuses(message, *, images=images, probs=probs, **options):
        with pytest.raises(ValueError, match=re.escape(message)):
            dense_crf(images, probs, lattice=lattice, **options)

    refuses(
        "lattice was built for 2 x 40 x 50 images but images is 1 x 40 x 50: build a DenseCRFLattice for",
        images=images[:1],
        probs=probs[:1],
    )
    refuses("lattice was built with sxy=67 but dense_crf was called with sxy=80: pass sxy=67, or", sxy=80)
    refuses("lattice was built with srgb=3 but dense_crf was called with srgb=13", srgb=13)
    refuses("lattice was built with gauss_sxy=1 but dense_crf was called with gauss_sxy=3", gauss_sxy=3)
    other = "torch" if backend == "numba" else "numba"
    refuses(
        f"lattice was built with backend='{backend}' but dense_crf was called with '{other}': pass backend=",
        backend=other,
    )
    refuses("lattice was built for other images of the same size: build a", images=images.flip(0))


def test_lattice_keeps_its_own_images(backend):
    image = photo("coffee", 40, 50)
    lattice = DenseCRFLattice(image, backend=backend)
    image += 1
    with pytest.raises(ValueError, match="other images of the same size"):
        dense_crf(image, scores(3, 40, 50), lattice=lattice)


def test_gaussian_lattices_are_shared_and_bounded(backend):
    crf.lattice.gaussian_lattices.clear()
    first = DenseCRFLattice(photo("coffee", 20, 30), backend=backend)
    second = DenseCRFLattice(photo("astronaut", 20, 30), backend=backend)
    assert first._gaussian is second._gaussian
    for height in range(20, 40):
        DenseCRFLattice(photo("coffee", height, 30), backend=backend)
    assert len(crf.lattice.gaussian_lattices._kept) == crf.lattice._CACHED_SIZES


# --- labels -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("classes", "gt_prob"), [(2, 0.7), (5, 0.7), (21, 0.5)])
def test_probs_from_labels_equals_pydensecrf(classes, gt_prob):
    from pydensecrf.utils import unary_from_labels

    labels = torch.randint(0, classes, (2, 9, 11))
    result = probs_from_labels(labels, num_classes=classes, gt_prob=gt_prob)
    for label, probs in zip(labels, result, strict=True):
        expected = unary_from_labels(label.numpy(), classes, gt_prob=gt_prob, zero_unsure=False)
        torch.testing.assert_close(-probs.log().reshape(classes, -1), torch.from_numpy(expected))


def test_probs_from_labels_ignores(dtype):
    del dtype
    labels = torch.tensor([[0, 255, 2]], dtype=torch.uint8)
    result = probs_from_labels(labels, num_classes=4)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result[:, 0, 1], torch.full((4,), 0.25))
    torch.testing.assert_close(result.sum(dim=0), torch.ones(1, 3))


# --- errors -------------------------------------------------------------------------------------------

IMAGE, PROBS = torch.zeros(1, 3, 8, 9, dtype=torch.uint8), torch.full((1, 2, 8, 9), 0.5)


@pytest.mark.parametrize(
    ("images", "probs", "error", "message"),
    [
        ([1], PROBS, TypeError, "images must be a torch.Tensor of shape (B, 3, H, W) or (3, H, W), got list"),
        (IMAGE, None, TypeError, "probs must be a torch.Tensor of shape (B, K, H, W) or (K, H, W), got None"),
        (IMAGE[0, 0], PROBS, ValueError, "images must have shape (B, 3, H, W) or (3, H, W), got"),
        (
            IMAGE,
            PROBS[0],
            ValueError,
            "images has 4 axes but probs has 3: give both a batch axis, or neither",
        ),
        (IMAGE.float(), PROBS, TypeError, "images must be uint8 in [0, 255], got a torch.float32 tensor of"),
        (IMAGE, PROBS.long(), TypeError, "probs must be floating point, got a torch.int64 tensor"),
        (IMAGE[:, :2], PROBS, ValueError, "images must have shape (B, 3, H, W) with H and W above 0, got"),
        (IMAGE[:, :, :0], PROBS[:, :, :0], ValueError, "images must have shape (B, 3, H, W) with H and W"),
        (
            IMAGE,
            PROBS[:, :, :4],
            ValueError,
            "probs has size (4, 9) but images has (8, 9): resize probs with",
        ),
        (IMAGE, PROBS[:, :0], ValueError, "probs must have at least one class, got"),
        (IMAGE, torch.cat([PROBS] * 2), ValueError, "probs has batch size 2 but images has 1"),
        (IMAGE, PROBS * math.nan, ValueError, "probs holds NaN or infinity"),
        (IMAGE, PROBS * math.inf, ValueError, "probs holds NaN or infinity"),
        (IMAGE, PROBS - 1, ValueError, "probs must not be negative, got -0.5: pass probabilities, e.g."),
    ],
)
def test_errors_name_the_argument(images, probs, error, message):
    with pytest.raises(error, match=re.escape(message)):
        dense_crf(images, probs)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"iterations": -1}, ValueError, "iterations must be an int of at least 0, got -1: pass e.g. 10"),
        ({"iterations": 2.0}, ValueError, "iterations must be an int of at least 0, got 2.0"),
        ({"sxy": 0}, ValueError, "sxy must be above 0 and finite, got 0"),
        ({"srgb": math.nan}, ValueError, "srgb must be above 0 and finite, got nan"),
        ({"gauss_sxy": "1"}, TypeError, "gauss_sxy must be a number, got str '1'"),
        ({"compat": -1}, ValueError, "compat must lie in [0, 1000000.0], got -1"),
        ({"gauss_compat": math.nan}, ValueError, "gauss_compat must lie in [0, 1000000.0], got nan"),
        ({"min_prob": 2}, ValueError, "min_prob must lie in [0, 1], got 2"),
        (
            {"backend": "cuda"},
            ValueError,
            "backend must be one of 'auto', 'torch', 'numba', 'triton', 'pydensecrf', got",
        ),
        ({"lattice": 1}, TypeError, "lattice must be a DenseCRFLattice, got int 1: build one with"),
        ({"srgb": 1e-2}, ValueError, "sxy and srgb give a lattice of 1"),
        ({"srgb": 1e-6}, ValueError, "sxy and srgb give lattice coordinates of"),
        ({"gauss_sxy": 1e-6}, ValueError, "gauss_sxy give lattice coordinates of"),
    ],
)
def test_errors_name_the_option(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        dense_crf(IMAGE, PROBS, **options)


def test_numba_says_when_keys_do_not_fit():
    with pytest.raises(
        ValueError, match=r"a lattice of 2\*\*\d+ cells is too fine for an image of 72 pixels"
    ):
        dense_crf(IMAGE, PROBS, srgb=0.1, backend="numba")


def test_lattice_errors():
    with pytest.raises(TypeError, match=re.escape("images must be uint8 in [0, 255], got")):
        DenseCRFLattice(IMAGE.float())
    with pytest.raises(
        ValueError, match="backend must be 'auto', 'torch', 'numba' or 'triton' for a lattice"
    ):
        DenseCRFLattice(IMAGE, backend="pydensecrf")


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        (torch.zeros(4), {}, ValueError, "labels must have shape (B, H, W) or (H, W), got"),
        (torch.zeros(4, 4), {}, TypeError, "labels must hold integers, got a torch.float32 tensor"),
        (torch.full((4, 4), 3), {}, ValueError, "labels must be below num_classes=3 or 255, got 3"),
        (torch.full((4, 4), -1), {}, ValueError, "labels must be below num_classes=3 or 255, got -1"),
        (
            torch.zeros(4, 4).long(),
            {"num_classes": 1},
            ValueError,
            "num_classes must be an int of at least 2",
        ),
        (torch.zeros(4, 4).long(), {"gt_prob": 1.0}, ValueError, "gt_prob must lie between 0 and 1, got 1.0"),
    ],
)
def test_probs_from_labels_errors(labels, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        probs_from_labels(labels, **{"num_classes": 3, **options})


# --- choosing a backend -------------------------------------------------------------------------------


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


def test_an_image_that_would_lose_all_classes_keeps_all(backend):
    image = photo("coffee", 40, 50)
    nothing, scene = torch.zeros(5, 40, 50), scores(5, 40, 50)
    alone = dense_crf(image, nothing, min_prob=1e-3, backend=backend)
    torch.testing.assert_close(alone, dense_crf(image, nothing, backend=backend))
    both = dense_crf(
        torch.stack([image, image]), torch.stack([nothing, scene]), min_prob=1e-3, backend=backend
    )
    torch.testing.assert_close(both[0], alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("own", "other"), [("float16", "bfloat16"), ("bfloat16", "float16")])
def test_autocast_of_the_other_half_type(own, other):
    image, probs = photo("coffee", 20, 30), scores(3, 20, 30).to(getattr(torch, own))
    expected = dense_crf(image, probs), pamr(image, probs)
    with torch.autocast("cpu", getattr(torch, other)):
        for result, wanted in zip((dense_crf(image, probs), pamr(image, probs)), expected):
            assert result.dtype == probs.dtype
            assert torch.equal(result, wanted)


def test_numpy_integers_count_as_integers(backend):
    image, probs = photo("coffee", 20, 30), scores(3, 20, 30)
    expected = dense_crf(image, probs, iterations=3, backend=backend)
    assert torch.equal(dense_crf(image, probs, iterations=np.int64(3), backend=backend), expected)


def test_machine_code_on_disk_follows_all_sources(tmp_path):
    # The tiles are constants of one module that are compiled into the loops of another.
    twin = tmp_path / "dhr_refine"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(dhr_refine.__file__).parent, twin, ignore=ignored)
    code = """
import numpy as np
from dhr_refine.crf.backends.numba import tiles, unaries
unary = np.empty(128, np.float32)
probs = np.exp(-np.arange(128, dtype=np.float32) / 16)[None]
unaries.pack_unary(probs, 16, unary, 0, tiles.tile_count(8, 16), (), (0,), (0,))
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


def test_compiles_without_a_cache_folder(monkeypatch):
    from dhr_refine.compiled import jit

    def njit(**options):
        if "cache" in options:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setattr(jit, "njit", njit)
    assert jit.compiled(len) is len


def test_vector_exponential():
    from numba import njit

    from dhr_refine.compiled import simd

    @njit
    def apply(values, result, tag):
        for at in range(0, values.size, len(tag)):
            simd.store(result, at, simd.exp(simd.load(values, at, tag)))

    values = np.linspace(-86.9, 0, 2**12, dtype=np.float32)
    values[:2] = -1e30, -88
    result = np.empty_like(values)
    apply(values, result, (0,) * 8)
    assert not result[:2].any()
    np.testing.assert_allclose(result[2:], np.exp(values[2:].astype(np.float64)), rtol=5e-7)


def test_vector_logarithm():
    from numba import njit

    from dhr_refine.compiled import simd

    @njit
    def apply(values, result, tag):
        for at in range(0, values.size, len(tag)):
            simd.store(result, at, simd.log(simd.load(values, at, tag)))

    # Over all mantissas, where the range is cut in two, and where the result is 0.
    values = np.concatenate([np.geomspace(1e-5, 1, 2**12), np.linspace(0.7, 1.42, 2**12)]).astype(np.float32)
    values[:3] = 1, np.float32(0.5) ** np.float32(0.5), np.finfo(np.float32).tiny
    result = np.empty_like(values)
    apply(values, result, (0,) * 8)
    assert result[0] == 0
    np.testing.assert_allclose(result, np.log(values.astype(np.float64)), rtol=3e-7)


@pytest.mark.parametrize("lanes", [1, 2, 4, 8, 16])
def test_vector_groups(lanes):
    from numba import njit

    from dhr_refine.compiled import simd

    @njit
    def apply(values, totals, largest, tag):
        vector = simd.load(values, 0, (0,) * 16)
        simd.store(totals, 0, simd.group_total(vector, tag))
        simd.store(largest, 0, simd.group_largest(vector, tag))

    values = np.random.default_rng(0).standard_normal(16).astype(np.float32)
    totals, largest = np.empty_like(values), np.empty_like(values)
    apply(values, totals, largest, (0,) * lanes)
    groups = values.reshape(-1, lanes)
    np.testing.assert_allclose(totals, groups.sum(axis=1).repeat(lanes), rtol=1e-5)
    np.testing.assert_array_equal(largest, groups.max(axis=1).repeat(lanes))


@pytest.mark.parametrize("corners", [1, 3, 6, 7])
@pytest.mark.parametrize("number", [np.uint16, np.int32])
def test_vector_rows(number, corners):
    from numba import njit

    from dhr_refine.compiled import simd

    @njit
    def apply(offsets, weights, at, corners, values, result):
        start = simd.load(values, 0, (0,) * 4)
        simd.store(result, 0, simd.gather(offsets, weights, at, corners, values, 8, start))
        simd.scatter(offsets, weights, at, corners, values, 8, start)

    generator = np.random.default_rng(0)
    offsets = generator.integers(0, 2**16, corners + 2).astype(number)
    offsets[1:3] = 2**16 - 1  # the largest; twice where there are two corners
    weights = generator.random(corners + 2).astype(np.float32)
    values = generator.random((2 + 2**16, 4)).astype(np.float32)
    expected = values.copy()
    used = slice(1, 1 + corners)
    rows = offsets[used].astype(np.int64)
    np.add.at(expected[2:], rows, weights[used, None] * values[0])
    gathered = values[0] + (weights[used, None] * values[2:][rows]).sum(axis=0)
    result, flat = np.empty(4, np.float32), values.reshape(-1)
    apply(offsets, weights, 1, (0,) * corners, flat, result)
    np.testing.assert_allclose(result, gathered, rtol=1e-5)
    np.testing.assert_allclose(values, expected, rtol=1e-5)
