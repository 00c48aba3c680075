"""Energies and features are the original's, bit by bit."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from originals import OURS, original

FLOATS = st.sampled_from([np.float16, np.float32, np.float64])
PROBS = FLOATS.flatmap(
    lambda kind: hnp.arrays(
        kind,
        hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5),
        elements=st.floats(-1, 2, width=np.finfo(kind).bits),
    )
)
DEVIATIONS = st.one_of(st.integers(1, 300), st.floats(0.001, 300), st.floats(0.5, 4, width=32))
LAYOUTS = (np.asarray, np.asfortranarray, lambda a: np.repeat(a, 2, axis=-1)[..., ::2], lambda a: a[::-1])


def assert_same(ours: np.ndarray, theirs: np.ndarray) -> None:
    assert ours.flags.c_contiguous
    assert ours.dtype == theirs.dtype == np.float32
    np.testing.assert_array_equal(ours, theirs)


@given(PROBS, st.none() | st.floats(0.01, 1), st.none() | st.floats(0, 1), st.sampled_from(LAYOUTS))
def test_energies_of_probabilities(probs, scale, clip, layout):
    probs = layout(probs)
    before = probs.copy()
    with np.errstate(all="ignore"):
        expected = original().utils.unary_from_softmax(probs, scale, clip)
        assert_same(OURS.utils.unary_from_softmax(probs, scale, clip), expected)
    np.testing.assert_array_equal(probs, before)


@given(PROBS)
def test_energies_of_probabilities_by_default(probs):
    assert_same(OURS.utils.unary_from_softmax(probs), original().utils.unary_from_softmax(probs))


@pytest.mark.parametrize("kind", [int, np.uint8, bool])
def test_energies_of_whole_numbers(kind):
    probs = np.eye(3, dtype=kind)
    for scale in (None, 0.7):
        assert_same(
            OURS.utils.unary_from_softmax(probs, scale), original().utils.unary_from_softmax(probs, scale)
        )


@given(
    st.integers(2, 30).flatmap(
        lambda count: st.tuples(
            st.just(count),
            hnp.arrays(
                st.sampled_from([np.int64, np.int32, np.int16]),
                hnp.array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=6),
                elements=st.integers(0, count),
            ),
        )
    ),
    st.floats(0.001, 0.999),
    st.booleans(),
    st.sampled_from(LAYOUTS),
)
def test_energies_of_labels(given_labels, gt_prob, zero_unsure, layout):
    count, labels = given_labels
    labels = layout(labels if zero_unsure else np.minimum(labels, count - 1))
    before = labels.copy()
    expected = original().utils.unary_from_labels(labels, count, gt_prob, zero_unsure)
    assert_same(OURS.utils.unary_from_labels(labels, count, gt_prob, zero_unsure), expected)
    np.testing.assert_array_equal(labels, before)


def test_bytes_and_bits_are_labels_too():
    """The original counts 0 - 1 = 255 in bytes, and takes bits for a choice of labels."""
    labels = np.array([[0, 1, 2], [2, 1, 0]])
    theirs = original().utils.unary_from_labels
    for kind in (np.uint8, np.uint16, np.uint64):
        assert_same(OURS.utils.unary_from_labels(labels.astype(kind), 2, 0.7), theirs(labels, 2, 0.7))
    mask = labels > 0
    assert_same(
        OURS.utils.unary_from_labels(mask, 2, 0.7, zero_unsure=False),
        theirs(mask.astype(int), 2, 0.7, zero_unsure=False),
    )
    assert_same(OURS.utils.unary_from_labels(labels.tolist(), 2, 0.7), theirs(labels, 2, 0.7))


@given(
    st.lists(st.tuples(DEVIATIONS, st.integers(0, 5)), min_size=1, max_size=5),
    st.sampled_from([list, tuple, np.array]),
)
def test_features_of_positions(axes, kind):
    sdims, shape = zip(*axes)
    expected = original().utils.create_pairwise_gaussian(kind(sdims), shape)
    assert_same(OURS.utils.create_pairwise_gaussian(kind(sdims), kind(shape)), expected)


@st.composite
def coloured(draw):
    """Deviations and an image of any dimension and type, its channels anywhere or nowhere."""
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=5))
    chdim = draw(st.sampled_from([-1, *range(len(shape)), *range(-len(shape), -1)]))
    kind = draw(st.sampled_from([np.uint8, np.int64, np.float32, np.float64, np.float16, bool]))
    elements = {"f": st.floats(-300, 300, width=16), "b": st.booleans()}.get(
        np.dtype(kind).kind, st.integers(0, 255)
    )
    image = draw(st.sampled_from(LAYOUTS))(draw(hnp.arrays(kind, shape, elements=elements)))
    channels = 1 if chdim == -1 else shape[chdim]
    axes = len(shape) - (chdim != -1)
    sdims = draw(st.lists(DEVIATIONS, min_size=axes, max_size=axes))
    many = st.lists(DEVIATIONS, min_size=channels, max_size=channels)
    schan = draw(
        DEVIATIONS
        | many
        | many.map(tuple)
        | many.map(np.array)
        | DEVIATIONS.map(np.float64)
        | many.map(np.float32)
    )
    return sdims, schan, image, chdim


@given(coloured())
def test_features_of_colours(arguments):
    sdims, schan, image, chdim = arguments
    if not sdims:  # nothing but channels: the original fails
        return
    before = image.copy()
    expected = original().utils.create_pairwise_bilateral(sdims, schan, image, chdim)
    assert_same(OURS.utils.create_pairwise_bilateral(sdims, schan, image, chdim), expected)
    np.testing.assert_array_equal(image, before)


def test_positions_are_row_and_column():
    features = OURS.utils.create_pairwise_bilateral((10, 100), (1, 2, 4), np.full((2, 3, 3), 8), chdim=2)
    np.testing.assert_allclose(features[:2], [[0, 0, 0, 0.1, 0.1, 0.1], [0, 0.01, 0.02] * 2])
    np.testing.assert_array_equal(features[2:], np.repeat([[8], [4], [2]], 6, axis=1))


def test_old_names_say_so(caplog):
    labels, probs = np.array([[0, 1, 2]]), np.array([[0.2, 0.5], [0.8, 0.5]])
    theirs = original().utils
    with caplog.at_level(logging.WARNING, logger="dhr_refine"):
        mine = [
            OURS.utils.compute_unary(labels, 2),
            OURS.utils.compute_unary(labels, 2, GT_PROB=0.8),
            OURS.utils.softmax_to_unary(probs),
            OURS.utils.softmax_to_unary(probs, GT_PROB=0.9),
        ]
    said = [record.getMessage() for record in caplog.records if record.name == "dhr_refine"]
    assert said == [
        "pydensecrf.compute_unary is deprecated, use unary_from_labels instead.",
        "pydensecrf.compute_unary is deprecated, use unary_from_labels instead.",
        "pydensecrf.softmax_to_unary is deprecated, use unary_from_softmax instead.",
        "pydensecrf.softmax_to_unary is deprecated, use unary_from_softmax instead.",
    ]
    expected = [
        theirs.compute_unary(labels, 2),
        theirs.compute_unary(labels, 2, GT_PROB=0.8),
        theirs.softmax_to_unary(probs),
        theirs.softmax_to_unary(probs, GT_PROB=0.9),
    ]
    for ours, other in zip(mine, expected):
        assert_same(ours, other)
    assert said == [record.getMessage() for record in caplog.records if record.name == "root"]
