"""Every backend gives pydensecrf's result."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import BACKENDS, assert_parity
from photos import PRESETS, photo, scores, voc_images

from dhr_refine import dense_crf

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_scores_need_not_sum_to_one(backend):
    image, probs = photo("coffee", 40, 50), scores(3, 40, 50)
    factor = torch.rand(40, 50, generator=torch.Generator().manual_seed(0))
    expected = dense_crf(image, probs * factor, backend="pydensecrf")
    assert_parity(dense_crf(image, probs * factor, backend=backend), expected)


def test_scores_are_clipped_not_rescaled(backend):
    image, probs = photo("coffee", 40, 50), scores(3, 40, 50)
    probs[:, :5] = 0
    probs[0, 10:20] = 16  # as a score of the background, (1 - cam) ** 4, where a scaled CAM is -1
    expected = dense_crf(image, probs, backend="pydensecrf")
    assert_parity(dense_crf(image, probs, backend=backend), expected)
    assert_parity(dense_crf(image, probs.clamp(max=1), backend=backend), expected)


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
