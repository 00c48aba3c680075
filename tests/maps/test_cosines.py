"""compare: class averages and cosines in one pass, against their definition on resized maps in float64."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dhr_refine.maps import compare, cosines


def expected(features, weights, grid):
    """Resize every channel, pool, and take cosines, in float64."""
    maps = features.double()
    if grid is not None:
        maps = F.interpolate(maps, grid, mode="bilinear", align_corners=True)
    centroids = torch.einsum("bcn,bdn->bcd", weights.double(), maps.flatten(2))
    cosine = F.cosine_similarity(maps[:, None], centroids[..., None, None], dim=2)
    return centroids, cosine


def scene(device, grid, size, *, depth=70, batch=3, dtype=torch.float32, channels_last=False):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(batch, depth, *size, generator=generator).to(device, dtype)
    if channels_last:
        features = features.contiguous(memory_format=torch.channels_last)
    cells = (size if grid is None else grid)[0] * (size if grid is None else grid)[1]
    weights = torch.rand(batch, 4, cells, generator=generator)
    weights[:, 2] = 0.0  # an absent class
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(1e-12)
    return features, weights.to(device), None if grid is None else torch.Size(grid)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [(16, 16), (7, 9), (1, 5), (23, 4), (1, 1)])
@pytest.mark.parametrize("grid", [None, (11, 13), (1, 1), (2, 9), (37, 3)])
def test_equals_resizing_all_channels(device, size, grid, channels_last, monkeypatch):
    monkeypatch.setattr(cosines, "_BLOCK", 1)  # blocks of 32 channels, the last one smaller
    features, weights, grid = scene(device, grid, size, channels_last=channels_last)
    centroids, cosine = compare(features, weights, grid)
    wanted_centroids, wanted_cosine = expected(features, weights, grid)
    assert centroids.dtype == cosine.dtype == torch.float32
    assert (centroids - wanted_centroids).abs().max() < 2e-6
    assert (cosine - wanted_cosine).abs().max() < 2e-6
    assert (centroids[:, 2] == 0).all()
    assert (cosine[:, 2] == 0).all()


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_works_in_float32(device, dtype):
    features, weights, grid = scene(device, (5, 6), (8, 8), dtype=dtype)
    before = features.clone()
    centroids, cosine = compare(features, weights, grid)
    wanted = expected(features, weights, grid)
    assert centroids.dtype == cosine.dtype == torch.float32
    assert (centroids - wanted[0]).abs().max() < 2e-6
    assert (cosine - wanted[1]).abs().max() < 2e-6
    assert torch.equal(features, before)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("scale", [1e-14, 1e14])
def test_cosines_do_not_depend_on_the_scale(device, scale):
    features, weights, grid = scene(device, None, (8, 8))
    wanted = compare(features, weights, grid).cosine
    assert torch.allclose(compare(features * scale, weights, grid).cosine, wanted, atol=1e-5)


@pytest.mark.usefixtures("engine")
def test_takes_features_that_require_gradients(device):
    features, weights, grid = scene(device, None, (8, 8))
    with torch.no_grad():
        result = compare(features.clone().requires_grad_(), weights, grid)
    assert torch.equal(result.cosine, compare(features, weights, grid).cosine)
