"""Tests of pixel-adaptive mask refinement, against its straightforward form with all neighbours copied."""

from __future__ import annotations

import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import photo, scores

from dhr_refine import pamr

pytestmark = pytest.mark.usefixtures("one_thread")

DILATIONS = (1, 2, 4, 8, 12, 24)


def unfold_form(images, probs, iterations=10, dilations=DILATIONS):
    """The equations as they stand, in float64, with one copy per neighbour."""

    def neighbours(values, centre):
        height, width = values.shape[-2:]
        shifted = []
        for dilation in dilations:
            padded = F.pad(values, [dilation] * 4, mode="replicate")
            columns = F.unfold(padded, 3, dilation=dilation)
            columns = columns.view(*values.shape[:2], 9, height, width)
            keep = [k for k in range(9) if centre or k != 4]
            shifted.append(columns[:, :, keep])
        return torch.cat(shifted, dim=2)  # (B, C, neighbours, H, W)

    images, probs = images.double(), probs.double()
    deviation = neighbours(images, True).std(dim=2, keepdim=True)
    difference = (neighbours(images, False) - images[:, :, None]).abs()
    weights = (-difference / (1e-8 + 0.1 * deviation)).mean(dim=1, keepdim=True).softmax(dim=2)
    for _ in range(iterations):
        probs = (neighbours(probs, False) * weights).sum(dim=2)
    return probs


@pytest.mark.parametrize("size", [(60, 81), (33, 20), (5, 7), (1, 9), (9, 1), (1, 1)])
@pytest.mark.parametrize("classes", [1, 4])
def test_equals_the_straightforward_form(size, classes):
    height, width = size
    image = photo("astronaut", 90, 90)[None, :, :height, :width].float() / 255
    probs = scores(classes, height, width, batch=1)
    expected = unfold_form(image, probs)
    torch.testing.assert_close(pamr(image, probs).double(), expected, atol=1e-5, rtol=0)


@settings(max_examples=20)
@given(
    dilations=st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple),
    iterations=st.integers(0, 4),
    seed=st.integers(0, 1000),
)
def test_any_dilations(dilations, iterations, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(2, 3, 11, 13, generator=generator)
    probs = torch.rand(2, 3, 11, 13, generator=generator)
    expected = unfold_form(images, probs, iterations, dilations)
    result = pamr(images, probs, iterations=iterations, dilations=dilations)
    torch.testing.assert_close(result.double(), expected, atol=1e-5, rtol=0)


def test_uint8_equals_unit_range():
    image, probs = photo("coffee", 40, 50), scores(3, 40, 50)
    assert torch.equal(pamr(image, probs), pamr(image.float() / 255, probs))


def test_one_channel_is_the_second_of_two():
    image, probs = photo("coffee", 40, 50), scores(2, 40, 50)[1:]
    torch.testing.assert_close(pamr(image, probs)[0], pamr(image, torch.cat([1 - probs, probs]))[1])


def test_just_below_zero_counts_as_zero():
    image, probs = photo("coffee", 40, 50), scores(3, 40, 50)
    probs = (probs - 0.3).relu() - 1e-3
    before = probs.clone()
    assert torch.equal(pamr(image, probs), pamr(image, probs.relu()))
    assert torch.equal(probs, before)


def test_constant_image_averages_uniformly():
    probs = scores(2, 20, 30)
    result = pamr(torch.zeros(3, 20, 30), probs, iterations=1, dilations=(1,))
    padded = F.pad(probs, [1] * 4, mode="replicate")
    around = F.avg_pool2d(padded, 3, stride=1) * 9 / 8 - probs / 8
    torch.testing.assert_close(result, around)


def test_keeps_sums_and_bounds():
    probs = scores(5, 40, 50)
    result = pamr(photo("rocket", 40, 50), probs)
    torch.testing.assert_close(result.sum(dim=0), torch.ones(40, 50))
    assert result.min() >= probs.min() - 1e-6
    assert result.max() <= probs.max() + 1e-6


def test_batch_equals_single_images():
    images = torch.stack([photo("coffee", 40, 50), photo("astronaut", 40, 50)])
    probs = scores(3, 40, 50, batch=2)
    result = pamr(images, probs)
    for image, prob, one in zip(images, probs, result, strict=True):
        assert torch.equal(pamr(image, prob), one)


def test_keeps_dtype_and_device(dtype, device):
    image, probs = photo("coffee", 30, 40).to(device), scores(3, 30, 40).to(device, dtype)
    result = pamr(image, probs)
    assert (result.dtype, result.device, result.shape) == (dtype, probs.device, probs.shape)
    torch.testing.assert_close(result.float(), pamr(image, probs.float()), atol=4e-3, rtol=0)


def test_dilations_beyond_the_image_take_no_more_memory():
    generator = torch.Generator().manual_seed(0)
    image, probs = torch.rand(3, 8, 9, generator=generator), torch.rand(2, 8, 9, generator=generator)
    for far in (9, 30, 10**9):
        torch.testing.assert_close(
            pamr(image, probs, dilations=(1, far)), pamr(image, probs, dilations=(1, 8)), rtol=0, atol=0
        )


def test_empty_batch():
    assert pamr(torch.zeros(0, 3, 8, 9), torch.zeros(0, 4, 8, 9)).shape == (0, 4, 8, 9)


IMAGE, PROBS = torch.zeros(3, 8, 9), torch.full((2, 8, 9), 0.5)


@pytest.mark.parametrize(
    ("images", "probs", "options", "error", "message"),
    [
        (
            1,
            PROBS,
            {},
            TypeError,
            "images must be a torch.Tensor of shape (B, 3, H, W) or (3, H, W), got int 1",
        ),
        (
            IMAGE.long(),
            PROBS,
            {},
            TypeError,
            "images must be uint8 or floating point in [0, 1], got a torch.int64",
        ),
        (
            IMAGE + 2,
            PROBS,
            {},
            ValueError,
            "images must lie in [0, 1] where they are floating point, got [2, 2]",
        ),
        (
            IMAGE * math.nan,
            PROBS,
            {},
            ValueError,
            "images must lie in [0, 1] where they are floating point, got",
        ),
        (
            IMAGE,
            PROBS[:, :4],
            {},
            ValueError,
            "probs has size (4, 9) but images has (8, 9): resize probs with",
        ),
        (IMAGE, PROBS - 1, {}, ValueError, "probs must not be negative, got -0.5"),
        (IMAGE, PROBS - 0.8, {}, ValueError, "probs must not be negative, got -0.3: pass probs.exp() for"),
        (
            IMAGE[:1],
            PROBS,
            {},
            ValueError,
            "(1, 8, 9): repeat the channel with images.expand(*images.shape[:-3], 3",
        ),
        (
            IMAGE.movedim(0, 2),
            PROBS,
            {},
            ValueError,
            "(8, 9, 3): bring the channels to the front with images.mo",
        ),
        (IMAGE, PROBS * math.nan, {}, ValueError, "probs holds NaN or infinity"),
        (
            IMAGE,
            PROBS.double() * 1e300,
            {},
            ValueError,
            "probs holds numbers too large for float32 arithmetic",
        ),
        (
            IMAGE,
            PROBS,
            {"iterations": -1},
            ValueError,
            "iterations must be an int of at least 0, got -1: pass",
        ),
        (IMAGE, PROBS, {"dilations": ()}, ValueError, "dilations must be a non-empty tuple of positive ints"),
        (
            IMAGE,
            PROBS,
            {"dilations": (0, 1)},
            ValueError,
            "dilations must be a non-empty tuple of positive ints",
        ),
        (
            IMAGE,
            PROBS,
            {"dilations": 3},
            ValueError,
            "dilations must be a non-empty tuple of positive ints, got 3",
        ),
    ],
)
def test_errors(images, probs, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        pamr(images, probs, **options)
