"""Each affinity, and walks that follow it, against the papers' equations pair by pair."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.sparse
import torch
import walk_reference as reference
from hypothesis import given
from hypothesis import strategies as st

from dhr_refine import random_walk
from dhr_refine.propagation import (
    attention_affinity,
    averages,
    edge_affinity,
    feature_affinity,
    limits,
    pairwise_affinity,
)

pytestmark = pytest.mark.usefixtures("one_thread")
GRIDS = [(1, 1), (1, 7), (6, 1), (2, 3), (9, 11)]


def cams_for(grid, classes=3):
    return torch.rand(classes, *grid)


def symmetric(cells, share=1.0):
    """Random affinities of pairs, some of them 0."""
    matrix = torch.rand(cells, cells) * (torch.rand(cells, cells) < share)
    return torch.maximum(matrix, matrix.mT)


def check(affinity, matrix, cams, steps, start=None):
    """Rows of an affinity, and a walk along it, are those of the reference."""
    np.testing.assert_allclose(affinity.matrix()[0], matrix, atol=2e-7)
    wanted = reference.walk((cams if start is None else start).numpy(), matrix, steps)
    np.testing.assert_allclose(random_walk(cams, affinity, steps=steps), wanted, atol=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("radius", "beta"), [(5, 10), (2.3, 1.5), (40, 3)])
def test_edges_are_those_of_irn(grid, radius, beta):
    edges, cams = torch.rand(grid) * (torch.rand(grid) < 0.6), cams_for(grid)
    matrix = reference.transition(reference.edge_weights(edges.double().numpy(), radius, beta))
    affinity = edge_affinity(edges, radius=radius, beta=beta)
    check(affinity, matrix, cams, 256, cams * (1 - edges))
    check(edge_affinity(edges, radius=radius, beta=beta, gate=False), matrix, cams, 256)
    assert affinity.steps == 256
    assert affinity.grid == grid


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("radius", [None, 3, 5])
@pytest.mark.parametrize("likeness", ["cosine", "exponential"])
def test_features_are_compared_pair_by_pair(grid, radius, likeness):
    features, cams = torch.randn(6, *grid) + 0.5, cams_for(grid)
    features[:, 0, 0] = 0
    weights = reference.feature_weights(features.numpy(), radius, 2.5, likeness)
    affinity = feature_affinity(features, radius=radius, beta=2.5, likeness=likeness)
    check(affinity, reference.transition(weights), cams, 64)
    usual, steps = (16, 16) if likeness == "cosine" else (8, 64)
    defaults = feature_affinity(features, radius=radius, likeness=likeness)
    asked = feature_affinity(features, radius=radius, likeness=likeness, beta=usual)
    assert torch.equal(defaults.matrix(), asked.matrix())
    assert defaults.steps == affinity.steps == steps


def test_a_radius_beyond_the_image_is_no_radius():
    features, cams = torch.randn(2, 6, 4, 5), torch.rand(2, 3, 4, 5)
    near, all_pairs = feature_affinity(features, radius=9), feature_affinity(features)
    torch.testing.assert_close(near.matrix(), all_pairs.matrix(), atol=1e-6, rtol=0)
    torch.testing.assert_close(random_walk(cams, near), random_walk(cams, all_pairs), atol=1e-6, rtol=0)


@pytest.mark.parametrize("share", [1.0, 0.2, 0.0])
def test_pairs_are_taken_as_they_come(share):
    matrix, cams = symmetric(20, share), cams_for((4, 5))
    matrix[7], matrix[:, 7] = 0, 0  # alone, not even like itself
    wanted = reference.transition(matrix.double().numpy() ** 8)
    affinity = pairwise_affinity(matrix, grid=(4, 5))
    check(affinity, wanted, cams, 64)
    assert torch.equal(random_walk(cams, affinity)[:, 1, 2], cams[:, 1, 2])
    assert affinity.steps == 64


@pytest.mark.parametrize(
    "form",
    [
        scipy.sparse.csr_matrix,
        scipy.sparse.coo_array,
        lambda dense: torch.from_numpy(dense).to_sparse(),
        lambda dense: torch.from_numpy(dense).double().to_sparse(),
    ],
    ids=["csr", "coo array", "torch", "torch float64"],
)
@pytest.mark.parametrize("share", [1.0, 0.2, 0.0])
def test_sparse_pairs_are_the_same_as_dense_ones(form, share):
    matrix, cams = symmetric(20, share), cams_for((4, 5))
    sparse = pairwise_affinity(form(matrix.numpy()), grid=(4, 5))
    wanted = reference.transition(matrix.double().numpy() ** 8)
    check(sparse, wanted, cams, 64)


def test_pairs_that_stand_twice_in_a_sparse_matrix_are_added():
    rows, columns, values = [0, 0, 1, 1, 2], [1, 1, 0, 0, 2], [0.25, 0.5, 0.5, 0.25, 1.0]
    sparse = scipy.sparse.coo_matrix((values, (rows, columns)), shape=(3, 3))
    affinity = pairwise_affinity(sparse, grid=(1, 3), beta=1)
    assert affinity.matrix().tolist() == [[[0, 1, 0], [1, 0, 0], [0, 0, 1]]]


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_attention_is_balanced_as_in_clip_es(rounds):
    layers, cams = torch.rand(8, 20, 20), cams_for((4, 5))
    matrix = reference.attention_matrix(layers.numpy(), rounds)
    affinity = attention_affinity(layers, grid=(4, 5), rounds=rounds)
    check(affinity, matrix, cams, 2)
    assert affinity.steps == 2
    torch.testing.assert_close(
        attention_affinity(layers.mean(0), grid=(4, 5), rounds=rounds).matrix(), affinity.matrix()
    )


def test_attention_that_no_cell_gives_or_gets_leaves_the_cell_alone():
    layers = torch.rand(3, 6, 6)
    layers[:, 2], layers[:, :, 2] = 0, 0
    cams = cams_for((2, 3))
    walked = random_walk(cams, attention_affinity(layers, grid=(2, 3)))
    assert torch.equal(walked[:, 0, 2], cams[:, 0, 2])
    assert bool(walked.isfinite().all())


def test_a_batch_is_its_images():
    edges, features = torch.rand(3, 5, 6), torch.randn(3, 4, 5, 6)
    attention = torch.rand(3, 2, 30, 30)
    cams = torch.rand(3, 2, 5, 6)
    for make, inputs, options in (
        (edge_affinity, edges, {}),
        (edge_affinity, edges[:, None], {}),
        (feature_affinity, features, {"radius": 3}),
        (feature_affinity, features, {}),
        (attention_affinity, attention, {"grid": (5, 6)}),
        (pairwise_affinity, (attention[:, 0] + attention[:, 0].mT) / 2, {"grid": (5, 6)}),
    ):
        together = random_walk(cams, make(inputs, **options))
        alone = random_walk(list(cams), [make(one.reshape(one.shape[-3:]), **options) for one in inputs])
        torch.testing.assert_close(together, torch.stack(alone), atol=1e-6, rtol=0)


@given(
    st.integers(1, 6),
    st.integers(1, 6),
    st.floats(1.01, 7),
    st.sampled_from(["edges", "near", "all", "pairs"]),
)
def test_rows_sum_to_one(height, width, radius, kind):
    if kind == "edges":
        affinity = edge_affinity(torch.rand(height, width), radius=radius)
    elif kind == "pairs":
        affinity = pairwise_affinity(symmetric(height * width, 0.3), grid=(height, width))
    else:
        features = torch.randn(3, height, width)
        affinity = feature_affinity(features, radius=radius if kind == "near" else None)
    matrix = affinity.matrix()
    assert matrix.shape == (1, height * width, height * width)
    assert float(matrix.amin()) >= 0
    torch.testing.assert_close(matrix.sum(2), torch.ones(1, height * width, dtype=torch.float64))


EDGES = torch.zeros(2, 4, 5)
MATRIX = torch.ones(20, 20)
LAYERS = torch.ones(2, 20, 20)


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (lambda: edge_affinity(EDGES.numpy()), TypeError, "edges must be a torch.Tensor of shape (B, h, w)"),
        (lambda: edge_affinity(EDGES.long()), TypeError, "edges must be floating point"),
        (lambda: edge_affinity(torch.zeros(2, 3, 4, 5)), ValueError, "edges must have one channel"),
        (lambda: edge_affinity(torch.zeros(2, 0, 5)), ValueError, "edges is empty"),
        (lambda: edge_affinity(EDGES - 3), ValueError, "[0, 1], got -3 to -3: pass edges.sigmoid()"),
        (lambda: edge_affinity(EDGES + 3), ValueError, "edges must lie in [0, 1], got 3 to 3"),
        (lambda: edge_affinity(EDGES + torch.nan), ValueError, "edges holds NaN or infinity"),
        (lambda: edge_affinity(EDGES, radius=1), ValueError, "radius must be above 1, got 1: pass 5"),
        (lambda: edge_affinity(EDGES, radius=-1), ValueError, "radius must be above 0"),
        (lambda: edge_affinity(EDGES, radius="5"), TypeError, "radius must be a number"),
        (lambda: edge_affinity(EDGES, beta=0), ValueError, "beta must be above 0"),
        (lambda: edge_affinity(EDGES, gate=1), TypeError, "gate must be a bool, got 1"),
        (lambda: feature_affinity(torch.zeros(4, 5)), ValueError, "features must have shape (B, D, u, v)"),
        (lambda: feature_affinity(torch.zeros(0, 4, 5)), ValueError, "features is empty"),
        (lambda: feature_affinity(EDGES + torch.inf), ValueError, "features holds NaN or infinity"),
        (lambda: feature_affinity(EDGES + 1e30), ValueError, "features holds numbers too large"),
        (lambda: feature_affinity(EDGES, radius=0.5), ValueError, "radius must be above 1"),
        (lambda: feature_affinity(EDGES, beta=-2), ValueError, "beta must be above 0"),
        (lambda: feature_affinity(EDGES, likeness="l1"), ValueError, "likeness must be one of 'cosine'"),
        (lambda: pairwise_affinity(MATRIX[:3], grid=(4, 5)), ValueError, "matrix must be square"),
        (lambda: pairwise_affinity(MATRIX, grid=(4, 4)), ValueError, "20 cells but grid (4, 4) has 16"),
        (
            lambda: pairwise_affinity(torch.ones(21, 21), grid=(4, 5)),
            ValueError,
            "matrix has 21 cells but grid (4, 5) has 20: drop the class token with matrix[..., 1:, 1:]",
        ),
        (lambda: pairwise_affinity(MATRIX, grid=20), TypeError, "grid must be (h, w)"),
        (lambda: pairwise_affinity(MATRIX, grid=(0, 20)), ValueError, "grid must hold numbers of at least 1"),
        (lambda: pairwise_affinity(-MATRIX, grid=(4, 5)), ValueError, "matrix holds negative affinities"),
        (lambda: pairwise_affinity(MATRIX * torch.nan, grid=(4, 5)), ValueError, "matrix holds NaN"),
        (lambda: pairwise_affinity(MATRIX.tril(), grid=(4, 5)), ValueError, "matrix must be symmetric"),
        (lambda: pairwise_affinity(MATRIX.long(), grid=(4, 5)), TypeError, "matrix must be floating point"),
        (lambda: pairwise_affinity(MATRIX.tolist(), grid=(4, 5)), TypeError, "matrix must be a torch.Tensor"),
        (lambda: pairwise_affinity(MATRIX, grid=(4, 5), beta=0), ValueError, "beta must be above 0"),
        (
            lambda: pairwise_affinity(MATRIX[:3].to_sparse(), grid=(4, 5)),
            ValueError,
            "matrix must be square, got shape (3, 20)",
        ),
        (
            lambda: pairwise_affinity(MATRIX[None].to_sparse(), grid=(4, 5)),
            ValueError,
            "a sparse matrix must have shape (N, N), got (1, 20, 20)",
        ),
        (lambda: pairwise_affinity(MATRIX.to_sparse(1), grid=(4, 5)), TypeError, "pass matrix.to_dense()"),
        (lambda: pairwise_affinity(MATRIX.to_mkldnn(), grid=(4, 5)), TypeError, "pass matrix.to_dense()"),
        (lambda: pairwise_affinity(MATRIX.to_sparse(), grid=(4, 4)), ValueError, "20 cells but grid (4, 4)"),
        (lambda: pairwise_affinity(MATRIX.long().to_sparse(), grid=(4, 5)), TypeError, "must be floating"),
        (
            lambda: pairwise_affinity(scipy.sparse.csr_matrix(np.ones((20, 20), int)), grid=(4, 5)),
            TypeError,
            "matrix must be floating point, got int64: call .astype(float)",
        ),
        (
            lambda: pairwise_affinity(scipy.sparse.csr_matrix(np.tril(np.ones((20, 20)))), grid=(4, 5)),
            ValueError,
            "matrix must be symmetric",
        ),
        (
            lambda: pairwise_affinity((MATRIX + torch.eye(20).flip(0).triu()).to_sparse(), grid=(4, 5)),
            ValueError,
            "matrix must be symmetric",
        ),
        (
            lambda: pairwise_affinity((-MATRIX).to_sparse(), grid=(4, 5)),
            ValueError,
            "matrix holds negative affinities",
        ),
        (lambda: attention_affinity(LAYERS[0, 0], grid=(4, 5)), ValueError, "attention must have shape"),
        (lambda: attention_affinity(LAYERS[:0], grid=(4, 5)), ValueError, "attention has no layer"),
        (lambda: attention_affinity(LAYERS, grid=(3, 5)), ValueError, "20 cells but grid (3, 5)"),
        (lambda: attention_affinity(LAYERS, grid=(4, 5), rounds=-1), ValueError, "rounds must be at"),
        (lambda: attention_affinity(LAYERS - 2, grid=(4, 5)), ValueError, "attention holds negative"),
        (lambda: attention_affinity(LAYERS * torch.inf, grid=(4, 5)), ValueError, "attention holds NaN"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(make, error, text):
    with pytest.raises(error, match=re.escape(text)):
        make()


def test_what_does_not_fit_is_told_before_it_is_made(monkeypatch):
    features = torch.zeros(1, 2, 300, 300)
    text = "pairs of 300 x 300 cells in 1 image(s) takes 64,800,000,000 bytes, more than the 4,294,967,296"
    with pytest.raises(ValueError, match=re.escape(text)):
        feature_affinity(features)
    with pytest.raises(ValueError, match=r"radius 300 over 300 x 300 cells takes .* pass a smaller radius"):
        feature_affinity(features, radius=300)
    with pytest.raises(ValueError, match="radius 300 over 300 x 300 cells takes"):
        edge_affinity(features[0, 0], radius=300)
    with pytest.raises(ValueError, match=r"a matrix of 90,000 cells takes .* coarser grid"):
        feature_affinity(features, radius=2).matrix()
    monkeypatch.setattr(limits, "MOST_BYTES", 3199)
    for make in (pairwise_affinity, attention_affinity):
        with pytest.raises(ValueError, match=r"of 20 cells takes 3,200 bytes, more than the 3,199"):
            make(MATRIX, grid=(4, 5))


def test_inputs_are_not_changed_and_not_followed():
    edges, features = torch.rand(4, 5), torch.randn(3, 4, 5, requires_grad=True)
    matrix, layers = symmetric(20), torch.rand(1, 20, 20)
    before = [one.detach().clone() for one in (edges, features, matrix, layers)]
    affinities = [
        edge_affinity(edges),
        feature_affinity(features),
        feature_affinity(features, likeness="exponential"),
        feature_affinity(features, radius=2),
        pairwise_affinity(matrix, grid=(4, 5)),
        pairwise_affinity(matrix, grid=(4, 5), beta=1),
        attention_affinity(layers, grid=(4, 5), rounds=0),
        attention_affinity(layers[0], grid=(4, 5)),
    ]
    for affinity in affinities:
        walked = random_walk(torch.rand(2, 4, 5), affinity)
        assert not walked.requires_grad
    for one, kept in zip((edges, features, matrix, layers), before, strict=True):
        assert torch.equal(one.detach(), kept)


@pytest.mark.parametrize("fast", [True, False])
def test_both_ways_to_average_few_neighbours_are_one(fast, monkeypatch):
    monkeypatch.setattr(averages, "_has_fast_products", lambda values: fast)
    edges, cams = torch.rand(2, 6, 7), torch.rand(2, 3, 6, 7)
    walked = random_walk(cams, edge_affinity(edges, gate=False))
    for one, own, result in zip(edges, cams, walked, strict=True):
        matrix = reference.transition(reference.edge_weights(one.double().numpy(), 5, 10))
        np.testing.assert_allclose(result, reference.walk(own.numpy(), matrix, 256), atol=1e-6)


def test_types_devices_and_settings(device, dtype):
    edges, features = torch.rand(2, 4, 5), torch.randn(2, 3, 4, 5)
    attention = torch.rand(2, 3, 20, 20)
    cams = torch.rand(2, 2, 4, 5)

    def walk(kind, dtype, device):
        def put(maps):
            return maps.to(dtype).to(device)

        affinity = {
            "edges": lambda: edge_affinity(put(edges)),
            "near": lambda: feature_affinity(put(features), radius=2.5),
            "all": lambda: feature_affinity(put(features)),
            "exponential": lambda: feature_affinity(put(features), likeness="exponential"),
            "attention": lambda: attention_affinity(put(attention), grid=(4, 5)),
            "pairs": lambda: pairwise_affinity(
                put(attention[:, 0]) + put(attention[:, 0]).mT, grid=(4, 5), beta=2
            ),
        }[kind]()
        return random_walk(put(cams), affinity, within=0.3)

    tolerance = {torch.float16: 5e-3, torch.bfloat16: 4e-2}.get(dtype, 1e-5)
    for kind in ("edges", "near", "all", "exponential", "attention", "pairs"):
        walked = walk(kind, dtype, device)
        assert (walked.dtype, walked.device) == (dtype, device)
        exact = walk(kind, torch.float64, torch.device("cpu"))
        torch.testing.assert_close(walked.cpu().double(), exact, atol=tolerance, rtol=0)
