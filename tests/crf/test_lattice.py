"""The lattice as an object, and the lattices of positions behind it."""

from __future__ import annotations

import re

import pytest
import torch
from parity import IMAGE
from photos import photo, scores

from dhr_refine import DenseCRFLattice, crf, dense_crf

pytestmark = pytest.mark.usefixtures("one_thread")


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


def test_lattice_errors():
    with pytest.raises(TypeError, match=re.escape("images must be uint8 or floating point, got")):
        DenseCRFLattice(IMAGE.long())
    with pytest.raises(
        ValueError, match="backend must be 'auto', 'torch', 'numba' or 'triton' for a lattice"
    ):
        DenseCRFLattice(IMAGE, backend="pydensecrf")


def test_gaussian_lattices_are_shared_and_bounded(backend):
    crf.lattice.gaussian_lattices.clear()
    first = DenseCRFLattice(photo("coffee", 20, 30), backend=backend)
    second = DenseCRFLattice(photo("astronaut", 20, 30), backend=backend)
    assert first._gaussian is second._gaussian
    for height in range(20, 40):
        DenseCRFLattice(photo("coffee", height, 30), backend=backend)
    assert len(crf.lattice.gaussian_lattices._kept) == crf.lattice._CACHED_SIZES
