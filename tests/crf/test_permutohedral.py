"""The lattice of any features: against sums over all pairs, between backends, gradients, errors."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad, gradcheck, gradgradcheck

from dhr_refine import PermutohedralLattice
from dhr_refine.crf import geometry
from dhr_refine.crf.terms import NORMALIZATIONS

pytest.importorskip("numba", reason="needs numba: pip install numba")
# Of PyTorch's own, where derivatives in forward mode are first used.
FORWARD_MODE = pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
SHAPES = ((2, 3, 50), (1, 5, 9, 7), (2, 4, 3, 5, 6), (1, 1, 30), (1, 7, 40))


def normalised(kernel: np.ndarray, values: np.ndarray, normalization: str) -> np.ndarray:
    """Filter values (C, N) by a matrix (N, N)."""
    sums = kernel.sum(1)
    return {
        "none": lambda: values @ kernel.T,
        "after": lambda: values @ kernel.T / sums,
        "before": lambda: (values / sums) @ kernel.T,
        "symmetric": lambda: (values / np.sqrt(sums)) @ kernel.T / np.sqrt(sums),
    }[normalization]()


@pytest.mark.parametrize("dimension", [1, 2, 3, 5])
@pytest.mark.parametrize("normalization", ["after", "symmetric", "before"])
def test_lattice_filters_like_a_sum_over_all_pairs(dimension, normalization):
    generator = np.random.default_rng(dimension)
    features = generator.normal(size=(dimension, 400))
    values = generator.random((2, 400))
    distances = ((features[:, :, None] - features[:, None]) ** 2).sum(0)
    expected = normalised(np.exp(-distances / 2), values, normalization)
    lattice = PermutohedralLattice(torch.from_numpy(features)[None])
    result = lattice.filter(torch.from_numpy(values)[None], normalization=normalization)[0].numpy()
    assert np.abs(result / expected - 1).mean() < 0.01 + 0.005 * dimension**2
    assert np.corrcoef(result[0], expected[0])[0, 1] > 1 - 0.015 * dimension


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_backends_agree(shape, normalization):
    generator = torch.Generator().manual_seed(len(shape))
    features = torch.randn(shape, generator=generator)
    values = torch.randn((shape[0], 20, *shape[2:]), generator=generator)
    kept = features.clone(), values.clone()
    results = [
        PermutohedralLattice(features, backend=backend).filter(values, normalization=normalization)
        for backend in ("numba", "torch")
    ]
    assert torch.allclose(*results, atol=2e-6, rtol=1e-5)
    assert torch.equal(features, kept[0])
    assert torch.equal(values, kept[1])


def test_batch_entries_never_meet():
    features = torch.randn(3, 4, 60)
    values = torch.randn(3, 2, 60)
    for backend in ("numba", "torch"):
        whole = PermutohedralLattice(features, backend=backend).filter(values)
        for index in range(3):
            alone = PermutohedralLattice(features[index : index + 1], backend=backend)
            assert torch.allclose(alone.filter(values[index : index + 1])[0], whole[index], atol=1e-6)


@FORWARD_MODE
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("shape", SHAPES[:3])
def test_gradients(shape, normalization):
    lattice = PermutohedralLattice(torch.randn(shape), backend="torch")
    values = torch.randn((shape[0], 2, *shape[2:]), dtype=torch.float64, requires_grad=True)

    def run(values):
        return lattice.filter(values, normalization=normalization)

    assert gradcheck(run, values, fast_mode=True, check_forward_ad=True)
    assert gradgradcheck(run, values, fast_mode=True)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_gradients_of_numba_are_the_transpose(normalization):
    lattice = PermutohedralLattice(torch.randn(2, 5, 6, 7), backend="numba")
    values = torch.randn(2, 3, 6, 7, requires_grad=True)
    weights = torch.randn(2, 3, 6, 7)
    (gradient,) = torch.autograd.grad(
        (lattice.filter(values, normalization=normalization) * weights).sum(), values
    )
    other = torch.randn(2, 3, 6, 7)
    forward = (lattice.filter(other, normalization=normalization) * weights).sum()
    assert torch.allclose((gradient * other).sum(), forward, rtol=1e-4, atol=1e-4)


@FORWARD_MODE
def test_forward_mode_of_numba():
    lattice = PermutohedralLattice(torch.randn(1, 2, 40))
    values, tangent = torch.randn(1, 3, 40), torch.randn(1, 3, 40)
    with forward_ad.dual_level():
        result = lattice.filter(forward_ad.make_dual(values, tangent))
        assert torch.equal(forward_ad.unpack_dual(result).tangent, lattice.filter(tangent))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.integers(1, 37), st.integers(0, 2**31), st.sampled_from(["numba", "torch"]))
def test_weighted_means_stay_within_the_values(dimension, count, seed, backend):
    generator = torch.Generator().manual_seed(seed)
    features = 10 * torch.randn(1, dimension, count, generator=generator)
    values = torch.rand(1, 2, count, generator=generator)
    result = PermutohedralLattice(features, backend=backend).filter(values, normalization="after")
    assert torch.isfinite(result).all()
    slack = 1e-5
    assert (result >= values.amin(2, keepdim=True) - slack).all()
    assert (result <= values.amax(2, keepdim=True) + slack).all()


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_elements_that_are_all_alike_or_alone(backend):
    same = PermutohedralLattice(torch.ones(1, 2, 9), backend=backend)
    values = torch.rand(1, 1, 9)
    mean = same.filter(values, normalization="after")
    assert torch.allclose(mean, values.mean().expand_as(mean), atol=1e-6)
    apart = PermutohedralLattice(1000 * torch.arange(9.0)[None, None], backend=backend)
    assert torch.allclose(apart.filter(values, normalization="after"), values, atol=1e-6)
    assert apart.filter(torch.zeros(1, 0, 9)).shape == (1, 0, 9)
    for shape in ((9,), (3, 3), (2, 3, 4)):
        nothing = PermutohedralLattice(torch.zeros(0, 2, *shape), backend=backend)
        assert nothing.filter(torch.zeros(0, 3, *shape)).shape == (0, 3, *shape)


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_types_of_values(backend):
    lattice = PermutohedralLattice(torch.randn(1, 2, 9).half(), backend=backend)
    values = torch.rand(1, 1, 9)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        result = lattice.filter(values.to(dtype))
        assert result.dtype == dtype
        assert torch.allclose(result.float(), lattice.filter(values), atol=1e-2)
    assert torch.equal(lattice.filter(values.mT.contiguous().mT), lattice.filter(values))
    with torch.autocast("cpu"):
        assert torch.equal(lattice.filter(values), lattice.filter(values.clone()))


def test_lattice_says_what_it_is():
    lattice = PermutohedralLattice(torch.randn(1, 2, 9), backend="torch")
    assert repr(lattice) == "PermutohedralLattice(1 x 2 x 9, backend='torch', device='cpu')"
    assert lattice.shape == (1, 2, 9)
    assert lattice.device.type == "cpu"
    assert lattice.nbytes > 9 * 3 * 8


@pytest.mark.parametrize(
    ("features", "error", "words"),
    [
        (np.zeros((1, 2, 3)), TypeError, "features must be a torch.Tensor"),
        (torch.zeros(2, 3), ValueError, r"features must have shape \(B, d, N\)"),
        (torch.zeros(1, 2, 3, dtype=torch.uint8), TypeError, "features must be floating point"),
        (torch.full((1, 2, 3), torch.nan), ValueError, "features holds NaN"),
        (torch.zeros(1, 0, 3), ValueError, "features is empty"),
        (torch.zeros(1, 2, 0), ValueError, "features is empty"),
        (torch.tensor([[[0.0, 1e300]]], dtype=torch.float64), ValueError, "too large for float32"),
        (torch.tensor([[[0.0, 1e9]]]), ValueError, r"e\.g\. features / "),
        (torch.linspace(0, 1e5, 10).expand(1, 6, 10), ValueError, r"e\.g\. features / "),
        (torch.rand(1, 40, 10), ValueError, "pass fewer features"),
        (torch.zeros(1, 2, 3, device="meta"), TypeError, "features is on the meta device"),
    ],
)
def test_wrong_features(features, error, words):
    with pytest.raises(error, match=words):
        PermutohedralLattice(features)


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize(("offset", "count"), [(100, 30), (100, 31), (-300, 29)])
def test_features_far_from_zero(backend, offset, count, monkeypatch):
    """Room on the way to 0 makes no difference where nothing lies there."""
    features = 3 * torch.rand(2, 3, count, generator=torch.Generator().manual_seed(1)) + offset
    values = torch.rand(2, 2, count, generator=torch.Generator().manual_seed(2))
    expected = PermutohedralLattice(features, backend=backend).filter(values)
    monkeypatch.setattr(geometry, "_LARGEST_KEY", 10**6)
    assert not geometry.feature_geometry([(offset, offset + 3)] * 3).zeros
    assert torch.equal(PermutohedralLattice(features, backend=backend).filter(values), expected)


@pytest.mark.parametrize("backend", ["numba", "torch"])
def test_features_with_a_common_offset_are_filtered_like_those_without(backend):
    generator = np.random.default_rng(0)
    near, values = generator.normal(size=(7, 301)), generator.random((1, 301))
    lattice = PermutohedralLattice(torch.from_numpy(near + 1e4)[None], backend=backend)
    result = lattice.filter(torch.from_numpy(values)[None], normalization="after")[0].numpy()
    distances = ((near[:, :, None] - near[:, None]) ** 2).sum(0)
    expected = normalised(np.exp(-distances / 2), values, "after")
    assert np.corrcoef(result[0], expected[0])[0, 1] > 0.9


@pytest.mark.parametrize(("dimension", "offset"), [(9, 1e6), (15, 2e4), (13, 5e4)])
def test_the_fix_for_features_too_far_from_zero_works(dimension, offset):
    """Too far for float32, or for keys."""
    features = torch.rand(1, dimension, 21) + offset
    with pytest.raises(ValueError, match="they lie far from 0, subtract the mean of each"):
        PermutohedralLattice(features)
    PermutohedralLattice(features - features.mean(-1, keepdim=True))


@pytest.mark.parametrize(("shape", "form"), [((5, 64, 30), "(B, d, N)"), ((3, 40, 6, 7), "(B, d, H, W)")])
def test_features_without_their_batch_axis(shape, form):
    features = torch.rand(shape)
    words = f"pass fewer features; the shape {shape} was read as {form}: if the first axis is that of the"
    with pytest.raises(ValueError, match=re.escape(words)):
        PermutohedralLattice(features)
    assert PermutohedralLattice(features[None]).shape == (1, *shape)


def test_the_fix_for_features_that_are_too_fine_works():
    features = torch.linspace(0, 1e5, 10).expand(1, 6, 10)
    with pytest.raises(ValueError, match="features / ") as caught:
        PermutohedralLattice(features)
    factor = float(str(caught.value).split("features / ")[1])
    PermutohedralLattice(features / factor)
    with pytest.raises(ValueError, match="features / "):
        PermutohedralLattice(features / (factor / 2))


@pytest.mark.parametrize(
    ("values", "options", "error", "words"),
    [
        (torch.zeros(1, 2, 4), {}, ValueError, "values must have the batch and size of features"),
        (torch.zeros(2, 2, 3), {}, ValueError, "values must have the batch and size of features"),
        (torch.zeros(1, 2, 3, dtype=torch.long), {}, TypeError, "values must be floating point"),
        (torch.zeros(2, 3), {}, ValueError, r"values must have shape \(B, C, N\)"),
        (torch.full((1, 2, 3), torch.inf), {}, ValueError, "values holds NaN or infinity"),
        (torch.zeros(1, 2, 3), {"normalization": "both"}, ValueError, "normalization must be"),
    ],
)
def test_wrong_values(values, options, error, words):
    lattice = PermutohedralLattice(torch.zeros(1, 5, 3))
    with pytest.raises(error, match=words):
        lattice.filter(values, **options)


def test_numbers_beyond_single_precision():
    """One backend computes float64 values in float32, where they would be infinite, and NaN times 0."""
    features, values = torch.zeros(1, 2, 3), torch.full((1, 2, 3), 1e300, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"values holds numbers too large for float32 .* scale it down"):
        PermutohedralLattice(features, backend="numba").filter(values)
    assert PermutohedralLattice(features, backend="torch").filter(values).isfinite().all()


def test_wrong_backend():
    for backend in ("triton", "pydensecrf", "cuda"):
        with pytest.raises(ValueError, match="backend must be"):
            PermutohedralLattice(torch.zeros(1, 2, 3), backend=backend)
