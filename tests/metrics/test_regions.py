"""inter_class_share against a slow count, and by its own definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from dhr_refine.metrics import inter_class_share

ZEROS = np.zeros((2, 4, 4), dtype=np.int64)

ERRORS = [
    (ValueError, "reach must lie in", lambda: inter_class_share(ZEROS, reach=-1)),
    (TypeError, "masks must hold integer labels", lambda: inter_class_share(ZEROS / 2)),
    (ValueError, "masks must have shape", lambda: inter_class_share(ZEROS[0, 0])),
]


def slow_pairs(mask, ignore=255):
    """Pairs of regions that share an edge, found pixel by pixel."""
    region, number = {}, 0
    height, width = mask.shape
    for start in np.ndindex(height, width):
        if start in region or mask[start] == ignore:
            continue
        todo, number = [start], number + 1
        region[start] = number
        while todo:
            y, x = todo.pop()
            for ny, nx in ((y + 1, x), (y - 1, x), (y, x + 1), (y, x - 1)):
                inside = 0 <= ny < height and 0 <= nx < width
                if inside and (ny, nx) not in region and mask[ny, nx] == mask[y, x]:
                    region[ny, nx] = number
                    todo.append((ny, nx))
    pairs = {}
    for (y, x), one in region.items():
        for ny, nx in ((y + 1, x), (y, x + 1)):
            other = region.get((ny, nx), one)
            if other != one:
                pairs[min(one, other), max(one, other)] = (mask[y, x], mask[ny, nx])
    return len(pairs), sum(0 not in labels for labels in pairs.values())


@given(st.integers(0, 10_000))
def test_inter_class_share_equals_the_slow_count(seed):
    rng = np.random.default_rng(seed)
    mask = rng.choice([0, 1, 2, 3, 255], (6, 7), p=[0.4, 0.2, 0.2, 0.1, 0.1])
    adjacent, inter = slow_pairs(mask)
    result = inter_class_share(mask, reach=0)
    assert (result.adjacent, result.inter_class) == (adjacent, inter)
    if adjacent:
        assert result.share == inter / adjacent


def test_regions_of_one_class_count_apart_and_corners_do_not_touch():
    mask = np.array([[1, 0, 1], [0, 0, 0], [2, 2, 0]])
    result = inter_class_share(mask)  # two regions of 1 and one of 2, each beside the background
    assert (result.adjacent, result.inter_class, result.share) == (3, 0, 0.0)
    assert inter_class_share(np.array([[1, 2], [2, 1]])).inter_class == 4
    assert inter_class_share(np.array([[1, 1], [2, 0]]), background=2).inter_class == 1
    assert inter_class_share(np.array([[0, 1, 2]]), background=None).share == 1.0


def test_bands_of_ignored_pixels_are_bridged_up_to_the_reach():
    mask = np.zeros((9, 20), dtype=int)
    mask[:, 6:14] = 255
    mask[:, 14:] = 2
    mask[:, :6] = 1
    assert inter_class_share(mask).share == 1.0  # 8 pixels wide: both sides fill 4
    assert inter_class_share(mask, reach=3).adjacent == 0
    assert math.isnan(inter_class_share(mask, reach=0).share)
    assert math.isnan(inter_class_share(np.full((4, 4), 255)).share)
    assert mask[0, 6] == 255


def test_inter_class_pairs_sum_over_a_batch():
    rng = np.random.default_rng(0)
    batch = rng.integers(0, 4, (3, 8, 8))
    parts = [inter_class_share(torch.from_numpy(mask)) for mask in batch]
    whole = inter_class_share(batch)
    assert whole.adjacent == sum(part.adjacent for part in parts)
    assert whole.inter_class == sum(part.inter_class for part in parts)
    assert ndimage.label(batch[0] == 1)[1] > 1
    assert math.isnan(inter_class_share(np.zeros((0, 4, 4), int)).share)


@pytest.mark.parametrize(("kind", "text", "call"), ERRORS, ids=range(len(ERRORS)))
def test_errors_of_regions_name_the_argument_and_the_fix(kind, text, call):
    with pytest.raises(kind, match=text):
        call()


def test_the_background_of_inter_class_share_is_a_label():
    with pytest.raises(TypeError, match="background must be a label or None, got str 'first'"):
        inter_class_share(np.zeros((4, 4), dtype=int), background="first")
