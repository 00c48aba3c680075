"""Volumes: pydensecrf's results with the features of its utils, sums over all pairs, and what is refused."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import assert_parity
from torch import Tensor

from dhr_refine import DenseCRFLattice, crf, dense_crf

pytestmark = pytest.mark.usefixtures("one_thread")

VOLUME, PROBS = torch.zeros(1, 3, 4, 5, 6, dtype=torch.uint8), torch.full((1, 2, 4, 5, 6), 0.5)


def smooth(channels: int, size: tuple[int, int, int], seed: int) -> Tensor:
    """Smooth noise (1, channels, D, H, W)."""
    coarse = torch.randn(1, channels, 4, 4, 5, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size, mode="trilinear")


def scene(channels: int, classes: int, size: tuple[int, int, int], seed: int = 0) -> tuple[Tensor, Tensor]:
    """A uint8 volume and probabilities."""
    volume = (90 * smooth(channels, size, seed) + 128).clamp(0, 255).byte()
    return volume, (2 * smooth(classes, size, seed + 1)).softmax(dim=1)


def original(volume, probs, sxy, srgb, gauss_sxy, compat, gauss_compat, iterations):
    """pydensecrf's class for any shape on one volume (C, D, H, W); deviations are (x, y, z)."""
    import pydensecrf.densecrf as densecrf
    from pydensecrf.utils import create_pairwise_bilateral, create_pairwise_gaussian, unary_from_softmax

    field = densecrf.DenseCRF(volume[0].numel(), len(probs))
    field.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(probs.numpy())))
    gaussian = create_pairwise_gaussian(gauss_sxy[::-1], tuple(volume.shape[1:]))
    field.addPairwiseEnergy(gaussian, compat=gauss_compat)
    bilateral = create_pairwise_bilateral(sxy[::-1], srgb, volume.numpy(), chdim=0)
    field.addPairwiseEnergy(bilateral, compat=compat)
    marginals = np.array(field.inference(iterations), np.float32)
    return torch.from_numpy(marginals).reshape(probs.shape)


@pytest.mark.parametrize(
    ("channels", "classes", "size"),
    [(1, 2, (11, 23, 31)), (3, 4, (9, 40, 28)), (1, 21, (6, 17, 19)), (3, 2, (1, 33, 20))],
)
@pytest.mark.parametrize("floating", [False, True])
def test_equals_pydensecrf(backend, channels, classes, size, floating):
    volume, probs = scene(channels, classes, size)
    if floating:
        volume = volume / 255 - 0.3
    srgb = tuple((13 + 3 * number) / (255 if floating else 1) for number in range(channels))
    sxy, gauss_sxy = (9.0, 7.0, 3.0), (2.0, 3.0, 1.0)
    expected = original(volume[0], probs[0], sxy, srgb, gauss_sxy, 5, 3, 6)
    result = dense_crf(
        volume, probs, sxy=sxy, srgb=srgb, gauss_sxy=gauss_sxy, compat=5, iterations=6, backend=backend
    )
    assert_parity(result[0].flatten(1, 2), expected.flatten(1, 2))
    assert (result - probs).abs().max() > 0.2


@settings(max_examples=25, deadline=None)
@given(
    st.tuples(st.integers(1, 7), st.integers(1, 9), st.integers(1, 9)),
    st.tuples(*[st.sampled_from([0.4, 1.0, 3.0, 50.0])] * 3),
    st.sampled_from([2.0, 20.0]),
    st.integers(0, 3),
    st.integers(0, 2**31),
)
def test_equals_pydensecrf_on_tiny_volumes(size, sxy, srgb, iterations, seed):
    generator = torch.Generator().manual_seed(seed)
    volume = torch.randint(0, 256, (1, 1, *size), generator=generator, dtype=torch.uint8)
    probs = torch.rand(1, 3, *size, generator=generator).softmax(dim=1)
    expected = original(volume[0], probs[0], sxy, (srgb,), sxy[::-1], 4, 3, iterations)
    for backend in ("numba", "torch"):
        result = dense_crf(
            volume,
            probs,
            sxy=sxy,
            srgb=srgb,
            gauss_sxy=sxy[::-1],
            iterations=iterations,
            backend=backend,
        )
        torch.testing.assert_close(result[0], expected, atol=1e-4, rtol=0)


def test_is_near_mean_field_over_all_pairs(backend):
    """The lattice is an approximation: the change by the CRF is that of exact kernels to some percent."""
    size, sxy, srgb = (5, 9, 11), (4.0, 3.0, 2.0), 30.0
    volume, probs = scene(1, 3, size)
    grid = torch.stack(torch.meshgrid(*map(torch.arange, size), indexing="ij")).flatten(1).double()
    positions = grid / torch.tensor(sxy[::-1])[:, None]
    messages = []
    for features in (positions, torch.cat([positions, volume[0].flatten(1) / srgb])):
        kernel = torch.exp(-(torch.cdist(features.T, features.T) ** 2) / 2)
        norm = kernel.sum(1).rsqrt()
        messages.append(norm[:, None] * kernel * norm)
    logs = probs[0].flatten(1).double().log()
    marginals = logs.softmax(dim=0)
    for _ in range(3):
        marginals = (logs + 3 * marginals @ messages[0] + 4 * marginals @ messages[1]).softmax(dim=0)
    result = dense_crf(volume, probs, sxy=sxy, srgb=srgb, gauss_sxy=sxy, iterations=3, backend=backend)
    error = (result[0].flatten(1) - marginals).abs().mean()
    assert error < 0.08 * (probs[0].flatten(1) - marginals).abs().mean()


def test_huge_deviations_take_the_mean_of_all_pixels(backend):
    volume, probs = scene(3, 3, (5, 14, 21))
    expected = probs.double()
    for _ in range(10):
        mean = expected.mean(dim=(2, 3, 4), keepdim=True)
        expected = (probs.double().log() + (4 + 3) * mean).softmax(dim=1)
    result = dense_crf(volume, probs, sxy=1e6, srgb=1e6, gauss_sxy=1e6, backend=backend)
    torch.testing.assert_close(result.double(), expected, atol=1e-3, rtol=0)


def test_deviations_of_z_keep_slices_apart(backend):
    """With a deviation of next to nothing along z, each slice is an image of its own to the kernels."""
    volume, probs = scene(1, 3, (4, 15, 16))
    one = dense_crf(volume, probs, sxy=(6, 6, 0.01), gauss_sxy=(1, 1, 0.01), srgb=13, backend=backend)
    other = probs.clone()
    other[:, :, 1:] = other[:, :, 1:].flip(1)
    changed = dense_crf(volume, other, sxy=(6, 6, 0.01), gauss_sxy=(1, 1, 0.01), srgb=13, backend=backend)
    torch.testing.assert_close(changed[:, :, 0], one[:, :, 0], atol=1e-5, rtol=0)
    mixed = dense_crf(volume, other, sxy=6, gauss_sxy=1, srgb=13, backend=backend)
    assert (mixed[:, :, 0] - one[:, :, 0]).abs().max() > 0.1


@pytest.mark.parametrize("floating", [False, True])
def test_batch_equals_single_volumes(backend, floating):
    parts = [scene(2, 3, (5, 12, 13), seed) for seed in (0, 2, 4)]
    volumes, probs = (torch.cat(each) for each in zip(*parts, strict=True))
    volumes = volumes / 3 if floating else volumes
    kept = volumes.clone(), probs.clone()
    result = dense_crf(volumes, probs, sxy=5, srgb=9, backend=backend)
    for index in range(3):
        own = slice(index, index + 1)
        alone = dense_crf(volumes[own], probs[own], sxy=5, srgb=9, backend=backend)
        torch.testing.assert_close(result[own], alone, atol=1e-6, rtol=0)
    assert torch.equal(volumes, kept[0])
    assert torch.equal(probs, kept[1])


def test_two_threads(set_threads):
    volume, probs = (part.repeat(2, 1, 1, 1, 1) for part in scene(2, 3, (5, 12, 13)))
    results = []
    for threads in (1, 2):
        set_threads(threads)
        for count in (1, 2):
            results.append(dense_crf(volume[:count], probs[:count], sxy=5, srgb=9, backend="numba")[0])
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], atol=1e-5, rtol=0)


def test_layouts_types_and_few_classes(backend):
    volume, probs = scene(1, 4, (5, 12, 13))
    expected = dense_crf(volume, probs, sxy=5, srgb=9, backend=backend)
    turned = volume.permute(0, 1, 4, 3, 2).contiguous().permute(0, 1, 4, 3, 2)
    last = probs.movedim(1, -1).contiguous().movedim(-1, 1)
    assert torch.equal(dense_crf(turned, last, sxy=5, srgb=9, backend=backend), expected)
    half = dense_crf(volume, probs.half(), sxy=5, srgb=9, backend=backend)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float(), expected, atol=4e-3, rtol=0)
    padded = torch.cat([probs, torch.zeros_like(probs)], dim=1)
    few = dense_crf(volume, padded, sxy=5, srgb=9, min_prob=1e-3, backend=backend)
    torch.testing.assert_close(few[:, :4], expected, atol=1e-5, rtol=0)
    assert not few[:, 4:].any()
    one = probs.new_ones(1, 5, 12, 13, 1).movedim(-1, 1)
    assert torch.equal(dense_crf(volume, one, backend=backend), one)
    assert dense_crf(volume[:0], probs[:0], backend=backend).shape == (0, 4, 5, 12, 13)


def test_runs_on_the_device(device):
    volume, probs = scene(1, 3, (4, 9, 10))
    result = dense_crf(volume.to(device), probs.to(device), sxy=5, srgb=9, backend="torch")
    assert result.device == probs.to(device).device
    expected = dense_crf(volume, probs, sxy=5, srgb=9, backend="torch")
    torch.testing.assert_close(result.cpu(), expected, atol=1e-4, rtol=0)


def test_lattices_of_positions_are_shared_and_told_apart(backend):
    volume, probs = scene(1, 2, (4, 6, 6))
    results = []
    for fresh in (False, True):
        crf.lattice.gaussian_lattices.clear()
        # The same numbers as an image, as a volume of another shape, as one of other deviations.
        for other, deviation in ((volume[:, 0], 1), (volume.mT.flip(2)[:, :, :, :3], 1), (volume, (1, 1, 2))):
            if fresh:
                crf.lattice.gaussian_lattices.clear()
            mask = (
                probs[:, :, 0]
                if other.ndim == 4
                else probs[..., : other.shape[3], :].reshape(1, 2, *other.shape[2:])
            )
            image = other[:, :1] if other.ndim == 4 else other
            results.append(dense_crf(image, mask, gauss_sxy=deviation, backend=backend))
    for kept, fresh in zip(results[:3], results[3:], strict=True):
        assert torch.equal(kept, fresh)


def test_floating_volumes_that_hardly_differ_are_warned_about():
    with pytest.warns(UserWarning, match="images span 1 but srgb is 3, so that colours hardly count"):
        dense_crf(VOLUME.float() + torch.linspace(0, 1, 6), PROBS)


@pytest.mark.parametrize(
    ("volume", "probs", "options", "message"),
    [
        (
            VOLUME,
            PROBS,
            {"backend": "triton"},
            "'torch' or 'numba' for volumes (B, C, D, H, W), got 'triton'",
        ),
        (
            VOLUME,
            PROBS,
            {"backend": "pydensecrf"},
            "for volumes (B, C, D, H, W), got 'pydensecrf': pass back",
        ),
        (
            VOLUME,
            PROBS,
            {"lattice": DenseCRFLattice(VOLUME[:, :, 0], backend="torch")},
            "lattice must be None for volumes (B, C, D, H, W), whose lattices are not kept: leave it out",
        ),
        (
            VOLUME[0],
            PROBS[0],
            {},
            "probs has batch size 2 but images has 3: pass the same images in both, or, of a volume "
            "(C, D, H, W), images[None] and probs[None]",
        ),
        (
            VOLUME,
            PROBS[0],
            {},
            "images has 5 axes but probs has 4: pass volumes (B, C, D, H, W) and (B, K, D,",
        ),
        (
            VOLUME[0],
            PROBS,
            {},
            "images has 4 axes but probs has 5: pass volumes (B, C, D, H, W) and (B, K, D,",
        ),
        (
            VOLUME[None],
            PROBS,
            {},
            "(B, C, H, W), (C, H, W) or (B, C, D, H, W), got a torch.uint8 tensor of s",
        ),
        (
            VOLUME,
            PROBS[None],
            {},
            "(B, K, H, W), (K, H, W) or (B, K, D, H, W), got a torch.float32 tensor of",
        ),
        (VOLUME.movedim(1, -1), PROBS, {}, "bring the channels to the front with images.movedim(-1, -4)"),
        (VOLUME[:, :, :0], PROBS[:, :, :0], {}, "(B, C, D, H, W) with D, H and W above 0, got a torch.uint8"),
        (VOLUME, PROBS[:, :, :2], {}, "probs has size (2, 5, 6) but images has (4, 5, 6): resize probs with"),
        (VOLUME, PROBS[:, :1], {}, "one channel, got a torch.float32 tensor of shape (1, 1, 4, 5, 6), but a"),
        (VOLUME, PROBS[:, :0], {}, "probs must have at least one class, got a torch.float32 tensor of shape"),
        (VOLUME, -PROBS, {}, "probs must not be negative, got -0.5: pass probs.exp() for logarithms"),
        (VOLUME, PROBS, {"sxy": (1, 2)}, "sxy must be a number or three, (x, y, z), got tuple (1, 2)"),
        (VOLUME, PROBS, {"gauss_sxy": [1]}, "gauss_sxy must be a number or three, (x, y, z), got list [1]"),
        (VOLUME, PROBS, {"gauss_sxy": (1, 2, 1e-9)}, "the lattice of gauss_sxy=(1, 2, 1e-09) has"),
        (VOLUME, PROBS, {"sxy": (1e-9, 2, 1)}, "the lattice of sxy=(1e-09, 2, 1) and srgb=3 has"),
    ],
)
def test_errors(volume, probs, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        dense_crf(volume, probs, **options)


@pytest.mark.parametrize("options", [{"gauss_sxy": (1, 2, 1e-9)}, {"sxy": (1e-9, 2, 1)}, {"srgb": 1e-5}])
def test_the_fix_in_the_error_works(options):
    with pytest.raises(ValueError, match=r"e\.g\. ") as error:
        dense_crf(VOLUME, PROBS, **options)
    fix = str(error.value).split("e.g. ")[1].replace(" and ", ", ")
    assert dense_crf(VOLUME, PROBS, **eval(f"dict({fix})")).shape == PROBS.shape


def test_runs_in_a_compiled_function():
    volume, probs = scene(1, 2, (3, 6, 7))
    compiled = torch.compile(lambda *pair: dense_crf(*pair, sxy=5, srgb=9, backend="torch"), backend="eager")
    assert torch.equal(compiled(volume, probs), dense_crf(volume, probs, sxy=5, srgb=9, backend="torch"))


def test_lattices_refuse_volumes():
    with pytest.raises(ValueError, match="lattices of volumes are not kept, call dense_crf without lattice"):
        DenseCRFLattice(VOLUME)
