"""Mean field from energies with any terms: numba against torch, single steps, threads, odd energies."""

from __future__ import annotations

import multiprocessing

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dhr_refine import dense_crf
from dhr_refine.crf import energies, kept
from dhr_refine.crf.terms import NORMALIZATIONS, Term, around

pytest.importorskip("numba", reason="needs numba: pip install numba")
SIZE = (9, 13)
PIXELS = SIZE[0] * SIZE[1]


@pytest.fixture(params=["numba", "torch"])
def backend(request, monkeypatch):
    use(request.param, monkeypatch)
    return request.param


def use(name, monkeypatch):
    for module in (energies, kept):
        monkeypatch.setattr(module, "backend_for", lambda _: name)


def draw(seed, classes, *, terms=3, kind=0, normalization="symmetric"):
    """Energies (K, N) and terms of a random program: positions, colours, other features."""
    generator = np.random.default_rng(seed)
    unary = generator.gamma(2, 1, (classes, PIXELS)).astype(np.float32)
    image = generator.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    features = generator.normal(0, 1, (4, PIXELS)).astype(np.float32)
    kernels = [
        kept.gaussian_kernel(*SIZE, 2.0),
        kept.bilateral_kernel(image, 5.0, 60.0),
        kept.feature_kernel(features, SIZE),
    ]
    scale = 0.1 if normalization == "none" else 3.0
    compats = [
        scale,
        -scale * generator.random(classes).astype(np.float32),
        -scale * generator.random((classes, classes)).astype(np.float32),
    ]
    return unary, [Term(kernel, normalization, compats[kind]) for kernel in kernels[:terms]]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    st.integers(1, 40),
    st.integers(0, 3),
    st.integers(0, 2),
    st.sampled_from(NORMALIZATIONS),
)
def test_backends_agree(seed, classes, terms, kind, normalization):
    results = []
    with pytest.MonkeyPatch.context() as patch:
        for name in ("numba", "torch"):
            use(name, patch)
            unary, program = draw(seed, classes, terms=terms, kind=kind, normalization=normalization)
            before = unary.copy()
            result = energies.mean_field(unary, program, iterations=4)
            assert np.array_equal(unary, before)
            results += [result, energies.pairwise(result, program)]
    assert np.abs(results[0] - results[2]).max() < 1e-3
    assert np.allclose(results[1], results[3], atol=1e-2 * (1 + classes))
    assert np.allclose(results[0].sum(0), 1, atol=1e-5)


def test_one_call_is_as_many_steps(backend):
    for kind in range(3):
        unary, terms = draw(kind, 5, kind=kind)
        probs = energies.mean_field(unary, terms, iterations=0)
        expected = np.exp(-unary) / np.exp(-unary).sum(0)
        assert np.allclose(probs, expected, atol=1e-6)
        for _ in range(3):
            given_ = probs.copy()
            probs = energies.mean_field(unary, terms, iterations=1, start=probs)
            logits = -unary - energies.pairwise(given_, terms)
            expected = np.exp(logits) / np.exp(logits).sum(0)
            assert np.allclose(probs, expected, atol=1e-5)
        assert np.allclose(probs, energies.mean_field(unary, terms, iterations=3), atol=1e-5)


def test_usual_terms_are_dense_crf(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, *SIZE), generator=generator, dtype=torch.uint8)
    probs = torch.rand(4, *SIZE, generator=generator).softmax(0)
    expected = dense_crf(image, probs, iterations=5, sxy=7, srgb=20, compat=5, gauss_sxy=2, gauss_compat=3)
    terms = [
        Term(kept.gaussian_kernel(*SIZE, 2), "symmetric", 3.0),
        Term(kept.bilateral_kernel(image.permute(1, 2, 0).numpy(), 7, 20), "symmetric", 5.0),
    ]
    unary = -probs.flatten(1).log().numpy()
    for order in (terms, terms[::-1]):
        result = energies.mean_field(unary, order, iterations=5)
        assert np.allclose(result.reshape(expected.shape), expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("kind", [0, 1, 2])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("last", [0, 1, 2])
def test_a_third_term_beside_the_usual_two_counts(last, kind, normalization, monkeypatch):
    """The usual two have loops of their own, which know of no other term, whatever its kernel and kind."""
    results = []
    for name in ("numba", "torch"):
        use(name, monkeypatch)
        unary, usual = draw(4, 5, terms=2)
        third = draw(4, 5, kind=kind, normalization=normalization)[1][last]
        results += [
            energies.mean_field(unary, program, iterations=3)
            for program in ([*usual, third], [third, *usual], usual)
        ]
    for ours, theirs in zip(results[:3], results[3:]):
        assert np.abs(ours - theirs).max() < 1e-3
    assert np.abs(results[0] - results[2]).max() > 1e-2


def test_threads_change_nothing_but_rounding(monkeypatch):
    unary, terms = draw(3, 40, kind=1)
    alone = energies.mean_field(unary, terms, iterations=5)
    monkeypatch.setattr(energies, "threads", lambda: 3)
    unary, terms = draw(3, 40, kind=1)
    assert np.allclose(energies.mean_field(unary, terms, iterations=5), alone, atol=1e-6)


def test_infinite_and_huge_energies(backend):
    unary, terms = draw(0, 3)
    unary[0, :50] = np.inf
    unary[:, 7] = np.inf  # nothing is left
    unary[:, 8] = [-np.inf, 1, 2]
    unary[:, 9] = [1e38, 2e38, 3e38]
    unary[:, 10] = [-1e38, 0, 1e38]
    for program in (terms, terms[:2], terms[:1], []):
        result = energies.mean_field(unary, program, iterations=3)
        assert np.isfinite(result).all()
        assert (result[0, :7] == 0).all()
        assert np.allclose(result[:, 7], 1 / 3)
        assert np.allclose(result[:, 8], [1, 0, 0])
        assert np.allclose(result[:, 10], [1, 0, 0])


def test_classes_that_are_alike_stay_alike(backend):
    """Whatever block of a vector they lie in, and in whatever order."""
    unary, terms = draw(1, 20)
    unary[19] = unary[2]
    for kind in (terms, terms[:2]):
        result = energies.mean_field(unary, kind, iterations=10)
        assert np.array_equal(result[19], result[2])


def test_a_matrix_of_equal_penalties_is_potts(backend):
    unary, terms = draw(2, 6)
    potts = energies.mean_field(unary, terms, iterations=4)
    for compat in (np.full(6, -3.0), -3.0 * np.eye(6)):
        others = [term._replace(compat=compat.astype(np.float32)) for term in terms]
        assert np.allclose(energies.mean_field(unary, others, iterations=4), potts, atol=1e-5)
    # A penalty of 3 for every other class is the same up to a constant for each pixel, without the weights
    # of a normalisation that does not sum to one.
    after = [term._replace(normalization="after") for term in terms]
    others = [term._replace(compat=3 * (1 - np.eye(6, dtype=np.float32))) for term in after]
    potts = energies.mean_field(unary, after, iterations=4)
    assert np.allclose(energies.mean_field(unary, others, iterations=4), potts, atol=1e-4)


def test_normalisation_of_the_transpose():
    for normalization in NORMALIZATIONS:
        assert around(normalization, backwards=True) == around(normalization)[::-1]


def test_kernels_are_found_again(backend, monkeypatch):
    kept.kept_kernels.clear()
    generator = np.random.default_rng(0)
    image = generator.integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    first = kept.bilateral_kernel(image, 5.0, 60.0)
    assert kept.bilateral_kernel(image.copy(), 5.0, 60.0) is first
    assert kept.bilateral_kernel(image, 5.0, 61.0) is not first
    other = image.copy()
    other[0, 0, 0] ^= 1
    assert kept.bilateral_kernel(other, 5.0, 60.0) is not first
    image[1, 1, 1] ^= 1  # what is kept is a copy
    assert kept.bilateral_kernel(image, 5.0, 60.0) is not first
    image[1, 1, 1] ^= 1
    assert kept.bilateral_kernel(image, 5.0, 60.0) is first
    features = generator.normal(size=(3, PIXELS)).astype(np.float32)
    own = kept.feature_kernel(features, SIZE)
    assert kept.feature_kernel(features.copy(), SIZE) is own
    assert kept.feature_kernel(features) is not own  # a list of pixels is no image
    for step in range(10):
        kept.feature_kernel(features + step + 1, SIZE)
    assert kept.feature_kernel(features, SIZE) is not own  # a limited number is kept
    monkeypatch.setattr(kept.kept_kernels, "nbytes", 0)
    last = kept.feature_kernel(features + 50, SIZE)
    assert kept.feature_kernel(features + 50, SIZE) is last  # however large, the newest one is
    kept.kept_kernels.clear()


def _threads_of_child(queue):
    queue.put(energies.threads())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_of_a_pool_uses_one_thread(method):
    assert energies.threads() == torch.get_num_threads()
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=_threads_of_child, args=(queue,))
    process.start()
    assert queue.get(timeout=60) == 1
    process.join()
