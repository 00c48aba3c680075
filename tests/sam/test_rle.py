"""COCO's run lengths, against an encoder and a decoder that go pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sam_reference import compress, decode, encode

from dhr_refine.sam.rle import decode_rle

MASKS = arrays.arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def positions(counts, size):
    return decode_rle({"size": list(size), "counts": counts}, "segments[0]")


@given(MASKS)
def test_lists_and_texts_are_read(mask):
    counts = encode(mask)
    assert np.array_equal(decode(counts, mask.shape), mask)
    text = compress(counts)
    for form in (counts, tuple(counts), np.array(counts, np.uint32), text, text.encode()):
        pixels, size = positions(form, mask.shape)
        assert np.array_equal(pixels, np.flatnonzero(mask))
        assert size == mask.shape


@given(st.integers(0, 2**32))
def test_long_runs_are_read(seed):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 10 ** rng.integers(1, 6, 9)).tolist()
    size = (1, sum(counts)) if sum(counts) else (1, 1)
    counts = counts if sum(counts) else [1]
    pixels = positions(compress(counts), size)[0]
    assert np.array_equal(pixels, positions(counts, size)[0])
    assert len(pixels) == sum(counts[1::2])


@given(MASKS)
def test_texts_are_those_of_pycocotools(mask):
    coco = pytest.importorskip("pycocotools.mask", reason="needs pycocotools")
    made = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert np.array_equal(decode_rle(made, "one")[0], np.flatnonzero(mask))


@pytest.mark.parametrize(
    ("rle", "text"),
    [
        ({"counts": [4]}, r"it has \['counts'\]"),
        ({"size": [2, 2]}, r"it has \['size'\]"),
        ({"size": [2, 2], "counts": [1, 2]}, r"runs of 3 pixels in all for \(2, 2\): write it again"),
        ({"size": [2, 2], "counts": [5, -1]}, "a run of -1 pixels"),
        (
            {"size": [2, 2], "counts": np.array([2**62] * 3 + [2**62 + 4])},
            f"runs of {2**62 + 4} pixels in all",
        ),
        ({"size": [2, 2], "counts": [1.0, 3]}, r"the counts list \[1.0, 3\]: pass COCO's text or a list"),
        ({"size": [2, 2], "counts": [True, 3]}, "the counts list"),
        ({"size": [2, 2], "counts": 4}, "the counts int 4"),
        ({"size": [2, 2], "counts": np.ones((2, 2), int)}, "the counts a NumPy int64 array of shape"),
        ({"size": [2, 2], "counts": [10**30]}, "the counts list"),
        ({"size": [2, 2], "counts": "\n"}, "a text that no compressed counts are"),
        ({"size": [2, 2], "counts": "é"}, "has runs of|a text that no compressed counts are"),
        ({"size": [2, 2], "counts": "T"}, "a text that no compressed counts are"),
        ({"size": [2, 2], "counts": "oooooooooooo4"}, "a number beyond every image"),
        ({"size": [0, 2], "counts": []}, r"the size list \[0, 2\]: pass \(H, W\)"),
        ({"size": [2**20, 2**20], "counts": [2**40]}, "the size list"),
        ({"size": [2], "counts": [2]}, "the size list"),
        ({"size": "22", "counts": [4]}, "the size str '22'"),
    ],
)
def test_damaged_run_lengths_are_refused(rle, text):
    with pytest.raises(
        ValueError, match=r"^segments\[3\] must be a mask in COCO's run lengths, but.*" + text
    ):
        decode_rle(rle, "segments[3]")
