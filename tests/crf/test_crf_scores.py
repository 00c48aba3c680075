"""What dense_crf and pamr take for scores, and what they say of numbers that are none."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from photos import photo, scores

from dhr_refine import Recipe, dense_crf, pamr, par, refine_mask

pytestmark = pytest.mark.usefixtures("one_thread")

SIZE = 40, 50
IMAGE = photo("coffee", *SIZE)


def reference(image, probs, **options):
    """pydensecrf itself, from what its unary_from_softmax makes of any numbers."""
    import pydensecrf.densecrf as densecrf
    from pydensecrf.utils import unary_from_softmax

    classes, height, width = probs.shape
    model = densecrf.DenseCRF2D(width, height, classes)
    model.setUnaryEnergy(np.ascontiguousarray(unary_from_softmax(probs.double().numpy())))
    model.addPairwiseGaussian(sxy=1, compat=3)
    model.addPairwiseBilateral(
        sxy=67, srgb=3, rgbim=np.ascontiguousarray(image.permute(1, 2, 0).numpy()), compat=4
    )
    return torch.from_numpy(np.array(model.inference(10), np.float32)).reshape(probs.shape)


def seam_scores(classes=3, *, empty=()):
    """CAMs scaled as SEAM does, and its score of the background."""
    cams = (scores(classes, *SIZE) - 0.4).relu()
    cams[list(empty)] = 0
    highest = cams.amax((1, 2), keepdim=True)
    cams = (cams - 1e-5) / (highest + 1e-5)
    return torch.cat([(1 - cams.amax(0, keepdim=True)) ** 4, cams])


def fix_of(error, probs):
    """What a message tells to pass first."""
    text = re.search(r"pass (.+?)(?: for | and |, or )", str(error.value))
    assert text, str(error.value)
    return eval(text[1], {"torch": torch, "probs": probs})


@pytest.mark.parametrize("empty", [(), (1,), (0, 2)])
def test_scaled_cams_are_clipped_as_pydensecrf_does(backend, empty):
    probs = seam_scores(empty=empty)
    assert probs.min() < -5e-6
    before = probs.clone()
    result = dense_crf(IMAGE, probs, backend=backend)
    torch.testing.assert_close(result, reference(IMAGE, probs), atol=1e-4, rtol=0)
    assert torch.equal(probs, before)
    assert torch.equal(dense_crf(IMAGE, probs.clamp(min=0), backend=backend), result)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_scaled_cams_of_any_type(dtype):
    probs = seam_scores().to(dtype)
    result = dense_crf(IMAGE, probs)
    assert result.dtype == dtype
    torch.testing.assert_close(result.float(), reference(IMAGE, probs), atol=4e-3, rtol=0)


def test_the_first_pixel_below_zero_excludes_no_class(backend):
    # Inside, a class without a part in an image is marked there.
    probs = scores(3, *SIZE)
    probs[1, 0, 0] = -1e-7
    torch.testing.assert_close(
        dense_crf(IMAGE, probs, backend=backend), reference(IMAGE, probs), atol=1e-4, rtol=0
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda p: p.log(),
            "pass probs.exp() for logarithms, probs.softmax(dim=0) for logits, or probs.clamp",
        ),
        (lambda p: p.clamp(min=0.4).log(), "pass probs.exp() for logarithms"),
        (
            lambda p: 4 * p - 2,
            "pass probs.softmax(dim=0) for logits, or probs.clamp(min=0) if what lies below 0",
        ),
        (lambda p: 2 * p - 1, "pass probs.softmax(dim=0) for logits, or probs.clamp(min=0)"),
        (lambda p: p - 0.3, "pass probs.softmax(dim=0) for logits, or probs.clamp(min=0)"),
        (
            lambda p: p[:1].logit(),
            "for logits pass torch.cat([-probs, probs], dim=0).sigmoid(), or probs.clamp",
        ),
    ],
)
@pytest.mark.parametrize("tool", [dense_crf, pamr, par])
def test_numbers_below_zero_that_are_no_scores(tool, make, message):
    probs = make(scores(3, *SIZE))
    with pytest.raises(ValueError, match=re.escape("probs must not be negative, got -")) as error:
        tool(IMAGE, probs)
    assert message in str(error.value)
    assert tool(IMAGE, fix_of(error, probs)).isfinite().all()
    with pytest.raises(ValueError, match=re.escape(message.replace("dim=0", "dim=1"))):
        tool(IMAGE[None], probs[None])


def test_one_logit_map_becomes_two_probabilities():
    logits = scores(2, *SIZE)[1:].logit()
    with pytest.raises(ValueError, match="for logits pass torch") as error:
        dense_crf(IMAGE, logits)
    given = fix_of(error, logits)
    torch.testing.assert_close(given, torch.cat([1 - logits.sigmoid(), logits.sigmoid()]))


@pytest.mark.parametrize("batch", [(), (1,), (2,)])
def test_one_channel_is_refused(batch):
    probs = scores(2, *SIZE)[1:].expand(*batch, 1, *SIZE)
    image = IMAGE.expand(*batch, 3, *SIZE)
    with pytest.raises(
        ValueError,
        match=re.escape(
            f"probs has one channel, got a torch.float32 tensor of shape {tuple(probs.shape)}, but a CRF"
        ),
    ) as error:
        dense_crf(image, probs)
    result = dense_crf(image, fix_of(error, probs))
    expected = reference(IMAGE, torch.cat([1 - probs.reshape(-1, *SIZE)[:1], probs.reshape(-1, *SIZE)[:1]]))
    torch.testing.assert_close(result.reshape(-1, 2, *SIZE)[0], expected, atol=1e-4, rtol=0)


def test_one_class_that_is_certain_stays_so():
    assert torch.equal(dense_crf(IMAGE, torch.rand(1, *SIZE).softmax(0)), torch.ones(1, *SIZE))
    assert dense_crf(IMAGE[None][:0], torch.zeros(0, 1, *SIZE)).shape == (0, 1, *SIZE)


@pytest.mark.parametrize("dim", [0, 1])
@pytest.mark.parametrize(
    ("make", "fix"),
    [
        (lambda p: 100 * p, "probs / 100 for percentages"),
        (lambda p: (255 * p).round(), "probs / 255 for grey levels"),
        (lambda p: p.log() + 20, "probs.softmax(dim={dim}) for logits"),
        (
            lambda p: 5 * p,
            "probs / probs.sum(dim={dim}, keepdim=True) for weights (pydensecrf takes probs.clamp(max=1))",
        ),
    ],
)
def test_scores_above_one_are_refused_where_clipping_makes_them_equal(make, fix, dim):
    probs = make(scores(2, *SIZE))
    image = IMAGE
    if dim == 1:
        image, probs = image[None], probs[None]
    message = "probs must lie in [0, 1], got several scores of a pixel above it, up to "
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        dense_crf(image, probs)
    fix = fix.format(dim=dim)
    assert fix in str(error.value)
    passed = eval(fix.split(" for ")[0], {"probs": probs})
    expected = dense_crf(image, scores(2, *SIZE).expand(probs.shape))
    torch.testing.assert_close(dense_crf(image, passed), expected, atol=2e-2, rtol=0)
    clipped = dense_crf(image, probs.clamp(max=1), backend="torch").view(2, *SIZE)
    torch.testing.assert_close(clipped, reference(IMAGE, probs.view(2, *SIZE)), atol=1e-4, rtol=0)


def test_one_channel_of_percentages_is_told_both_things():
    probs = 100 * scores(2, *SIZE)[1:]
    with pytest.raises(ValueError, match=re.escape("got scores above it, up to")) as error:
        dense_crf(IMAGE, probs)
    assert "probs.sigmoid() for logits" in str(error.value)
    with pytest.raises(ValueError, match="probs has one channel"):
        dense_crf(IMAGE, probs / 100)


def test_interpolation_may_overshoot():
    coarse = torch.zeros(1, 10, 12)
    coarse[:, 3:7, 4:9] = 1
    coarse = torch.cat([1 - coarse, coarse])
    probs = torch.nn.functional.interpolate(coarse[None], SIZE, mode="bicubic")[0]
    assert probs.min() < -0.2
    assert probs.max() > 1.2
    torch.testing.assert_close(dense_crf(IMAGE, probs), reference(IMAGE, probs), atol=1e-4, rtol=0)


def test_hard_masks_of_any_scale_are_fine():
    probs = 255 * torch.nn.functional.one_hot(scores(3, *SIZE).argmax(0)).permute(2, 0, 1).float()
    torch.testing.assert_close(dense_crf(IMAGE, probs), reference(IMAGE, probs), atol=1e-4, rtol=0)


def test_scores_that_all_fall_below_the_clip_are_refused():
    # A transport plan, whose sum over all pixels and classes is 1.
    probs = scores(3, *SIZE) / 1e6
    with pytest.raises(
        ValueError, match=re.escape("probs has no score above 1e-05, the largest is")
    ) as error:
        dense_crf(IMAGE, probs)
    assert str(error.value).endswith("divide by probs.sum(dim=0, keepdim=True)")
    probs = torch.zeros(3, *SIZE)  # legal: nothing is said
    torch.testing.assert_close(dense_crf(IMAGE, probs, backend="torch"), reference(IMAGE, probs))


def test_a_callable_tool_is_not_asked_about_one_class():
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(4, 8, 8, generator=generator)
    cams, base = torch.rand(2, 8, 8, generator=generator), torch.zeros(32, 32, dtype=torch.long)
    image = photo("coffee", 32, 32)
    for options in ({"labels": [[]]}, {"labels": [[1]], "background": "none"}):
        given = (cams[None], base[None], features[None], features[None], image[None])
        for recipe in (None, Recipe.paper()):
            results = [
                refine_mask(*given, **options, boundary=tool, recipe=recipe) for tool in ("crf", dense_crf)
            ]
            assert torch.equal(*results)
