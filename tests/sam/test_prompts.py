"""Prompts of masks and CAMs, against distances worked out pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sam_reference import distances, regions

from dhr_refine import refine_steps
from dhr_refine.sam import cam_peaks, sam_prompts


def draw(seed):
    """A mask of few classes in blocks, some pixels unknown."""
    rng = np.random.default_rng(seed)
    small = rng.choice([0, 0, 3, 15, 255], rng.integers(1, 5, 2))
    return torch.from_numpy(small).repeat_interleave(4, 0).repeat_interleave(3, 1)


@settings(max_examples=25)
@given(st.integers(0, 2**32))
def test_prompts_are_those_of_the_distances(seed):
    mask = draw(seed)
    array = mask.numpy()
    prompts = sam_prompts(mask, gamma=2.0, strength=9.0, mask_size=16)
    wanted = [(label, own) for label in (3, 15) for own in regions(array, label)]
    assert prompts.labels.tolist() == [label for label, _ in wanted]
    assert prompts.masks.shape == (len(wanted), 1, 16, 16)
    for row, (_, own) in enumerate(wanted):
        assert np.array_equal(prompts.regions[row].numpy(), own)
        y, x = np.nonzero(own)
        assert prompts.boxes[row].tolist() == [x.min(), y.min(), x.max(), y.max()]
        inside, outside = ((int(b), int(a)) for a, b in prompts.points[row].tolist())
        assert own[inside]
        box = np.zeros_like(own)
        box[y.min() : y.max() + 1, x.min() : x.max() + 1] = True
        assert prompts.point_labels[row].tolist() == [1, 0 if (box & ~own).any() else -10]
        if own.all():
            continue
        depth = distances(own)
        assert inside == np.unravel_index(depth.argmax(), depth.shape)
        if (box & ~own).any():
            far = np.where(box, distances(~own), 0)
            assert outside == np.unravel_index(far.argmax(), far.shape)
        # The long side fills the prompt; the rest is padding.
        height, width = own.shape
        inner = (max(1, round(16 * height / max(own.shape))), max(1, round(16 * width / max(own.shape))))
        hill = np.exp(-((depth - depth.max()) ** 2) / (own.sum() / 2.0)) * own
        maps = torch.from_numpy(np.stack([2.0 * own - 1, hill])).float()[None]
        sign, hill = F.interpolate(maps, inner, mode="bilinear")[0]
        expected = torch.full((16, 16), -9.0)
        expected[: inner[0], : inner[1]] = torch.where(sign > 0, 9.0, -9.0) * torch.where(hill > 0, hill, 1.0)
        torch.testing.assert_close(prompts.masks[row, 0], expected)


def test_stretched_prompts_fill_the_square():
    mask = torch.zeros(8, 32, dtype=torch.long)
    mask[:, 16:] = 1
    padded, stretched = (sam_prompts(mask, mask_size=16, stretch=flag).masks[0, 0] > 0 for flag in (0, 1))
    assert padded.nonzero().amin(0).tolist() == [0, 8]
    assert padded.nonzero().amax(0).tolist() == [3, 15]
    assert stretched[:, 8:].all()
    assert not stretched[:, :8].any()


def test_batches_lists_steps_boxes_and_tags():
    one, two = draw(1), draw(1).flip(0)
    both = torch.stack([one, two])
    wanted = [sam_prompts(one), sam_prompts(two)]
    for calls in (
        sam_prompts(both),
        sam_prompts([one, two]),
        sam_prompts(both.byte()),
        sam_prompts(both.float()),
    ):
        for got, expected in zip(calls, wanted, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    tagged = sam_prompts(one, labels=[2])
    assert set(tagged.labels.tolist()) <= {3}
    whole = torch.full((12, 12), 3)
    boxed = sam_prompts(whole, boxes=(2, 3, 8, 9), box_format="xyxy")
    assert boxed.boxes.tolist() == [[2, 3, 7, 8]]
    cams = torch.rand(1, 3, 3, generator=torch.Generator().manual_seed(0))
    steps = refine_steps(cams, torch.tensor([[0, 1], [0, 0]]), cams, cams, labels=[0], boundary=None)
    assert sam_prompts(steps).labels.tolist() == [1] * len(sam_prompts(steps.mask).labels)


def test_small_regions_are_left_out_and_no_region_gives_nothing():
    mask = torch.zeros(6, 6, dtype=torch.long)
    mask[0, 0], mask[3:5, 3:5] = 1, 1
    assert sam_prompts(mask).labels.tolist() == [1, 1]
    prompts = sam_prompts(mask, min_pixels=2)
    assert prompts.boxes.tolist() == [[3, 3, 4, 4]]
    assert repr(prompts) == "SamPrompts: 1 regions with the labels [1]"
    empty = sam_prompts(torch.full((6, 6), 255))
    assert [len(part) for part in empty] == [0] * 6
    assert empty.masks.shape == (0, 1, 256, 256)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"min_pixels": 0}, "min_pixels must be at least 1"),
        ({"gamma": 0}, "gamma must be above 0"),
        ({"strength": -1}, "strength must be above 0"),
        ({"mask_size": 0}, "mask_size must be at least 1"),
    ],
)
def test_options_out_of_range_are_refused(options, text):
    with pytest.raises(ValueError, match=text):
        sam_prompts(torch.zeros(2, 2, dtype=torch.long), **options)


def slow_peaks(cam, threshold, distance):
    """Peaks by looking at every window."""
    height, width = cam.shape
    found = []
    for row in range(height):
        for column in range(width):
            window = cam[
                max(row - distance, 0) : row + distance + 1, max(column - distance, 0) : column + distance + 1
            ]
            if cam[row, column] == window.max() and cam[row, column] > 0:
                found.append((-cam[row, column], row, column))
    taken = []
    for value, row, column in sorted(found):
        near = any(max(abs(row - r), abs(column - c)) <= distance for r, c in taken)
        if not near and (-value > threshold or not taken):
            taken.append((row, column))
    return [[column, row] for row, column in taken]


@settings(max_examples=30)
@given(st.integers(0, 2**32), st.integers(1, 5), st.sampled_from([0.0, 0.5, 0.9]))
def test_peaks_are_those_of_all_windows(seed, distance, threshold):
    rng = np.random.default_rng(seed)
    cams = rng.integers(0, 6, (2, *rng.integers(1, 15, 2))) / 5
    got = cam_peaks(torch.from_numpy(cams), threshold=threshold, distance=distance)
    for peaks, cam in zip(got, cams.astype(np.float32), strict=True):
        assert peaks.tolist() == slow_peaks(cam, threshold, distance)


def test_a_low_cam_keeps_its_highest_peak_and_an_empty_one_has_none():
    cams = torch.zeros(2, 30, 30)
    cams[0, 4, 7], cams[0, 28, 28] = 0.2, 0.1
    assert [peaks.tolist() for peaks in cam_peaks(cams)] == [[[7, 4]], []]


def test_a_plateau_has_peaks_on_a_grid_and_takes_no_time_for_each_pair():
    peaks = cam_peaks(torch.ones(1, 600, 600), distance=1)[0]
    wanted = [[x, y] for y in range(0, 600, 2) for x in range(0, 600, 2)]
    assert peaks.tolist() == wanted


@pytest.mark.parametrize(
    ("cams", "options", "error", "text"),
    [
        (torch.zeros(2, 2), {}, ValueError, r"cams must have shape \(K, H, W\)"),
        (torch.zeros(1, 2, 2, dtype=torch.int), {}, TypeError, "cams must be floating point"),
        (torch.full((1, 2, 2), torch.nan), {}, ValueError, "cams holds NaN"),
        (torch.zeros(1, 0, 2), {}, ValueError, "cams is empty"),
        (torch.zeros(1, 2, 2), {"threshold": 2}, ValueError, r"threshold must lie in \[0.0, 1.0\]"),
        (torch.zeros(1, 2, 2), {"distance": 0}, ValueError, "distance must be at least 1"),
    ],
)
def test_cams_without_peaks_are_refused(cams, options, error, text):
    with pytest.raises(error, match=text):
        cam_peaks(cams, **options)
