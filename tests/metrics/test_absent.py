"""Classes that are predicted but absent from the ground truth, and ground truth in {0, 255}."""

from __future__ import annotations

import itertools
import pickle
import warnings

import numpy as np
import pytest
import torch
from drawn import CLASSES, close, draw_masks

from dhr_refine.metrics import ImageCounts, MaskScores, image_counts, image_scores, scores_of


def lacking(seed, *, absent=(2, 4)):
    """Masks without 255 in the prediction, and classes that the ground truth lacks."""
    pred, base, target = draw_masks(seed, images=4)
    pred, base = np.where(pred == 255, 0, pred), np.where(base == 255, 0, base)
    return pred, base, np.where(np.isin(target, absent), 0, target)


def scored(pred, target, classes=CLASSES, **options):
    scores = MaskScores(classes, **options)
    scores.update(pred, target)
    return scores.compute()


@pytest.mark.parametrize("absent", [(), (2,), (2, 4), (1, 2, 3, 4)])
def test_zero_equals_torchmetrics(absent):
    from torchmetrics.classification import MulticlassJaccardIndex

    for seed in range(3):
        pred, _, target = lacking(seed, absent=absent)
        pred = np.where(pred == 3, 0, pred)  # neither true nor predicted where target lacks it too
        peer = MulticlassJaccardIndex(CLASSES, average="macro", ignore_index=255)
        expected = float(peer(torch.from_numpy(pred), torch.from_numpy(target)))
        result = scored(pred, target, absent="zero")
        assert result.miou == pytest.approx(expected, rel=1e-6)
        counts = image_counts(pred, target, num_classes=CLASSES)
        assert scores_of(counts, absent="zero").miou == result.miou
        for one, truth, miou in zip(pred, target, image_scores(counts, absent="zero").miou, strict=True):
            peer = MulticlassJaccardIndex(CLASSES, average="macro", ignore_index=255)
            alone = float(peer(torch.from_numpy(one)[None], torch.from_numpy(truth)[None]))
            assert miou == pytest.approx(alone, rel=1e-6)


def test_zero_by_hand():
    target = np.array([[0, 0, 1, 1]])
    counts = image_counts(np.array([[0, 0, 1, 2]]), target, num_classes=4)
    skipped, zero = scores_of(counts), scores_of(counts, absent="zero")
    assert (skipped.miou, skipped.mfpr, skipped.mfnr) == (0.75, 0.0, 0.25)
    assert zero.iou[:3].tolist() == [1.0, 0.5, 0.0]
    assert np.isnan(zero.iou[3])
    assert zero.miou == zero.per_image_miou == 0.5
    assert close(zero.mfpr, 1 / 3)
    assert close(zero.mfnr, 0.5 / 3)
    assert close(zero.miou + zero.mfpr + zero.mfnr, 1.0)
    assert (zero.pairs, zero.vanishing) == (skipped.pairs, skipped.vanishing)
    assert scores_of(counts, absent="zero", labels=[0, 2]).miou == 0.5
    assert scores_of(counts, absent="zero", labels=[0, 3]).miou == 1.0


def test_both_ways_agree_where_every_class_is_there():
    pred, _, target = draw_masks(2, images=9)
    counts = image_counts(pred, target, num_classes=CLASSES)
    names = set(scores_of(counts)._fields) - {"per_image_miou"}
    for name in names:
        assert close(getattr(scores_of(counts, absent="zero"), name), getattr(scores_of(counts), name)), name


def test_streams_shards_and_resamples_with_zero():
    pred, base, target = lacking(5)
    whole, left, right = (MaskScores(CLASSES, absent="zero") for _ in range(3))
    whole.update(pred, target, base=base)
    left.update(pred[:2], target[:2], base=base[:2])
    right.update(pred[2:], target[2:], base=base[2:])
    left = pickle.loads(pickle.dumps(left))
    left.merge(right)
    assert all(close(one, other) for one, other in zip(left.compute(), whole.compute(), strict=True))
    counts, before = (image_counts(mask, target, num_classes=CLASSES) for mask in (pred, base))
    together = scores_of(counts, base=before, absent="zero", weights=np.array([[1, 1, 1, 1], [0, 2, 0, 1]]))
    assert close(together.miou[0], whole.compute().miou)
    some = ImageCounts(*(part[[1, 1, 3]] for part in counts))
    assert close(together.miou[1], scores_of(some, absent="zero").miou)
    assert close(together.per_image_miou[1], scores_of(some, absent="zero").per_image_miou)
    with pytest.raises(ValueError, match="other was made with absent='skip' but this one with 'zero'"):
        whole.merge(MaskScores(CLASSES))


@pytest.mark.parametrize(
    "call",
    [
        lambda **o: MaskScores(3, **o),
        lambda **o: scores_of(ImageCounts(*[np.ones((1, 3))] * 3), **o),
        lambda **o: image_scores(ImageCounts(*[np.ones((1, 3))] * 3), **o),
    ],
)
def test_absent_is_checked(call):
    with pytest.raises(
        ValueError, match="absent must be one of 'skip', 'zero', got 'nan': choose one of them"
    ):
        call(absent="nan")


# Ground truth in {0, 255}, of a disc.

SLIP = "target has no pixel of label 1, and 255 where the foreground seems to be, which is ignored: if 255 "
ROWS, COLUMNS = np.mgrid[:20, :20]
DISC = ((ROWS - 10) ** 2 + (COLUMNS - 9) ** 2 < 40).astype(np.int64)
NEAR = ((ROWS - 9) ** 2 + (COLUMNS - 8) ** 2 < 40).astype(np.int64)
FRAME = np.full((20, 20), 255)
FRAME[3:-3, 3:-3] = 0


def warned(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    for one in caught:
        assert one.filename == __file__
        assert str(one.message).startswith(SLIP)
    return len(caught)


@pytest.mark.parametrize("kind", [torch.from_numpy, np.asarray])
@pytest.mark.parametrize("pred", [DISC, NEAR, 255 * DISC, np.ones_like(DISC)])
def test_ground_truth_that_says_255_for_foreground(kind, pred):
    pred, target = kind(pred), kind(255 * DISC)
    scores = MaskScores(2)
    scores.update(pred, target)
    scores.update(kind(np.stack([NEAR] * 3)), kind(np.stack([255 * DISC] * 3)))
    with pytest.warns(UserWarning, match=SLIP) as caught:
        scores.compute()
    assert caught[0].filename == __file__
    shard = MaskScores(2)
    shard.merge(scores)
    assert warned(shard.compute) == 1
    scores.update(DISC, DISC)  # as the message says
    assert warned(scores.compute) == 0


def test_image_counts_looks_at_what_is_predicted():
    assert warned(lambda: image_counts(NEAR, 255 * DISC, num_classes=2)) == 1
    assert warned(lambda: image_counts(0 * NEAR, 255 * DISC, num_classes=2)) == 0
    with pytest.warns(UserWarning, match="if 7 means foreground, pass .target == 7. as integers"):
        image_counts(NEAR, 7 * DISC, num_classes=2, ignore_index=7)


def test_many_images_without_foreground_whatever_is_predicted():
    scores = MaskScores(2)
    scores.update(np.zeros((9, 20, 20), int), np.stack([255 * DISC] * 9))
    assert warned(scores.compute) == 0
    scores.update(np.zeros((1, 20, 20), int), 255 * DISC[None])
    assert warned(scores.compute) == 1
    scores.update(np.zeros((11, 20, 20), int), np.zeros((11, 20, 20), int))
    assert warned(scores.compute) == 0  # most are images of the background


def valid_uses():
    nothing = np.zeros_like(DISC)
    yield "an image of the background, padded", 2, nothing, FRAME
    yield "the same with something predicted", 2, np.where(FRAME == 0, NEAR, 0), FRAME
    yield "a band around an object", 2, NEAR, np.where(DISC == NEAR, DISC, 255)
    yield "one object known, one not", 2, np.maximum(NEAR, DISC.T), np.where(ROWS == 0, 1, 255 * DISC)
    yield "more classes", 3, DISC, 255 * DISC
    yield "one class", 1, nothing, 255 * DISC
    yield "VOC, an image with background and ignored pixels", 21, 15 * NEAR, 255 * DISC
    yield "no ignored pixel", 2, NEAR, nothing
    yield "no image", 2, nothing[None][:0], nothing[None][:0]


@pytest.mark.parametrize(
    ("classes", "pred", "target"), [case[1:] for case in valid_uses()], ids=[case[0] for case in valid_uses()]
)
def test_no_warning_on_valid_use(classes, pred, target):
    def run():
        scores = MaskScores(classes)
        scores.update(pred, target)
        scores.compute()
        image_counts(pred, target, num_classes=classes)

    assert warned(run) == 0


def test_order_does_not_matter():
    pairs = [(NEAR, 255 * DISC), (np.zeros_like(DISC), FRAME), (NEAR, np.zeros_like(DISC))]
    for order in itertools.permutations(pairs):
        scores = MaskScores(2)
        for pred, target in order:
            scores.update(pred, target)
        assert warned(scores.compute) == 0  # mostly the frame is ignored
