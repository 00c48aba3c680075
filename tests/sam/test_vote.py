"""sam_vote against loops over pixels, and what it promises whatever comes in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sam_reference import sepl, vote
from scenes import make_scene

from dhr_refine import refine_steps
from dhr_refine.sam import as_segments, sam_vote


def draw(seed, classes=4, ignore=True):
    """A mask (H, W) of a few labels, scores of them, and segments that overlap, are empty or whole."""
    rng = np.random.default_rng(seed)
    size = tuple(rng.integers(2, 10, 2))
    mask = rng.integers(0, classes, size)
    mask = np.where(rng.random(size) < 0.5, mask[0, 0], mask)
    probs = rng.random((classes, *size)) ** 2 + 2 * (np.arange(classes)[:, None, None] == mask)
    probs = (probs / probs.sum(0)).astype(np.float32)
    if ignore:
        mask = np.where(rng.random(size) < 0.15, 255, mask)
    count = int(rng.integers(0, 7))
    masks = rng.random((count, *size)) < rng.choice([0.0, 0.3, 0.7, 1.0], (count, 1, 1))
    for number in range(count):  # most segments hang together
        y, x = rng.integers(0, size[0]), rng.integers(0, size[1])
        if rng.random() < 0.7:
            masks[number] = False
            masks[number, y : y + 4, x : x + 5] = True
    return mask, probs, masks


def keep(labels, before, probs):
    """What sam_vote gives back: classes below half of their pixels, and one pixel for those without."""
    count = len(probs)
    shrunk = [k for k in range(count) if (labels == k).sum() < 0.5 * (before == k).sum()]
    labels = np.where(np.isin(before, shrunk), before, labels)
    assert all((labels == k).any() for k in range(count) if (before == k).any())
    return labels


def local_of(mask, classes):
    return np.select([mask == label for label in classes], range(len(classes)), len(classes))


@given(st.integers(0, 2**32))
def test_votes_of_scores_are_those_of_the_loop(seed):
    mask, probs, masks = draw(seed)
    local = local_of(mask, range(4))
    wanted = keep(vote(local, probs, masks), local, probs)
    got = sam_vote(
        torch.from_numpy(mask), torch.from_numpy(masks), probs=torch.from_numpy(probs), classes=[*range(4)]
    )
    assert np.array_equal(got.numpy(), np.where(wanted == 4, 255, wanted))


@given(st.integers(0, 2**32))
def test_votes_of_labels_are_those_of_ones_and_zeros(seed):
    mask, _, masks = draw(seed)
    classes = sorted({*mask.ravel().tolist()} - {255})
    if not classes:
        return
    local = local_of(mask, classes)
    probs = np.stack([local == number for number in range(len(classes))]).astype(float)
    wanted = keep(vote(local, probs, masks), local, probs)
    got = sam_vote(torch.from_numpy(mask), torch.from_numpy(masks))
    assert np.array_equal(got.numpy(), np.array([*classes, 255])[wanted])


@given(st.integers(0, 2**32))
def test_sepl_is_that_of_its_loop(seed):
    mask, _, masks = draw(seed, ignore=False)
    got = sam_vote(torch.from_numpy(mask), torch.from_numpy(masks), rule="sepl")
    assert np.array_equal(got.numpy(), sepl(mask, masks, 4))


@given(st.integers(0, 2**32))
def test_no_class_vanishes_and_what_nothing_covers_stays(seed):
    mask, _, masks = draw(seed)
    got = sam_vote(torch.from_numpy(mask), torch.from_numpy(masks)).numpy()
    assert set(np.unique(got)) == set(np.unique(mask))
    assert np.array_equal(got == 255, mask == 255)
    assert np.array_equal(got[~masks.any(0)], mask[~masks.any(0)])


@given(st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_the_order_of_segments_and_classes_does_not_matter(seed, random):
    mask, probs, masks = draw(seed)
    tensor, scores = torch.from_numpy(mask), torch.from_numpy(probs)
    wanted = sam_vote(tensor, torch.from_numpy(masks), probs=scores, classes=[0, 1, 2, 3])
    order, classes = [*range(len(masks))], [0, 1, 2, 3]
    random.shuffle(order)
    random.shuffle(classes)
    got = sam_vote(tensor, torch.from_numpy(masks[order]), probs=scores[classes], classes=classes)
    assert torch.equal(got, wanted)


def test_flips_flip_the_result():
    mask, probs, masks = (torch.from_numpy(array) for array in draw(5))
    options = {"classes": [0, 1, 2, 3]}
    wanted = sam_vote(mask, masks, probs=probs, **options)
    flipped = sam_vote(mask.flip(1), masks.flip(2), probs=probs.flip(2), **options)
    assert torch.equal(flipped.flip(1), wanted)


def test_batches_lists_and_types_are_the_single_masks():
    calls = [draw(seed) for seed in range(3)]
    size = (6, 7)
    calls = [
        (np.resize(m, size), np.resize(p, (4, *size)), np.resize(s, (len(s), *size))) for m, p, s in calls
    ]
    masks, probs, segments = ([torch.from_numpy(call[i].copy()) for call in calls] for i in range(3))
    options = {"classes": [0, 1, 2, 3]}
    wanted = [sam_vote(m, s, probs=p, **options) for m, s, p in zip(masks, segments, probs)]
    batch = torch.stack(masks)
    for form in (batch, batch.byte(), batch.float(), batch.int().mT.contiguous().mT):
        got = sam_vote(form, segments, probs=torch.stack(probs), **options)
        assert got.dtype == torch.long
        assert torch.equal(got, torch.stack(wanted))
    listed = sam_vote(masks, [as_segments(one) for one in segments], probs=probs, classes=[[0, 1, 2, 3]] * 3)
    assert isinstance(listed, list)
    assert all(torch.equal(a, b) for a, b in zip(listed, wanted, strict=True))
    labels = torch.stack([torch.arange(42).view(size) // 6] * 3)
    maps = sam_vote(batch, labels)
    assert torch.equal(maps[1], sam_vote(masks[1], labels[1]))
    assert sam_vote(batch[:0], []).shape == (0, *size)


def test_the_result_of_refine_steps_votes_by_its_scores():
    scene = make_scene(0, size=(24, 32), ignore=True)
    steps = refine_steps(scene.cams, scene.mask, scene.uss, scene.wss, scene.image, labels=scene.tags)
    segments = torch.arange(24 * 32).view(24, 32) // 40
    got = sam_vote(steps, segments)
    assert torch.equal(got, sam_vote(steps.mask, segments, probs=steps.probs, classes=steps.classes))
    cams, masks = torch.stack([scene.cams] * 2), torch.stack([scene.mask] * 2)
    features = [torch.stack([scene.uss] * 2), [torch.stack([level] * 2) for level in scene.wss]]
    options = {"labels": [scene.tags, []], "boundary": None}
    both = refine_steps(cams, masks, *features, torch.stack([scene.image] * 2), **options)
    voted = sam_vote(both, [segments, segments])
    assert voted.shape == (2, 24, 32)
    assert torch.equal(voted[1], scene.mask)  # without tags nothing changes
    listed = refine_steps(
        [*cams], [*masks], [*features[0]], [[level[0] for level in features[1]]] * 2, **options
    )
    assert all(torch.equal(a, b) for a, b in zip(sam_vote(listed, [segments] * 2), voted, strict=True))


def test_tags_restrict_the_classes():
    mask = torch.tensor([[0, 0, 3, 3, 7, 7]])
    segments = torch.tensor([[1, 1, 2, 2, 2, 0]])
    for tags in ([2], torch.tensor([0.0, 0, 1, 0, 0, 0, 0])):
        for rule in ("scores", "sepl"):
            result = sam_vote(mask, segments, labels=tags, rule=rule)
            assert result.tolist() == [[0, 0, 3, 3, 3, 255]]
    last = torch.tensor([0.0, 0, 0, 1, 0])
    result = sam_vote(
        torch.tensor([[5, 5, 3, 3, 7]]), torch.tensor([[1, 1, 2, 2, 2]]), labels=last, background="last"
    )
    assert result.tolist() == [[5, 5, 3, 3, 3]]


def test_boxes_leave_out_what_is_outside():
    mask = torch.tensor([[1, 1, 1, 0, 0, 0]])
    segments = torch.tensor([[1, 1, 1, 1, 1, 1]])
    result = sam_vote(mask, segments, boxes=(1, 0, 6, 1), box_format="xyxy")
    inner = sam_vote(mask[:, 1:], segments[:, 1:])
    assert result[0, 0] == 255
    assert torch.equal(result[:, 1:], inner)
    both = sam_vote(mask[None], [segments], boxes=[(0, 1, 1, 6)], box_format="yyxx")
    assert torch.equal(both[0], result)


def test_masks_without_a_class_stay():
    empty = torch.full((2, 3), 255)
    for rule in ("scores", "sepl"):
        assert torch.equal(sam_vote(empty, torch.ones(2, 3, dtype=torch.long), rule=rule), empty)
    single = torch.zeros(2, 3, dtype=torch.long)
    for rule in ("scores", "sepl"):
        assert torch.equal(sam_vote(single, torch.ones(2, 3, dtype=torch.long), rule=rule), single)
    none = torch.zeros(0, 2, 3)
    mask = torch.tensor([[0, 1, 1], [2, 255, 0]])
    for rule in ("scores", "sepl"):
        assert torch.equal(sam_vote(mask, none, rule=rule), mask)


def test_pixels_whose_scores_are_all_zero_keep_their_label():
    mask = torch.tensor([[0, 1, 1]])
    result = sam_vote(mask, torch.ones(1, 3, dtype=torch.long), probs=torch.zeros(2, 1, 3), classes=[0, 1])
    assert torch.equal(result, mask)


def test_without_a_background_sepl_leaves_what_nothing_takes():
    mask, segments = torch.tensor([[4, 4, 4, 9, 9, 9]]), torch.tensor([[0, 0, 1, 1, 0, 0]])
    assert sam_vote(mask, segments, rule="sepl").tolist() == [[4, 4, 0, 0, 9, 9]]
    assert torch.equal(sam_vote(mask, segments, background="none", rule="sepl"), mask)


def test_inputs_stay():
    mask, probs, masks = (torch.from_numpy(array) for array in draw(3))
    before = [one.clone() for one in (mask, probs, masks)]
    sam_vote(mask, masks, probs=probs, classes=[0, 1, 2, 3])[:] = 7
    assert all(torch.equal(a, b) for a, b in zip((mask, probs, masks), before, strict=True))


def test_on_every_device(device):
    mask, probs, masks = (torch.from_numpy(array) for array in draw(7))
    wanted = sam_vote(mask, masks, probs=probs, classes=[0, 1, 2, 3])
    got = sam_vote(mask.to(device), masks, probs=probs.to(device), classes=[0, 1, 2, 3])
    assert got.device.type == mask.to(device).device.type
    assert torch.equal(got.cpu(), wanted)


MASK = torch.tensor([[0, 1], [1, 0]])
ONE = torch.ones(2, 2, dtype=torch.long)


@pytest.mark.parametrize(
    ("masks", "segments", "options", "error", "text"),
    [
        (MASK, ONE, {"rule": "dhr"}, ValueError, "rule must be one of 'scores', 'sepl'"),
        (MASK, ONE, {"background": "middle"}, ValueError, "background must be one of"),
        (MASK, ONE, {"background": "last"}, ValueError, "'last' needs the number of classes: pass multi-hot"),
        (MASK, ONE, {"ignore_index": 1.5}, TypeError, "ignore_index must be an int"),
        (MASK, ONE, {"labels": [0], "ignore_index": 1}, ValueError, "ignore_index 1 is the label of a class"),
        (MASK, torch.ones(2, 3, dtype=torch.long), {}, ValueError, r"of \(2, 3\) but the mask is \(2, 2\)"),
        (MASK[None], [], {}, ValueError, "segments has 0 entries but there are 1 images"),
        (MASK[None], 3, {}, TypeError, "segments must have an entry for each of the 1 images"),
        (MASK[None], [3], {}, TypeError, r"segments\[0\] must be masks"),
        (MASK.bool(), ONE, {}, TypeError, r"masks must hold labels.*call .long\(\) on it"),
        (MASK / 3, ONE, {}, ValueError, "masks holds values that are no whole numbers"),
        (MASK - 1, ONE, {}, ValueError, "masks holds the label -1, which no class has"),
        (MASK[:0], ONE, {}, ValueError, "masks is empty"),
        ([], [], {}, TypeError, "masks must hold at least one mask"),
        ([MASK, None], [ONE, ONE], {}, TypeError, r"masks\[1\] must be a torch.Tensor"),
        (MASK.numpy(), ONE, {}, TypeError, "masks must be a torch.Tensor"),
        (MASK, ONE, {"probs": torch.ones(3, 2, 2)}, ValueError, r"probs must be \(2, 2, 2\), a map for each"),
        (MASK, ONE, {"probs": torch.ones(2, 2, 2).long()}, TypeError, "probs must be floating point"),
        (MASK, ONE, {"probs": -torch.ones(2, 2, 2)}, ValueError, "probs must not be negative"),
        (MASK, ONE, {"probs": torch.full((2, 2, 2), torch.nan)}, ValueError, "probs holds NaN"),
        (MASK, ONE, {"probs": torch.ones(2, 2, 2), "classes": [1, 1]}, ValueError, "names a label twice"),
        (
            MASK,
            ONE,
            {"probs": torch.ones(2, 2, 2), "classes": 2},
            TypeError,
            "classes must list the mask labels",
        ),
        (
            MASK,
            ONE,
            {"classes": [0, 9], "labels": [0]},
            ValueError,
            r"classes has \[9\], which the tags do not",
        ),
        (MASK, ONE, {"boxes": (0, 0, 2, 2)}, ValueError, "box_format must be"),
        (MASK[None], [ONE], {"probs": []}, ValueError, "probs must have one entry for each of the 1 masks"),
    ],
)
def test_wrong_calls_are_refused(masks, segments, options, error, text):
    with pytest.raises(error, match=text):
        sam_vote(masks, segments, **options)


def test_steps_come_with_their_scores():
    cams = torch.rand(1, 3, 3, generator=torch.Generator().manual_seed(0))
    steps = refine_steps(cams, MASK, cams, cams, labels=[0], boundary=None)
    with pytest.raises(ValueError, match="probs and classes come with the result of refine_steps"):
        sam_vote(steps, ONE, probs=torch.ones(2, 2, 2))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RuntimeError, match=r"a.png cannot be read"):
        sam_vote(MASK, tmp_path / "a.png")
