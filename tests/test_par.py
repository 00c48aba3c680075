"""Tests of PAR against slow NumPy loops written from its formulas."""

from __future__ import annotations

import math
import re

import boundary_reference as reference
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import photo, scores

from dhr_refine import pamr, par

pytestmark = pytest.mark.usefixtures("one_thread")


def expect(image, probs, **options):
    return torch.from_numpy(reference.par(image.numpy(), probs.numpy(), **options))


@pytest.mark.parametrize("size", [(40, 31), (33, 20), (5, 7), (1, 9), (9, 1), (1, 1)])
@pytest.mark.parametrize("name", ["astronaut", "coffee"])
def test_equals_the_formulas(name, size):
    height, width = size
    image, probs = photo(name, 60, 60)[:, :height, :width], scores(3, height, width)
    expected = expect(image, probs, iterations=3)
    torch.testing.assert_close(par(image, probs, iterations=3).double(), expected, atol=1e-5, rtol=0)


def test_ten_rounds_equal_the_formulas():
    image, probs = photo("rocket", 24, 30), scores(4, 24, 30)
    torch.testing.assert_close(par(image, probs).double(), expect(image, probs), atol=1e-5, rtol=0)


@settings(max_examples=20, deadline=None)
@given(
    dilations=st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple),
    iterations=st.integers(0, 3),
    colour=st.floats(0.1, 2),
    position=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_any_options(dilations, iterations, colour, position, seed):
    generator = torch.Generator().manual_seed(seed)
    image, probs = torch.rand(2, 3, 7, 8, generator=generator)
    options = {"iterations": iterations, "dilations": dilations}
    expected = expect(image, probs, **options, w1=colour, w2=position)
    result = par(image, probs, **options, colour=colour, position=position)
    # Sums grow to 2 ** 3 at the largest position.
    torch.testing.assert_close(result.double(), expected, atol=1e-5, rtol=1e-5)


def test_a_pixel_unlike_all_its_neighbours_loses_no_digits():
    """Differences of hundreds of standard deviations, whose squares differ in digits that float32 lacks."""
    generator = torch.Generator().manual_seed(0)
    image = 0.5 + 1e-3 * torch.rand(3, 12, 12, generator=generator)
    image[:, 6, 6] = 1.0
    probs = torch.rand(3, 12, 12, generator=generator)
    options = {"iterations": 1, "dilations": (1, 2)}
    expected = expect(image, probs, **options)
    torch.testing.assert_close(par(image, probs, **options).double(), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("scale", [0.5, 0.3, 1.0])
def test_scale_works_at_a_lower_resolution(scale):
    image, probs = photo("coffee", 31, 40), scores(3, 31, 40)
    small = int(31 * scale), int(40 * scale)
    shrunk = [torch.from_numpy(reference.resize(v.double().numpy(), *small)) for v in (image, probs)]
    expected = reference.resize(expect(*shrunk, iterations=2).numpy(), 31, 40)
    result = par(image, probs, iterations=2, scale=scale)
    torch.testing.assert_close(result.double(), torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_half_scale_is_what_the_codebases_call():
    image, probs = photo("coffee", 32, 41)[None], scores(3, 32, 41)[None]

    def shrink(values):
        return F.interpolate(values.float(), (16, 20), mode="bilinear", align_corners=False)

    expected = F.interpolate(
        par(shrink(image), shrink(probs)), (32, 41), mode="bilinear", align_corners=False
    )
    torch.testing.assert_close(par(image, probs, scale=0.5), expected, atol=1e-5, rtol=0)


def test_tiny_images_keep_a_pixel_at_any_scale():
    assert par(torch.zeros(3, 2, 1), torch.ones(1, 2, 1), scale=0.01, iterations=0).tolist() == [[[1], [1]]]


def test_any_normalisation_gives_the_same():
    image, probs = photo("coffee", 40, 50), scores(3, 40, 50)
    expected = par(image, probs)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    unit = image.float() / 255
    for same in (unit, (unit - mean[:, None, None]) / std[:, None, None], image.float() * 10 - 500):
        torch.testing.assert_close(par(same, probs), expected, atol=1e-4, rtol=0)


def test_is_not_pamr():
    image, probs = photo("coffee", 60, 80), scores(3, 60, 80)
    agreement = (par(image, probs).argmax(0) == pamr(image, probs).argmax(0)).float().mean()
    assert 0.8 < agreement < 0.999


def test_sums_grow_by_the_weight_of_the_position():
    result = par(photo("rocket", 40, 50), scores(5, 40, 50), iterations=4, position=0.1)
    torch.testing.assert_close(result.sum(dim=0), torch.full((40, 50), 1.1**4))
    result = par(photo("rocket", 40, 50), scores(5, 40, 50), position=0)
    torch.testing.assert_close(result.sum(dim=0), torch.ones(40, 50))


def test_constant_image_averages_by_position_alone():
    probs = scores(2, 20, 30)
    for grey in (0.0, 0.1):
        result = par(torch.full((3, 20, 30), grey), probs, iterations=1, dilations=(1,))
        expected = expect(torch.zeros(3, 20, 30), probs, iterations=1, dilations=(1,))
        torch.testing.assert_close(result.double(), expected, atol=1e-6, rtol=0)


def test_just_below_zero_counts_as_zero():
    image, probs = photo("coffee", 40, 50), scores(3, 40, 50)
    probs = (probs - 0.3).relu() - 1e-3
    assert torch.equal(par(image, probs), par(image, probs.relu()))


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_batch_equals_single_images(scale):
    images = torch.stack([photo("coffee", 40, 50), photo("astronaut", 40, 50)])
    probs = scores(3, 40, 50, batch=2)
    result = par(images, probs, scale=scale)
    for image, prob, one in zip(images, probs, result, strict=True):
        assert torch.equal(par(image, prob, scale=scale), one)


def test_keeps_dtype_and_device(dtype, device):
    image, probs = photo("coffee", 30, 40).to(device), scores(3, 30, 40).to(device, dtype)
    result = par(image, probs, scale=0.5)
    assert (result.dtype, result.device, result.shape) == (dtype, probs.device, probs.shape)
    torch.testing.assert_close(result.float(), par(image, probs.float(), scale=0.5), atol=6e-3, rtol=0)


def test_far_dilations_count_as_far_as_they_are():
    """Beyond the image all neighbours are the border, but the positions know how far they are."""
    generator = torch.Generator().manual_seed(0)
    image, probs = torch.rand(2, 3, 6, 7, generator=generator)
    for far in (9, 30, 10**6):
        result = par(image, probs, dilations=(1, far), iterations=2, position=0.5)
        expected = expect(image, probs, dilations=(1, far), iterations=2, w2=0.5)
        torch.testing.assert_close(result.double(), expected, atol=1e-5, rtol=0)
    assert par(image, probs, dilations=(1, 10**400)).isfinite().all()


def test_many_rounds_and_strange_colours_stay_finite():
    generator = torch.Generator().manual_seed(0)
    probs = torch.rand(2, 9, 9, generator=generator)
    image = torch.full((3, 9, 9), 1e4)
    image[:, 4, 4] = -1e4
    for one in (image, image + torch.rand(3, 9, 9, generator=generator).clamp(max=0)):
        assert par(one, probs, iterations=1000, position=0.05, colour=0.001).isfinite().all()


def test_empty_batch():
    assert par(torch.zeros(0, 3, 8, 9), torch.zeros(0, 4, 8, 9), scale=0.5).shape == (0, 4, 8, 9)


IMAGE, PROBS = torch.zeros(3, 8, 9), torch.full((2, 8, 9), 0.5)


@pytest.mark.parametrize(
    ("images", "probs", "error", "message"),
    [
        (1, PROBS, TypeError, "images must be a torch.Tensor of shape (B, 3, H, W) or (3, H, W), got"),
        (IMAGE.long(), PROBS, TypeError, "images must be uint8 or floating point, got a torch.int64"),
        (IMAGE * math.nan, PROBS, ValueError, "images holds NaN or infinity: find the layer"),
        (IMAGE - math.inf, PROBS, ValueError, "images holds NaN or infinity: find the layer"),
        (IMAGE - 2e4, PROBS, ValueError, "images must lie in [-10000, 10000], got [-2e+04, -2e+04]: scale"),
        (IMAGE, PROBS[:, :4], ValueError, "probs has size (4, 9) but images has (8, 9): resize probs with"),
        (IMAGE, PROBS - 1, ValueError, "probs must not be negative, got -0.5"),
        (IMAGE, PROBS * math.nan, ValueError, "probs holds NaN or infinity"),
        (IMAGE, PROBS.double() * 1e300, ValueError, "probs holds numbers too large for float32 arithmetic"),
    ],
)
def test_errors_of_tensors(images, probs, error, message):
    with pytest.raises(error, match=re.escape(message)):
        par(images, probs)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"iterations": -1}, ValueError, "iterations must be an int of at least 0, got -1: pass"),
        (
            {"iterations": 10**400},
            ValueError,
            "float32, each round multiplies their sum by 1.01: pass at most 8986, or position=0",
        ),
        (
            {"dilations": (0, 1)},
            ValueError,
            "dilations must be a non-empty tuple of positive ints, got (0, 1)",
        ),
        ({"colour": 0.0}, ValueError, "colour must lie in [0.001, 1000.0], got 0.0: pass a number"),
        ({"position": -0.1}, ValueError, "position must lie in [0.0, 1.0], got -0.1: pass a number"),
        ({"scale": 0.0}, ValueError, "scale must lie in [1e-06, 1.0], got 0.0: pass a number"),
        ({"scale": 2}, ValueError, "scale must lie in [1e-06, 1.0], got 2: pass a number"),
        ({"scale": "half"}, TypeError, "scale must be a number, got str 'half': pass a Python float"),
    ],
)
def test_errors_of_options(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        par(IMAGE, PROBS, **options)


def test_the_most_rounds_that_an_error_names_are_fine():
    image, probs = IMAGE[:, :2, :2], PROBS[:, :2, :2]
    assert par(image, probs, iterations=8986, dilations=(1,)).isfinite().all()
