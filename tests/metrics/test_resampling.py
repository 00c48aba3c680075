"""Standard errors by resampling the images."""

from __future__ import annotations

import math

import numpy as np
import pytest

from dhr_refine.metrics import (
    ImageCounts,
    Scores,
    bootstrap,
    image_counts,
    image_scores,
    scores_of,
    standard_error,
)


def noisy(seed, images=60, classes=4):
    """Counts of two predictions of the same images, the second one better."""
    rng = np.random.default_rng(seed)
    target = rng.integers(0, classes, (images, 8, 8))
    rows = []
    for noise in (0.5, 0.3):
        share = noise * rng.random((images, 1, 1)) * 1.5
        pred = np.where(rng.random(target.shape) < share, rng.integers(0, classes, target.shape), target)
        rows.append(image_counts(pred, target, num_classes=classes))
    return rows


def test_every_resample_is_scored_as_a_data_set_of_its_images():
    one, other = noisy(2, images=9)
    sampled = bootstrap({"one": one, 2: other}, base=one, draws=7, seed=5)
    times = np.random.default_rng(5).multinomial(9, [1 / 9] * 9, size=7)
    for draw, row in enumerate(times):
        drawn = np.repeat(np.arange(9), row)
        for name, counts in (("one", one), (2, other)):
            images, base = (ImageCounts(*(part[drawn] for part in given)) for given in (counts, one))
            wanted = scores_of(images, base=base)
            for field in Scores._fields:
                found = getattr(sampled[name], field)[draw]
                np.testing.assert_allclose(found, getattr(wanted, field), rtol=1e-12, err_msg=field)


def test_the_options_are_those_of_the_scores():
    one, _ = noisy(3, images=5)
    options = {"vanish_share": 0.9, "background": "none", "absent": "zero", "labels": [1, 2]}
    times = np.random.default_rng(0).multinomial(5, [0.2] * 5, size=3)
    wanted = scores_of(one, weights=times, **options)
    found = bootstrap({"one": one}, draws=3, **options)["one"]
    for field in Scores._fields:
        np.testing.assert_array_equal(getattr(found, field), getattr(wanted, field), err_msg=field)


def test_blocks_of_resamples_join_up():
    one, _ = noisy(4, images=6)
    sampled = bootstrap({"one": one}, draws=230)["one"]
    assert sampled.miou.shape == (230,)
    assert sampled.iou.shape == (230, 4)
    assert not np.array_equal(sampled.miou[:100], sampled.miou[100:200])
    np.testing.assert_array_equal(bootstrap({"one": one}, draws=230)["one"].iou, sampled.iou)


def test_standard_errors_equal_the_closed_form():
    one, other = noisy(0)
    # A mean over images: the bootstrap of a mean has the standard error std / sqrt(N).
    means = [image_scores(part).miou for part in (one, other)]
    sampled = bootstrap({0: one, 1: other}, draws=4000)
    both = [sampled[row].per_image_miou for row in (0, 1)]
    assert standard_error(both[0]) == pytest.approx(means[0].std() / math.sqrt(60), rel=0.05)
    paired = standard_error(both[1] - both[0])
    assert paired == pytest.approx((means[1] - means[0]).std() / math.sqrt(60), rel=0.05)
    # A ratio of sums, to first order: the spread of the images' residuals.
    wrong, pixels = (one.true - one.found).sum(0)[1], (one.predicted + one.true - one.found).sum(0)[1]
    residual = (one.true - one.found)[:, 1] - wrong / pixels * (one.predicted + one.true - one.found)[:, 1]
    linear = math.sqrt((residual**2).sum()) / pixels
    only = bootstrap({0: one}, labels=[1], draws=4000)[0].mfnr
    assert standard_error(only) == pytest.approx(linear, rel=0.1)


def test_undefined_values_are_left_out():
    assert standard_error([1.0, math.nan, 2.0, math.inf]) == pytest.approx(math.sqrt(0.5))
    assert math.isnan(standard_error([1.0, math.nan]))
    assert math.isnan(standard_error(np.zeros(0)))


def test_no_image_has_no_figures():
    nothing = ImageCounts(*(np.zeros((0, 3), dtype=np.int64) for _ in range(3)))
    sampled = bootstrap({"nothing": nothing}, draws=4)["nothing"]
    assert np.isnan(sampled.miou).all()
    assert sampled.images.tolist() == [0, 0, 0, 0]


def test_errors():
    one, other = noisy(1, images=4)
    fewer = ImageCounts(*(part[:3] for part in other))
    with pytest.raises(ValueError, match=r"counts must be a dict with the counts of one prediction or more"):
        bootstrap({})
    with pytest.raises(ValueError, match=r"counts must be a dict .* got "):
        bootstrap(one)
    with pytest.raises(TypeError, match=r"counts must be ImageCounts, got .*: pass what image_counts"):
        bootstrap({"one": np.zeros((4, 3))})
    with pytest.raises(ValueError, match="counts hold different images or ground truth: count the same"):
        bootstrap({"one": one, "other": fewer})
    with pytest.raises(ValueError, match="counts hold different images or ground truth"):
        bootstrap({"one": one}, base=ImageCounts(*(part[::-1] for part in other)))
    with pytest.raises(ValueError, match="draws must be"):
        bootstrap({"one": one}, draws=0)
    with pytest.raises(ValueError, match="seed must be"):
        bootstrap({"one": one}, seed=-1)
    with pytest.raises(ValueError, match=r"samples must have shape \(R,\), got .*: pass one figure"):
        standard_error(np.zeros((2, 2)))
    with pytest.raises((TypeError, ValueError), match="samples must be"):
        standard_error("abc")
