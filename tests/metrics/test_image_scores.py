"""image_scores: which tags vanish, where the background is, and how it fits the figures of a data set."""

from __future__ import annotations

import numpy as np
import pytest
from drawn import CLASSES, close, draw_masks

from dhr_refine.metrics import ImageCounts, MaskScores, image_counts, image_scores, scores_of


def joined(*batches):
    return ImageCounts(*map(np.concatenate, zip(*batches, strict=True)))


def test_per_image_records():
    pred, _, target = draw_masks(6, images=4)
    batches = [image_counts(pred[i : i + 2], target[i : i + 2], num_classes=CLASSES) for i in (0, 2)]
    counts = joined(*batches)
    records, whole = image_scores(counts), scores_of(counts)
    assert close(records.miou.mean(), whole.per_image_miou)
    assert records.pairs.sum() == whole.pairs
    assert close(records.vanishing.sum() / records.pairs.sum(), whole.vanishing)
    assert close(records.vanished.sum() / records.pairs.sum(), whole.vanished)
    for i in range(4):
        alone = scores_of(ImageCounts(*(part[i : i + 1] for part in counts)))
        assert close(alone.miou, records.miou[i])


@pytest.mark.parametrize("pixels", [10, 30, 70, 110, 1000])
def test_just_a_tenth_is_not_vanishing(pixels):
    target = np.ones((1, pixels), dtype=int)
    for missing, expected in ((0, 0.0), (1, 1.0)):
        pred = (np.arange(pixels) < pixels // 10 - missing).astype(int)[None]
        scores = scores_of(image_counts(pred, target, num_classes=2))
        assert scores.vanishing == expected
        assert scores.vanished == float(pred.sum() == 0)


def test_a_class_found_only_in_the_wrong_place_has_vanished():
    target, pred = np.array([[0, 0, 1, 1]]), np.array([[1, 1, 0, 0]])
    scores = scores_of(image_counts(pred, target, num_classes=2))
    assert (scores.vanishing, scores.vanished) == (1.0, 1.0)


def test_where_the_background_is():
    target, pred = np.array([[0, 1, 2]]), np.full((1, 3), 1)
    counts = image_counts(pred, target, num_classes=3)
    expected = {"first": [1, 2], "last": [0, 1], "none": [0, 1, 2]}
    for background, pairs in expected.items():
        records = image_scores(counts, background=background)
        assert records.pairs[0].nonzero()[0].tolist() == pairs
        assert records.vanished[0].nonzero()[0].tolist() == [c for c in pairs if c != 1]
        scores = MaskScores(3, background=background)
        scores.update(pred, target)
        assert scores.compute().pairs == len(pairs)


def test_vanish_share():
    target = np.array([[1, 1, 1, 1]])
    counts = image_counts(np.array([[1, 1, 0, 0]]), target, num_classes=2)
    assert scores_of(counts, vanish_share=0.5).vanishing == 0.0
    assert scores_of(counts, vanish_share=0.51).vanishing == 1.0
    # 0.07 * 100 is above 7 in floating point.
    seven = image_counts((np.arange(100) < 7).astype(int)[None], np.ones((1, 100), int), num_classes=2)
    assert scores_of(seven, vanish_share=0.07).vanishing == 0.0
