"""Segments in every form, cut, resized and restricted, against their masks."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from sam_reference import compress, encode

from dhr_refine.sam import Segments, as_segments, segment_voting
from dhr_refine.sam import segments as module

LABELS = torch.tensor([[0, 1, 1, 5], [-1, 1, 2, 5], [2, 2, 2, 0]])
STACK = torch.stack([label == LABELS for label in (1, 2, 5)])


def draw(seed, count=None):
    """Masks (M, H, W) that overlap, some empty, some whole."""
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 6)) if count is None else count
    height, width = rng.integers(1, 9, 2)
    shares = rng.choice([0.0, 0.3, 0.7, 1.0], (count, 1, 1))
    return torch.from_numpy(rng.random((count, height, width)) < shares)


def run_lengths(mask):
    return {"size": list(mask.shape), "counts": compress(encode(mask.numpy()))}


FORMS = {
    "segments": lambda: as_segments(STACK),
    "bool": lambda: STACK,
    "numpy bool": lambda: STACK.numpy(),
    "0 and 1": lambda: STACK.long(),
    "0 and 255": lambda: STACK.byte() * 255,
    "floating point": lambda: STACK.double(),
    "bfloat16": lambda: STACK.bfloat16(),
    "8 bits": lambda: STACK.to(torch.float8_e4m3fn),
    "not contiguous": lambda: STACK.permute(2, 1, 0).contiguous().permute(2, 1, 0),
    "labels": lambda: LABELS,
    "float labels": lambda: LABELS.float(),
    "numpy labels": lambda: LABELS.numpy().astype(np.int16),
    "list of masks": lambda: [*STACK],
    "run lengths": lambda: [run_lengths(mask) for mask in STACK],
    "uncompressed": lambda: [{"size": mask.shape, "counts": encode(mask.numpy())} for mask in STACK],
    "generator's masks": lambda: [{"segmentation": mask.numpy(), "area": 3} for mask in STACK],
    "generator's run lengths": lambda: [{"segmentation": run_lengths(mask)} for mask in STACK],
    "SA-1B": lambda: {"image": {}, "annotations": [{"segmentation": run_lengths(mask)} for mask in STACK]},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_segments(form):
    segments = as_segments(FORMS[form]())
    assert torch.equal(segments.masks(), STACK)
    assert (len(segments), segments.size, segments.lengths.tolist()) == (3, (3, 4), [3, 4, 2])
    assert repr(segments) == "Segments: 3 of 3 x 4, 75% of the pixels covered"


def test_one_mask_and_one_run_length_are_one_segment():
    assert torch.equal(as_segments(STACK[0]).masks(), STACK[:1])
    assert torch.equal(as_segments(run_lengths(STACK[0])).masks(), STACK[:1])


@pytest.mark.parametrize("empty", [torch.zeros(3, 4, dtype=torch.int32), torch.zeros(0, 3, 4)])
def test_no_segments_are_none(empty):
    segments = as_segments(empty)
    assert (len(segments), segments.size) == (0, (3, 4))
    assert segments.masks().shape == (0, 3, 4)


@given(st.integers(0, 2**32))
def test_cut_keep_and_resize_are_those_of_the_masks(seed):
    masks = draw(seed)
    rng = np.random.default_rng(seed + 1)
    segments, (height, width) = as_segments(masks), masks.shape[1:]
    assert torch.equal(segments.masks(), masks)
    y0, y1 = sorted(rng.integers(0, height + 1, 2).tolist())
    x0, x1 = sorted(rng.integers(0, width + 1, 2).tolist())
    assert torch.equal(segments.cut((x0, y0, x1, y1)).masks(), masks[:, y0:y1, x0:x1])
    known = torch.from_numpy(rng.random((height, width)) < 0.6)
    assert torch.equal(segments.keep(known).masks(), masks & known)
    size = tuple(rng.integers(1, 12, 2).tolist())
    wanted = F.interpolate(masks[None].float(), size, mode="nearest-exact")[0] > 0 if len(masks) else None
    resized = segments.resize(size)
    assert resized.size == size
    if wanted is not None:
        assert torch.equal(resized.masks(), wanted)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (None, TypeError, r"segments must be masks \(M, H, W\), a label map .* got NoneType None"),
        ("a.png", TypeError, "read a file with read_segments"),
        ([], ValueError, "is an empty list, which does not tell the size of the image"),
        (torch.zeros(3), ValueError, r"got a torch.float32 tensor of shape \(3,\)"),
        (torch.zeros(1, 2, 3, 4), ValueError, "pass one of them"),
        (torch.zeros(0, 4), ValueError, "must be masks"),
        (torch.full((2, 2), 0.5), ValueError, "holds fractions or NaN.*threshold it first"),
        (torch.full((1, 2, 2), torch.nan), ValueError, "holds fractions or NaN"),
        (np.array([["a"]]), TypeError, "must hold whole numbers"),
        (torch.zeros(2, 2, dtype=torch.complex64), TypeError, "pass a plain tensor"),
        (torch.zeros(2, 2, device="meta"), TypeError, "pass a plain tensor"),
        (LABELS[None], ValueError, r"segments\[0\] must be a mask of 0 and one other number, got \[-1, 1"),
        ([STACK[0], STACK[0, :2]], ValueError, r"segments\[1\] is of an image of \(2, 4\) but segments\[0\]"),
        ([[1, 2]], TypeError, r"segments\[0\] must be a mask \(H, W\) or COCO's run lengths, got list"),
        ([{"segmentation": [[1.0, 2.0]]}], TypeError, r"\['segmentation'\].*polygons become masks"),
        ([STACK], TypeError, r"segments\[0\] must be a mask \(H, W\)"),
    ],
)
def test_what_is_no_segments_is_refused(value, error, text):
    with pytest.raises(error, match=text):
        as_segments(value)


def test_more_pixels_than_there_is_room_for_are_refused(monkeypatch):
    monkeypatch.setattr(module, "_MOST_ENTRIES", 8)
    with pytest.raises(ValueError, match=r"segments cover more than 8 pixels.*leave segments out"):
        as_segments(STACK)


@pytest.mark.parametrize("size", [(0, 3), (1.5, 2), 3, None])
def test_sizes_that_are_none_are_refused(size):
    with pytest.raises((ValueError, TypeError), match="size must"):
        as_segments(STACK).resize(size)


@pytest.mark.parametrize("make", [as_segments, lambda labels: segment_voting([labels])])
def test_comparing_asks_for_the_same_object_and_no_truth_of_a_tensor(make):
    one = make(LABELS)
    assert one == one
    assert one != copy.deepcopy(one)
    assert len({one, one, make(LABELS)}) == 2


def test_inputs_stay_and_results_are_apart():
    given_masks = STACK.clone()
    segments = as_segments(given_masks)
    segments.pixels.zero_()
    assert torch.equal(given_masks, STACK)
    assert isinstance(segments.to("cpu"), Segments)
