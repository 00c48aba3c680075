"""MaskScores and scores_of against slow loops, scikit-learn and torchmetrics, and by their definitions."""

# ruff: noqa: E501  (a table of errors, one case a line)

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from drawn import CLASSES, close, draw_masks
from hypothesis import given
from hypothesis import strategies as st

from dhr_refine.metrics import ImageCounts, MaskScores, image_counts, image_scores, scores_of

RATES = ("miou", "mfpr", "mfnr", "per_image_miou", "vanishing", "vanished", "recovery")

ZEROS = np.zeros((2, 4, 4), dtype=np.int64)

COUNTS = image_counts(ZEROS, ZEROS, num_classes=3)

ERRORS = [
    (ValueError, "num_classes must be at least 1, got 0", lambda: MaskScores(0)),
    (TypeError, "num_classes must be an int, got float 3.0", lambda: MaskScores(3.0)),
    (TypeError, "ignore_index must be an int", lambda: MaskScores(3, ignore_index=None)),
    (ValueError, "ignore_index 2 is one of the 3 classes: pass a label that no class has", lambda: MaskScores(3, ignore_index=2)),
    (ValueError, r"vanish_share must lie in \[0.0, 1.0\], got 2", lambda: MaskScores(3, vanish_share=2)),
    (ValueError, "vanish_share must be above 0, or nothing vanishes", lambda: MaskScores(3, vanish_share=0)),
    (ValueError, "background must be one of 'first', 'last', 'none', got 0", lambda: MaskScores(3, background=0)),
    (ValueError, "background must be one of", lambda: scores_of(COUNTS, background="both")),
    (TypeError, "other must be a MaskScores, got int 3: merge scores with scores", lambda: MaskScores(3).merge(3)),
    (ValueError, "other was made with num_classes=4 but this one with 3: merge scores made with the same", lambda: MaskScores(3).merge(MaskScores(4))),
    (ValueError, "other was made with vanish_share=0.2 but this one with 0.1", lambda: MaskScores(3).merge(MaskScores(3, vanish_share=0.2))),
    (ValueError, "labels holds 3, but labels go from 0 to 2: drop it", lambda: MaskScores(3).compute(labels=[0, 3])),
    (ValueError, r"counts must be three arrays of one shape \(N, C\), got \[\(2,\), \(2,\), \(2,\)\]", lambda: scores_of(ImageCounts(*(part[:, 0] for part in COUNTS)))),
    (ValueError, "counts must be three arrays of one shape", lambda: image_scores(COUNTS._replace(true=COUNTS.true[:1]))),
    (ValueError, "base was not counted on the ground truth of counts: count the same images", lambda: scores_of(COUNTS, base=COUNTS._replace(true=COUNTS.true + 1))),
    (ValueError, "base was not counted on the ground truth", lambda: scores_of(COUNTS, base=ImageCounts(*(part[:1] for part in COUNTS)))),
    (ValueError, r"weights must have shape \(R, 2\), one column per image, got a NumPy float64 array of shape \(2,\)", lambda: scores_of(COUNTS, weights=np.ones(2))),
    (ValueError, r"weights must have shape \(R, 2\)", lambda: scores_of(COUNTS, weights=np.ones((5, 3)))),
    (ValueError, "weights must be finite and not negative, got -1 to 1: pass how often each image counts", lambda: scores_of(COUNTS, weights=np.array([[-1, 1]]))),
    (ValueError, "weights must be finite and not negative, got nan to nan", lambda: scores_of(COUNTS, weights=np.array([[np.nan, 1]]))),
    (ValueError, "weights must be finite and not negative, got 1 to inf", lambda: scores_of(COUNTS, weights=np.array([[np.inf, 1]]))),
    (ValueError, "counts finds more pixels of a class than are predicted or true", lambda: scores_of(COUNTS._replace(found=COUNTS.found + 1))),
    (ValueError, "counts finds .* or less than none: pass what image_counts returns", lambda: image_scores(COUNTS._replace(found=COUNTS.found - 1))),
]  # fmt: skip


def slow_scores(preds, bases, targets, *, classes=CLASSES, share=0.1, labels=None):
    """The definitions, one pixel at a time."""
    tp, p, t = np.zeros(classes), np.zeros(classes), np.zeros(classes)
    image_miou, pairs, vanishing, vanished, lost, back = [], 0, 0, 0, 0, 0
    for pred, base, target in zip(preds, bases, targets, strict=True):
        one = {"tp": [0] * classes, "p": [0] * classes, "t": [0] * classes, "base": [0] * classes}
        for y in range(target.shape[0]):
            for x in range(target.shape[1]):
                if target[y, x] == 255:
                    continue
                one["t"][target[y, x]] += 1
                if pred[y, x] != 255:
                    one["p"][pred[y, x]] += 1
                one["tp"][target[y, x]] += pred[y, x] == target[y, x]
                one["base"][target[y, x]] += base[y, x] == target[y, x]
        ious = []
        for c in range(classes):
            tp[c], p[c], t[c] = tp[c] + one["tp"][c], p[c] + one["p"][c], t[c] + one["t"][c]
            if one["t"][c] == 0:
                continue
            ious.append(one["tp"][c] / (one["p"][c] + one["t"][c] - one["tp"][c]))
            if c == 0:
                continue
            pairs += 1
            gone = one["tp"][c] / one["t"][c] < share
            vanishing += gone
            vanished += one["tp"][c] == 0
            if one["base"][c] / one["t"][c] < share:
                lost += 1
                back += not gone
        if ious:
            image_miou.append(sum(ious) / len(ious))
    seen = [c for c in range(classes) if t[c] and (labels is None or c in labels)]
    union = p + t - tp
    return {
        "miou": np.mean([tp[c] / union[c] for c in seen]),
        "mfpr": np.mean([(p[c] - tp[c]) / union[c] for c in seen]),
        "mfnr": np.mean([(t[c] - tp[c]) / union[c] for c in seen]),
        "per_image_miou": np.mean(image_miou),
        "vanishing": vanishing / pairs,
        "vanished": vanished / pairs,
        "recovery": back / lost,
        "pairs": pairs,
        "base_vanishing": lost,
        "images": len(image_miou),
    }


@pytest.mark.parametrize("labels", [None, (0, 2, 3)])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_slow_loops(seed, labels):
    pred, base, target = draw_masks(seed, images=12)
    scores = MaskScores(CLASSES)
    scores.update(pred, target, base=base)
    result = scores.compute(labels=labels)
    expected = slow_scores(pred, base, target, labels=labels)
    assert expected["base_vanishing"] > expected["recovery"] * expected["base_vanishing"] > 0
    for name, value in expected.items():
        assert close(getattr(result, name), value), name


def test_equals_torchmetrics():
    from torchmetrics.classification import MulticlassJaccardIndex

    pred, _, target = (torch.from_numpy(mask) for mask in draw_masks(7))
    pred = torch.where(pred == 255, 0, pred)  # torchmetrics has no prediction of no class
    peer = MulticlassJaccardIndex(CLASSES, average=None, ignore_index=255)
    scores = MaskScores(CLASSES)
    for one, truth in zip(pred, target, strict=True):
        peer.update(one[None], truth[None])
        scores.update(one, truth)
    result = scores.compute()
    assert np.isfinite(result.iou).all()
    np.testing.assert_allclose(result.iou, peer.compute().numpy(), rtol=1e-6)
    mean = MulticlassJaccardIndex(CLASSES, average="macro", ignore_index=255)(pred, target)
    assert result.miou == pytest.approx(float(mean), rel=1e-6)


def test_equals_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn")
    pred, _, target = draw_masks(8)
    known = target != 255
    # A prediction of 255 is one more class there; its row of true pixels is empty.
    confusion = metrics.confusion_matrix(target[known], pred[known], labels=[*range(CLASSES), 255])
    result = scores_of(image_counts(pred, target, num_classes=CLASSES))
    tp, p, t = np.diag(confusion)[:-1], confusion.sum(0)[:-1], confusion.sum(1)[:-1]
    np.testing.assert_allclose(result.iou, tp / (p + t - tp), rtol=1e-12)
    jaccard = metrics.jaccard_score(target[known], pred[known], labels=range(CLASSES), average="macro")
    assert result.miou == pytest.approx(jaccard, rel=1e-12)
    assert result.mfpr == pytest.approx(np.mean((p - tp) / (p + t - tp)), rel=1e-12)
    assert result.mfnr == pytest.approx(np.mean((t - tp) / (p + t - tp)), rel=1e-12)


def test_batches_shards_and_single_images_add_up():
    pred, base, target = draw_masks(3, images=5)
    whole, single, left, right = (MaskScores(CLASSES) for _ in range(4))
    whole.update(pred, target, base=base)
    for i in range(5):
        single.update(pred[i], target[i], base=base[i])
        (left if i < 2 else right).update(pred[i : i + 1], target[i : i + 1], base=base[i : i + 1])
    right_before = right.compute()
    left.merge(right)
    assert all(close(x, y) for x, y in zip(right.compute(), right_before, strict=True))
    for scores in (single, left):
        for name in RATES:
            assert close(getattr(scores.compute(), name), getattr(whole.compute(), name)), name
    counts, before = (image_counts(mask, target, num_classes=CLASSES) for mask in (pred, base))
    for one, other in zip(scores_of(counts, base=before), whole.compute(), strict=True):
        assert close(one, other)
    assert repr(left) == "MaskScores(num_classes=5, images=5)"


def test_scores_travel_between_processes():
    pred, base, target = draw_masks(3)
    scores = MaskScores(CLASSES, background="none")
    scores.update(pred, target, base=base)
    counts = image_counts(pred, target, num_classes=CLASSES)
    for result in (scores.compute(), scores_of(counts), image_scores(counts), counts):
        back = pickle.loads(pickle.dumps(result))
        assert type(back) is type(result)
        assert all(np.array_equal(x, y, equal_nan=True) for x, y in zip(back, result, strict=True))
    there = pickle.loads(pickle.dumps(scores))
    there.merge(scores)
    assert there.compute().images == 2 * scores.compute().images
    assert there.compute().miou == scores.compute().miou


def test_recovery_counts_the_images_that_have_a_base():
    pred, base, target = draw_masks(4)
    scores = MaskScores(CLASSES)
    scores.update(pred[0], target[0], base=base[0])
    alone = scores.compute().recovery
    scores.update(pred[1:], target[1:])
    assert scores.compute().recovery == alone
    assert scores.compute().images == 3
    without = MaskScores(CLASSES)
    without.update(pred, target)
    assert math.isnan(without.compute().recovery)
    assert without.compute().base_vanishing == 0


def test_weights_are_repetitions():
    pred, base, target = draw_masks(5, images=4)
    counts, before = (image_counts(mask, target, num_classes=CLASSES) for mask in (pred, base))
    weights = np.array([[1, 1, 1, 1], [2, 0, 1, 1], [0, 0, 0, 3]])
    together = scores_of(counts, base=before, weights=weights)
    assert together.iou.shape == (3, CLASSES)
    for row, repeats in enumerate(weights):
        index = np.repeat(np.arange(4), repeats)
        scores = MaskScores(CLASSES)
        scores.update(pred[index], target[index], base=base[index])
        for one, other in zip(together, scores.compute(), strict=True):
            assert close(one[row], other)


def test_a_prediction_of_no_class_is_a_miss():
    target = np.array([[0, 0, 1, 1]])
    scores = scores_of(image_counts(np.array([[0, 255, 1, 1]]), target, num_classes=2))
    assert scores.iou.tolist() == [0.5, 1.0]
    assert (scores.mfpr, scores.mfnr) == (0.0, 0.25)


def test_an_absent_class_is_left_out_but_its_false_positives_are_missed_elsewhere():
    target = np.array([[0, 0, 1, 1]])
    scores = scores_of(image_counts(np.array([[0, 0, 1, 2]]), target, num_classes=4))
    assert scores.iou[:2].tolist() == [1.0, 0.5]
    assert np.isnan(scores.iou[2:]).all()
    assert (scores.miou, scores.mfpr, scores.mfnr) == (0.75, 0.0, 0.25)
    assert scores.per_image_miou == 0.75


def test_ignored_pixels_take_part_in_nothing():
    pred, base, target = draw_masks(9)
    scores = MaskScores(CLASSES)
    scores.update(pred, target, base=base)
    other = MaskScores(CLASSES)
    known = target != 255
    other.update(np.where(known, pred, 3), target, base=np.where(known, base, 1))
    assert all(close(x, y) for x, y in zip(scores.compute(), other.compute(), strict=True))


@pytest.mark.parametrize(("found", "expected"), [(0, 0.0), (9, 0.0), (10, 1.0)])
def test_a_pair_is_recovered_where_it_is_not_vanishing(found, expected):
    target = np.array([[0] * 10 + [1] * 100])
    base = np.where(np.arange(110) < 19, target, 0)  # 9 of 100 found
    pred = np.where(np.arange(110) < 10 + found, target, 0)
    scores = MaskScores(2)
    scores.update(pred, target, base=base)
    assert scores.compute().recovery == expected
    assert scores.compute().base_vanishing == 1


@given(st.integers(0, 10_000), st.permutations(range(1, CLASSES)), st.booleans(), st.booleans())
def test_classes_may_be_renamed_and_images_turned(seed, order, flip, turn):
    arrays = draw_masks(seed, images=2, size=(4, 5))
    table = np.arange(256)
    table[1:CLASSES] = order
    moved = [table[mask] for mask in arrays]
    moved = [mask[:, ::-1] if flip else mask for mask in moved]
    moved = [mask.swapaxes(1, 2) if turn else mask for mask in moved]
    results = []
    for pred, base, target in (arrays, moved):
        scores = MaskScores(CLASSES)
        scores.update(pred, target, base=base)
        results.append(scores.compute())
    for name in RATES:
        assert close(*(getattr(result, name) for result in results)), name
    assert close(results[1].iou[[0, *order]], results[0].iou)


@given(st.integers(0, 10_000))
def test_bounds_and_identities(seed):
    pred, _, target = draw_masks(seed, images=2, size=(4, 5))
    scores = scores_of(image_counts(pred, target, num_classes=CLASSES))
    assert close(scores.miou + scores.mfpr + scores.mfnr, 1.0)  # union = TP + FP + FN
    assert 0 <= scores.vanished <= scores.vanishing <= 1
    perfect = scores_of(image_counts(target, target, num_classes=CLASSES))
    assert (perfect.miou, perfect.per_image_miou, perfect.mfpr, perfect.mfnr) == (1, 1, 0, 0)
    assert perfect.vanishing == 0 or perfect.pairs == 0


def test_no_image_at_all():
    empty = np.zeros((0, 4, 4), dtype=int)
    updated = MaskScores(3)
    updated.update(empty, empty, base=empty)
    for scores in (MaskScores(3), updated):
        result = scores.compute()
        assert all(math.isnan(getattr(result, name)) for name in RATES)
        assert np.isnan(result.iou).all()
        assert (result.images, result.pairs) == (0, 0)


def test_an_image_that_is_all_ignore_counts_for_nothing():
    pred, base, target = draw_masks(1)
    scores = MaskScores(CLASSES)
    scores.update(pred, target, base=base)
    before = scores.compute()
    scores.update(pred, np.full_like(target, 255), base=base)
    assert all(close(x, y) for x, y in zip(scores.compute(), before, strict=True))
    assert math.isnan(image_scores(image_counts(pred, np.full_like(target, 255), num_classes=5)).miou[0])


def test_a_single_class():
    zeros = np.zeros((2, 3), dtype=int)
    result = scores_of(image_counts(zeros, zeros, num_classes=1))
    assert (result.miou, result.pairs) == (1.0, 0)
    assert math.isnan(result.vanishing)


def test_more_classes_than_an_8_bit_mask_holds():
    target = np.array([[0, 300, 300, 299]], dtype=np.uint16)
    result = scores_of(image_counts(target, target, num_classes=301, ignore_index=65535))
    assert (result.miou, result.pairs) == (1.0, 2)


@pytest.mark.parametrize(("kind", "text", "call"), ERRORS, ids=range(len(ERRORS)))
def test_errors_name_the_argument_and_the_fix(kind, text, call):
    with pytest.raises(kind, match=text):
        call()


def test_a_refused_update_changes_nothing():
    scores = MaskScores(3)
    scores.update(ZEROS, ZEROS)
    with pytest.raises(ValueError, match="base holds"):
        scores.update(ZEROS, ZEROS, base=ZEROS + 7)
    assert scores.compute().images == 2
