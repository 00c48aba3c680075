"""dhr_refine.metrics against slow loops, scikit-learn and torchmetrics, and by its own definitions."""

# ruff: noqa: E501  (tables of errors, one case a line)

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from dhr_refine.metrics import (
    ImageCounts,
    MaskScores,
    image_counts,
    image_scores,
    inter_class_share,
    scores_of,
)

CLASSES = 5
RATES = ("miou", "mfpr", "mfnr", "per_image_miou", "vanishing", "vanished", "recovery")


def masks(seed, *, images=3, size=(9, 11), classes=CLASSES, ignore=0.1):
    """Predictions, base masks and truths in which classes are missing here and there, with 255 in all."""
    rng = np.random.default_rng(seed)
    shape = images, *size
    target = rng.integers(0, classes, shape) * (rng.random(shape) < 0.8)
    for image in target:  # each image lacks a class
        image[image == rng.integers(1, classes)] = 0
    result = []
    for noise in (0.3, 0.6):
        pred = np.where(rng.random(shape) < noise, rng.integers(0, classes, shape), target)
        for image in pred:  # and a class vanishes
            image[image == rng.integers(1, classes)] = 0
        result.append(np.where(rng.random(shape) < ignore / 2, 255, pred))
    return *result, np.where(rng.random(shape) < ignore, 255, target)


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


def close(one, other):
    return one == pytest.approx(other, rel=1e-12, abs=1e-15, nan_ok=True)


def joined(*batches):
    return ImageCounts(*map(np.concatenate, zip(*batches, strict=True)))


# --------------------------------------------------------------------------------------------------
# Against other implementations


@pytest.mark.parametrize("labels", [None, (0, 2, 3)])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_slow_loops(seed, labels):
    pred, base, target = masks(seed, images=12)
    scores = MaskScores(CLASSES)
    scores.update(pred, target, base=base)
    result = scores.compute(labels=labels)
    expected = slow_scores(pred, base, target, labels=labels)
    assert expected["base_vanishing"] > expected["recovery"] * expected["base_vanishing"] > 0
    for name, value in expected.items():
        assert close(getattr(result, name), value), name


def test_equals_torchmetrics():
    from torchmetrics.classification import MulticlassJaccardIndex

    pred, _, target = (torch.from_numpy(mask) for mask in masks(7))
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
    pred, _, target = masks(8)
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


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.int32, np.int64])
def test_types_devices_and_layouts(kind, device):
    pred, _, target = masks(2)
    expected = image_counts(pred, target, num_classes=CLASSES)
    for one, truth in (
        (pred.astype(kind), target.astype(kind)),
        (np.asfortranarray(pred.astype(kind)), target),
        (torch.from_numpy(pred.astype(np.int32)).to(device), torch.from_numpy(target).to(device)),
        (torch.from_numpy(pred).mT.contiguous().mT, target),
    ):
        before = one.copy() if isinstance(one, np.ndarray) else one.clone()
        counts = image_counts(one, truth, num_classes=CLASSES)
        assert all(np.array_equal(x, y) for x, y in zip(counts, expected, strict=True))
        assert (before == one).all()
        assert {part.dtype for part in counts} == {np.dtype(np.int64)}


def test_read_only_arrays_are_read():
    pred, _, target = masks(2)
    pred.flags.writeable = False
    assert image_counts(pred, target, num_classes=CLASSES).true.sum() == (target != 255).sum()


# --------------------------------------------------------------------------------------------------
# Streaming


def test_batches_shards_and_single_images_add_up():
    pred, base, target = masks(3, images=5)
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


def test_recovery_counts_the_images_that_have_a_base():
    pred, base, target = masks(4)
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
    pred, base, target = masks(5, images=4)
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


def test_per_image_records():
    pred, _, target = masks(6, images=4)
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


# --------------------------------------------------------------------------------------------------
# Definitions


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
    pred, base, target = masks(9)
    scores = MaskScores(CLASSES)
    scores.update(pred, target, base=base)
    other = MaskScores(CLASSES)
    known = target != 255
    other.update(np.where(known, pred, 3), target, base=np.where(known, base, 1))
    assert all(close(x, y) for x, y in zip(scores.compute(), other.compute(), strict=True))


def test_a_class_found_only_in_the_wrong_place_has_vanished():
    target, pred = np.array([[0, 0, 1, 1]]), np.array([[1, 1, 0, 0]])
    scores = scores_of(image_counts(pred, target, num_classes=2))
    assert (scores.vanishing, scores.vanished) == (1.0, 1.0)


@pytest.mark.parametrize("pixels", [10, 30, 70, 110, 1000])
def test_just_a_tenth_is_not_vanishing(pixels):
    target = np.ones((1, pixels), dtype=int)
    for missing, expected in ((0, 0.0), (1, 1.0)):
        pred = (np.arange(pixels) < pixels // 10 - missing).astype(int)[None]
        scores = scores_of(image_counts(pred, target, num_classes=2))
        assert scores.vanishing == expected
        assert scores.vanished == float(pred.sum() == 0)


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


@pytest.mark.parametrize(("found", "expected"), [(0, 0.0), (9, 0.0), (10, 1.0)])
def test_a_pair_is_recovered_where_it_is_not_vanishing(found, expected):
    target = np.array([[0] * 10 + [1] * 100])
    base = np.where(np.arange(110) < 19, target, 0)  # 9 of 100 found
    pred = np.where(np.arange(110) < 10 + found, target, 0)
    scores = MaskScores(2)
    scores.update(pred, target, base=base)
    assert scores.compute().recovery == expected
    assert scores.compute().base_vanishing == 1


def test_vanish_share():
    target = np.array([[1, 1, 1, 1]])
    counts = image_counts(np.array([[1, 1, 0, 0]]), target, num_classes=2)
    assert scores_of(counts, vanish_share=0.5).vanishing == 0.0
    assert scores_of(counts, vanish_share=0.51).vanishing == 1.0
    # 0.07 * 100 is above 7 in floating point.
    seven = image_counts((np.arange(100) < 7).astype(int)[None], np.ones((1, 100), int), num_classes=2)
    assert scores_of(seven, vanish_share=0.07).vanishing == 0.0


@given(st.integers(0, 10_000), st.permutations(range(1, CLASSES)), st.booleans(), st.booleans())
def test_classes_may_be_renamed_and_images_turned(seed, order, flip, turn):
    arrays = masks(seed, images=2, size=(4, 5))
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
    pred, _, target = masks(seed, images=2, size=(4, 5))
    scores = scores_of(image_counts(pred, target, num_classes=CLASSES))
    assert close(scores.miou + scores.mfpr + scores.mfnr, 1.0)  # union = TP + FP + FN
    assert 0 <= scores.vanished <= scores.vanishing <= 1
    perfect = scores_of(image_counts(target, target, num_classes=CLASSES))
    assert (perfect.miou, perfect.per_image_miou, perfect.mfpr, perfect.mfnr) == (1, 1, 0, 0)
    assert perfect.vanishing == 0 or perfect.pairs == 0


# --------------------------------------------------------------------------------------------------
# Degenerate inputs


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
    pred, base, target = masks(1)
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


# --------------------------------------------------------------------------------------------------
# Inter-class regions


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


# --------------------------------------------------------------------------------------------------
# Errors

ZEROS = np.zeros((2, 4, 4), dtype=np.int64)
COUNTS = image_counts(ZEROS, ZEROS, num_classes=3)
ERRORS = [
    (ValueError, "num_classes must be at least 1, got 0", lambda: MaskScores(0)),
    (TypeError, "num_classes must be an int, got float 3.0", lambda: MaskScores(3.0)),
    (TypeError, "ignore_index must be an int", lambda: MaskScores(3, ignore_index=None)),
    (ValueError, "ignore_index 2 is one of the 3 classes: pass a label that no class has", lambda: MaskScores(3, ignore_index=2)),
    (ValueError, "ignore_index 255 is one of the 300 classes", lambda: image_counts(ZEROS, ZEROS, num_classes=300)),
    (ValueError, r"vanish_share must lie in \[0.0, 1.0\], got 2", lambda: MaskScores(3, vanish_share=2)),
    (ValueError, "vanish_share must be above 0, or nothing vanishes", lambda: MaskScores(3, vanish_share=0)),
    (ValueError, "background must be one of 'first', 'last', 'none', got 0", lambda: MaskScores(3, background=0)),
    (ValueError, "background must be one of", lambda: scores_of(COUNTS, background="both")),
    (TypeError, "pred must be a tensor or an array of labels, got list .*: convert it with torch.as_tensor", lambda: MaskScores(3).update([[0]], ZEROS)),
    (TypeError, "pred must hold integer labels, got a torch.float32 tensor", lambda: MaskScores(3).update(torch.zeros(2, 4, 4), ZEROS)),
    (TypeError, "target must hold integer labels, got a torch.bool tensor", lambda: MaskScores(3).update(ZEROS, torch.zeros(2, 4, 4).bool())),
    (TypeError, "base must hold integer labels, got a NumPy float64 array", lambda: MaskScores(3).update(ZEROS, ZEROS, base=ZEROS + 0.5)),
    (ValueError, r"pred must have shape \(B, H, W\) or \(H, W\), got a NumPy int64 array of shape \(1, 2, 4, 4\)", lambda: MaskScores(3).update(ZEROS[None], ZEROS)),
    (ValueError, r"pred has shape \(4, 4\) but target has \(2, 4, 4\): pass masks of the same images", lambda: MaskScores(3).update(ZEROS[0], ZEROS)),
    (ValueError, r"base has shape \(1, 4, 4\) but target has \(2, 4, 4\)", lambda: MaskScores(3).update(ZEROS, ZEROS, base=ZEROS[:1])),
    (ValueError, "pred is on meta but target is on cpu: move one of them", lambda: MaskScores(3).update(torch.zeros(2, 4, 4, dtype=torch.long, device="meta"), ZEROS)),
    (ValueError, "pred holds the label 3, but num_classes=3 allows 0 to 2 and ignore_index 255: raise num_classes", lambda: MaskScores(3).update(ZEROS + 3, ZEROS)),
    (ValueError, "target holds the label -1, but num_classes=3", lambda: MaskScores(3).update(ZEROS, ZEROS - 1)),
    (ValueError, "base holds the label 7", lambda: MaskScores(3).update(ZEROS, ZEROS, base=ZEROS + 7)),
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
    (ValueError, "reach must lie in", lambda: inter_class_share(ZEROS, reach=-1)),
    (TypeError, "masks must hold integer labels", lambda: inter_class_share(ZEROS / 2)),
    (ValueError, "masks must have shape", lambda: inter_class_share(ZEROS[0, 0])),
]  # fmt: skip


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


def test_the_background_of_inter_class_share_is_a_label():
    with pytest.raises(TypeError, match="background must be a label or None, got str 'first'"):
        inter_class_share(np.zeros((4, 4), dtype=int), background="first")
