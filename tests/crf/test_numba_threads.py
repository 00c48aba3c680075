"""Threads of the numba backend: one image on each, or several in one image."""

from __future__ import annotations

import pytest
import torch
from parity import assert_parity
from photos import photo, scores

from dhr_refine import DenseCRFLattice, dense_crf

pytestmark = pytest.mark.usefixtures("one_thread")


def test_threads_change_rounding_only(two_threads, set_threads):
    images = torch.stack([photo(name, 210, 190) for name in ("coffee", "astronaut", "chelsea")])
    probs = scores(5, 210, 190, batch=3)
    batch = dense_crf(images, probs, backend="numba")
    assert torch.equal(batch, dense_crf(images, probs, backend="numba"))
    for image, prob, one in zip(images, probs, batch, strict=True):
        split = dense_crf(image, prob, backend="numba")  # two threads in one image
        assert torch.equal(split, dense_crf(image, prob, backend="numba"))
        torch.testing.assert_close(split, one, atol=1e-4, rtol=0)
    set_threads(1)
    assert torch.equal(batch, dense_crf(images, probs, backend="numba"))


@pytest.mark.parametrize("classes", [2, 3, 4, 5, 18, 21])
def test_two_threads_in_one_image(two_threads, classes):
    image, probs = photo("astronaut", 210, 190), scores(classes, 210, 190)
    expected = dense_crf(image, probs, backend="pydensecrf")
    assert_parity(dense_crf(image, probs, backend="numba"), expected)


@pytest.mark.parametrize("number", [2, 3, 7])
@pytest.mark.parametrize(("gauss_sxy", "classes"), [(1, 4), (1, 21), (0.4, 4)])
def test_threads_inside_one_image(set_threads, monkeypatch, number, gauss_sxy, classes):
    from dhr_refine.crf.backends.numba import solve

    image, probs = photo("coffee", 71, 150), scores(classes, 71, 150)
    options = {"gauss_sxy": gauss_sxy, "backend": "numba"}
    set_threads(1)
    expected = dense_crf(image, probs, **options)
    set_threads(number)
    monkeypatch.setattr(solve, "_PIXELS_PER_THREAD", 100)
    results = [dense_crf(image, probs, **options) for _ in range(3)]
    torch.testing.assert_close(results[0], expected, atol=2e-5, rtol=0)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.parametrize("culprit", [0, 2])
def test_a_thread_that_fails_stops_the_others(set_threads, monkeypatch, culprit):
    from dhr_refine.crf.backends.numba import iterations, solve

    compiled = iterations.mean_field

    def broken(*arguments):
        if arguments[-4] == culprit:
            raise MemoryError("out of memory")
        compiled(*arguments)

    image, probs = photo("coffee", 71, 150), scores(4, 71, 150)
    set_threads(3)
    monkeypatch.setattr(solve, "_PIXELS_PER_THREAD", 100)
    expected = dense_crf(image, probs, backend="numba")  # builds the lattice of positions, compiles
    lattice = DenseCRFLattice(image, backend="numba")
    with monkeypatch.context() as patch:
        patch.setattr(iterations, "mean_field", broken)
        with pytest.raises(MemoryError, match="out of memory"):
            dense_crf(image, probs, lattice=lattice)
    assert torch.equal(dense_crf(image, probs, lattice=lattice), expected)
