"""Deviations from as good as 0 to as good as infinite: the right result, or an error whose fix works."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from photos import photo, scores

from dhr_refine import DenseCRFLattice, crf, dense_crf
from dhr_refine.crf import geometry

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("sxy", "srgb"),
    [(1, 1), (0.1, 0.1), (0.01, 1000), (0.01, 5), (10, 0.1), (67, 0.06), (1000, 0.1), (1000, 1000)],
)
@pytest.mark.parametrize("size", [(1, 1), (1, 900), (901, 1), (2, 700), (61, 83)])
def test_deviations_equal_pydensecrf(backend, sxy, srgb, size):
    image = torch.randint(0, 256, (3, *size), dtype=torch.uint8)
    image[:, :, size[1] // 2 :] //= 64  # many pixels of one colour
    probs = scores(3, *size)
    expected = dense_crf(image, probs, sxy=sxy, srgb=srgb, backend="pydensecrf")
    result = dense_crf(image, probs, sxy=sxy, srgb=srgb, backend=backend)
    torch.testing.assert_close(result, expected, atol=1e-3, rtol=0)


def test_a_large_photo_on_a_fine_lattice(backend):
    image, probs = photo("astronaut", 512, 512), scores(3, 512, 512)
    expected = dense_crf(image, probs, sxy=1, srgb=1, backend="pydensecrf")
    for lattice in (None, DenseCRFLattice(image, sxy=1, srgb=1, backend=backend)):
        result = dense_crf(image, probs, sxy=1, srgb=1, backend=backend, lattice=lattice)
        torch.testing.assert_close(result, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("preset", [{}, {"sxy": 3, "srgb": 1, "gauss_sxy": 0.1}])
@pytest.mark.parametrize("window", [2**16, 800])
def test_long_keys_change_nothing(monkeypatch, preset, window):
    # Keys that fit one word with the numbers of their vertices, as if they did not.
    from dhr_refine.crf.backends.numba import lattice as building

    monkeypatch.setattr(building, "_WINDOW", window)
    image, probs = photo("coffee", 130, 151), scores(4, 130, 151)
    results = []
    for bits in (None, 63):
        if bits is not None:
            monkeypatch.setattr(geometry.Geometry, "key_bits", bits)
        crf.lattice.gaussian_lattices.clear()
        results.append(dense_crf(image, probs, backend="numba", **preset))
    crf.lattice.gaussian_lattices.clear()
    assert torch.equal(*results)


@pytest.mark.parametrize("gauss_sxy", [3e-5, 1e-3, 0.03])
def test_pixels_apart_keep_to_themselves(backend, gauss_sxy):
    """The Gaussian kernel of a pixel and itself is 1, whatever the deviation."""
    image, probs = photo("coffee", 40, 61), scores(3, 40, 61)
    options = {"compat": 0, "gauss_sxy": gauss_sxy, "gauss_compat": 2, "backend": backend}
    expected = probs
    for _ in range(10):
        expected = (probs.log() + 2 * expected).softmax(dim=0)
    torch.testing.assert_close(dense_crf(image, probs, **options), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("deviation", [1e6, 1e30, 1e300])
def test_one_cell_takes_the_mean_of_all_pixels(backend, deviation):
    image, probs = photo("coffee", 200, 301), scores(3, 200, 301).double()
    options = {"sxy": deviation, "srgb": deviation, "gauss_sxy": deviation, "backend": backend}
    expected = probs
    for _ in range(10):
        expected = (probs.log() + (4 + 3) * expected.mean(dim=(1, 2), keepdim=True)).softmax(dim=0)
    torch.testing.assert_close(dense_crf(image, probs, **options), expected, atol=1e-3, rtol=0)


@given(
    height=st.integers(1, 5000),
    width=st.integers(1, 5000),
    sxy=st.floats(1e-308, 1e308),
    srgb=st.floats(1e-308, 1e308),
)
def test_the_fix_in_the_error_works(height, width, sxy, srgb):
    for name, build in (
        ("sxy", lambda sxy, srgb: geometry.bilateral_geometry(height, width, sxy, srgb)),
        ("gauss_sxy", lambda gauss_sxy, srgb=None: geometry.gaussian_geometry(height, width, gauss_sxy)),
    ):
        given_ = {name: sxy} | ({"srgb": srgb} if name == "sxy" else {})
        try:
            built = build(**given_)
        except ValueError as error:
            fix = dict(re.findall(r"(\w+)=(\S+)", str(error).split("e.g. ")[1]))
            assert fix.keys() == given_.keys()
            built = build(**{key: float(value) for key, value in fix.items()})
        assert built.cells <= 2**60
        assert all(math.isfinite(table[-1]) for table in built.tables)


def test_many_images_on_the_finest_lattice():
    images = torch.zeros(11, 3, 512, 512, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"2\*\*60 cells is too fine for a batch of 11 images: pass larger"):
        DenseCRFLattice(images, sxy=0.1, srgb=0.1, backend="torch")


@pytest.mark.parametrize(
    ("shape", "fix"),
    [
        ((3, 20, 31), "images - images.amin((-2, -1), keepdim=True)"),
        ((2, 3, 20, 31), "images - images.amin((-2, -1), keepdim=True)"),
        ((2, 1, 4, 9, 13), "images - images.amin((-3, -2, -1), keepdim=True)"),
    ],
)
@pytest.mark.parametrize("offset", [1e9, -1e9])
def test_images_far_from_zero_are_told_to_come_there(backend, shape, fix, offset):
    generator = torch.Generator().manual_seed(0)
    images = offset + 255 * torch.rand(shape, dtype=torch.float64, generator=generator)
    axis = len(shape) > 3
    probs = torch.rand((*shape[:axis], 2, *shape[1 + axis :]), generator=generator)
    options = {"sxy": 20, "srgb": 13, "backend": backend}
    message = re.escape(f"pass {fix}, they lie far from 0 and only differences count")
    with pytest.raises(ValueError, match=message):
        dense_crf(images, probs, **options)
    moved = eval(fix)
    assert 0 < moved.max() < 256
    assert dense_crf(moved, probs, **options).isfinite().all()
    with pytest.raises(ValueError, match=r"pass larger ones, e\.g\. sxy=2000 and srgb="):
        dense_crf(images, probs, **options | {"sxy": 2000, "srgb": 1e-17})
