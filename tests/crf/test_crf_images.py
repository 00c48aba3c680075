"""Images of any channels and types, and deviations by axis: pydensecrf's results throughout."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity import assert_parity
from photos import photo, scores

from dhr_refine import DenseCRFLattice, dense_crf

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 71, 93
IMAGE, PROBS = photo("astronaut", *SIZE), scores(4, *SIZE)


def channels(count):
    """(count, H, W) uint8."""
    return torch.cat([IMAGE, IMAGE.flip(0), IMAGE.flip(1)])[:count]


def general(image, probs, sxy, srgb, *, flat=False, swap=False, compat=4):
    """pydensecrf with the features of its create_pairwise_bilateral; ``flat``: its class for any shape."""
    import pydensecrf.densecrf as densecrf
    from pydensecrf.utils import create_pairwise_bilateral, create_pairwise_gaussian, unary_from_softmax

    classes, height, width = probs.shape
    model = (
        densecrf.DenseCRF(height * width, classes) if flat else densecrf.DenseCRF2D(width, height, classes)
    )
    model.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(probs.numpy())))
    if flat:
        model.addPairwiseEnergy(create_pairwise_gaussian((1, 1), (height, width)), compat=3)
    else:
        model.addPairwiseGaussian(sxy=1, compat=3)
    features = create_pairwise_bilateral(sxy[::-1], srgb, image.permute(1, 2, 0).numpy(), chdim=2)
    if swap:
        features[[0, 1]] = features[[1, 0]]
    model.addPairwiseEnergy(np.ascontiguousarray(features), compat=compat)
    return torch.from_numpy(np.array(model.inference(10), np.float32)).reshape(probs.shape)


def two_d(image, probs, sxy, srgb, gauss_sxy):
    """pydensecrf's own two kernels, with the tuples that it takes."""
    import pydensecrf.densecrf as densecrf
    from pydensecrf.utils import unary_from_softmax

    classes, height, width = probs.shape
    model = densecrf.DenseCRF2D(width, height, classes)
    model.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(probs.numpy())))
    model.addPairwiseGaussian(sxy=gauss_sxy, compat=3)
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    model.addPairwiseBilateral(sxy=sxy, srgb=srgb, rgbim=pixels, compat=4)
    return torch.from_numpy(np.array(model.inference(10), np.float32)).reshape(probs.shape)


EVERY = ("torch", "numba", "pydensecrf", "auto")


@pytest.mark.parametrize("backend", EVERY)
@pytest.mark.parametrize(
    ("sxy", "srgb", "gauss_sxy"),
    [
        ((80, 80), (13, 13, 13), (3, 3)),
        ((40, 90), (5, 13, 30), (1, 4)),
        ((90, 25.5), (30, 3.5, 8), (3, 0.7)),
        ((67, 67), (3, 30, 3), (1, 1)),
    ],
)
def test_deviations_by_axis_as_pydensecrf_takes_them(backend, sxy, srgb, gauss_sxy):
    expected = two_d(IMAGE, PROBS, sxy, srgb, gauss_sxy)
    forms = (tuple, list, np.array, lambda entries: torch.tensor(entries, dtype=torch.float64))
    for form in forms:
        options = {"sxy": form(sxy), "srgb": form(srgb), "gauss_sxy": form(gauss_sxy)}
        torch.testing.assert_close(
            dense_crf(IMAGE, PROBS, backend=backend, **options), expected, atol=1e-4, rtol=0
        )


def test_equal_deviations_are_one_number(backend):
    expected = dense_crf(IMAGE, PROBS, sxy=80, srgb=13, gauss_sxy=3, backend=backend)
    lattice = DenseCRFLattice(
        IMAGE, sxy=(80, 80.0), srgb=np.float32([13] * 3), gauss_sxy=[3, 3], backend=backend
    )
    assert "sxy=80, srgb=13.0, gauss_sxy=3" in repr(lattice)
    options = {"srgb": (13, 13, 13), "gauss_sxy": np.int64(3), "lattice": lattice}
    assert torch.equal(dense_crf(IMAGE, PROBS, sxy=80, **options), expected)
    with pytest.raises(
        ValueError,
        match=re.escape("lattice was built with sxy=80 but dense_crf was called with sxy=(80, 81)"),
    ):
        dense_crf(IMAGE, PROBS, sxy=(80, 81), **options)


def test_x_comes_first(backend):
    # A kernel that is wide along x alone fills the row, not the column.
    image, probs = torch.zeros(3, 31, 31, dtype=torch.uint8), torch.full((2, 31, 31), 0.5)
    probs[0, 15, 15], probs[1, 15, 15] = 1, 0
    result = dense_crf(image, probs, sxy=(20, 0.5), gauss_compat=0, compat=50, iterations=1, backend=backend)[
        0
    ]
    assert result[15, 25] > result[25, 15] + 0.01
    turned = dense_crf(image, probs, sxy=(0.5, 20), gauss_compat=0, compat=50, iterations=1, backend=backend)[
        0
    ]
    assert turned[25, 15] > turned[15, 25] + 0.01


@pytest.mark.parametrize("backend", ["torch", "numba", "pydensecrf"])
@pytest.mark.parametrize("count", [1, 2, 4, 5])
@pytest.mark.parametrize("scale", [None, (0, 1), (0, 1 / 255), (-100, 1 / 50)])
def test_any_number_of_channels_as_create_pairwise_bilateral(backend, count, scale):
    image, unit = channels(count), 1
    if scale:
        image, unit = (image.float() + scale[0]) * scale[1], scale[1]
    srgb = tuple(unit * (10 + 5 * channel) for channel in range(count))
    expected = general(image, PROBS, (40, 90), srgb)
    options = {"sxy": (40, 90), "srgb": srgb, "backend": backend}
    assert_parity(dense_crf(image, PROBS, **options), expected)
    batch = dense_crf(torch.stack([image, image.flip(2)]), torch.stack([PROBS, PROBS.flip(2)]), **options)
    torch.testing.assert_close(batch[0], expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("backend", ["torch", "numba", "pydensecrf"])
@pytest.mark.parametrize("unit", [1, 1 / 255])
def test_floating_point_colours_are_those_of_uint8(backend, unit):
    expected = dense_crf(IMAGE, PROBS, backend="pydensecrf")
    result = dense_crf(IMAGE.float() * unit, PROBS, srgb=3 * unit, backend=backend)
    assert_parity(result, expected)
    assert_parity(result, general(IMAGE.float() * unit, PROBS, (67, 67), (3 * unit,) * 3, swap=True))


def test_the_order_of_features_of_create_pairwise_bilateral():
    # For three channels it is that of the image turned over, as the page on the dense CRF says.
    expected = general(IMAGE.float(), PROBS, (40, 90), (5, 13, 30), flat=True)
    result = dense_crf(IMAGE.float().mT, PROBS.mT, sxy=(90, 40), srgb=(5, 13, 30)).mT
    assert_parity(result, expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_images_of_any_floating_point_type(dtype):
    image = IMAGE.to(dtype)
    assert_parity(dense_crf(image, PROBS), dense_crf(image.float(), PROBS, backend="pydensecrf"))


@settings(max_examples=15)
@given(
    count=st.integers(1, 6),
    height=st.integers(1, 20),
    width=st.integers(1, 20),
    floating=st.booleans(),
    offset=st.floats(-500, 500),
    seed=st.integers(0, 1000),
)
def test_any_image(count, height, width, floating, offset, seed):
    generator = torch.Generator().manual_seed(seed)
    image = torch.randint(0, 256, (count, height, width), dtype=torch.uint8, generator=generator)
    if floating:
        image = image + offset + torch.rand(image.shape, generator=generator)
    srgb = tuple(range(20, 20 + count))
    options = {"sxy": (9, 5), "srgb": srgb, "iterations": 5}
    probs = scores(3, height, width, seed=seed)
    expected = dense_crf(image, probs, backend="pydensecrf", **options)
    for backend in ("torch", "numba"):
        result = dense_crf(image, probs, backend=backend, **options)
        torch.testing.assert_close(result, expected, atol=1e-3, rtol=0)


@pytest.mark.parametrize("image", [IMAGE.float(), channels(4)])
def test_a_lattice_of_any_image(image, backend):
    lattice = DenseCRFLattice(image, backend=backend)
    whole = dense_crf(image, PROBS, backend=backend)
    assert torch.equal(dense_crf(image, PROBS, lattice=lattice), whole)
    batch = dense_crf(torch.stack([image, image.flip(2)]), torch.stack([PROBS, PROBS]), backend=backend)
    assert torch.allclose(batch[0], whole, atol=1e-6)
    for other in (image + 1, image[:2], image.to(torch.uint8)[:3]):
        with pytest.raises(ValueError, match="lattice was built for other images of the same size"):
            dense_crf(other, PROBS, lattice=lattice)


@pytest.mark.parametrize("images", [torch.zeros(0, 3, 8, 9), torch.zeros(0, 4, 8, 9, dtype=torch.uint8)])
def test_no_images_of_any_kind(images):
    assert dense_crf(images, torch.zeros(0, 2, 8, 9)).shape == (0, 2, 8, 9)
    assert DenseCRFLattice(images).shape == (0, 8, 9)


def test_images_stay_untouched():
    image = (IMAGE.float() / 255).movedim(0, 2).contiguous().movedim(2, 0).requires_grad_()
    before = image.detach().clone()
    result = dense_crf(image, PROBS, srgb=0.05)
    assert torch.equal(image.detach(), before)
    assert not result.requires_grad
    assert torch.equal(result, dense_crf(before.contiguous(), PROBS, srgb=0.05))


def test_too_many_channels_or_too_fine():
    few, small = PROBS[:, :8, :9], torch.rand(7, 8, 9)
    with pytest.raises(ValueError, match=r"the lattice of sxy=67 and .*: pass fewer channels$"):
        dense_crf(torch.rand(40, 8, 9), few, srgb=0.01)
    for image, srgb in ((small, 0.001), (small * 1e30, 3), (small * 1e30, 1e-300), (small - 5, 1e-5)):
        with pytest.raises(
            ValueError, match=r"the lattice of .*: pass larger ones, e.g. sxy=67 and"
        ) as caught:
            dense_crf(image, few, srgb=srgb)
        mend = float(str(caught.value).split("srgb=")[-1])
        assert dense_crf(image, few, srgb=mend).isfinite().all()


GREY = (
    r"images span .* but srgb is 3, so that colours hardly count: srgb is .* of the images; pass srgb / 255"
)


@pytest.mark.parametrize("image", [IMAGE / 255, (IMAGE / 255 - 0.45) / 0.22, (IMAGE / 255)[:1]])
@pytest.mark.parametrize(
    "call", [lambda image: dense_crf(image, PROBS), lambda image: DenseCRFLattice(image)]
)
def test_grey_levels_where_there_are_none(image, call):
    with pytest.warns(UserWarning, match=GREY) as caught:
        call(image)
    assert caught[0].filename == __file__


@pytest.mark.parametrize(
    ("image", "srgb"),
    [
        (IMAGE.float(), 3),
        (IMAGE / 255, 0.9),
        (100 + IMAGE / 60, 3),  # grey levels of little contrast
        (torch.full((3, *SIZE), 0.5), 3),  # one colour
        (IMAGE / 100, 1),
    ],
)
def test_no_warning_where_the_units_fit(image, srgb):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dense_crf(image, PROBS, srgb=srgb, iterations=1)


@settings(max_examples=50)
@given(
    low=st.floats(-1000, 1000),
    span=st.floats(0, 500),
    count=st.integers(1, 5),
    srgb=st.floats(5, 50),
    seed=st.integers(0, 1000),
)
def test_every_vertex_has_a_key(low, span, count, srgb, seed):
    # Keys lie below the number of cells, those of neighbours and of the vertices without a pixel too.
    from dhr_refine.crf.backends import torch as backend
    from dhr_refine.crf.geometry import bilateral_geometry

    generator = torch.Generator().manual_seed(seed)
    image = low + span * torch.rand(1, count, 5, 6, generator=generator)
    image[..., 0, 0], image[..., 0, 1] = low, low + span
    extents = [(low, low + span)] * count
    geometry = bilateral_geometry(5, 6, (3, 4), srgb, channels=count, extents=extents)
    keys, _ = backend._embed(geometry, image)
    step = int(geometry.strides.sum())
    every = torch.cat([keys.flatten(), torch.from_numpy(geometry.phantom_keys(30)).flatten()])
    for stride in (0, *geometry.strides.tolist()):
        for moved in (every + step - stride, every - step + stride):
            assert moved.min() >= 0
            assert moved.max() < geometry.cells
