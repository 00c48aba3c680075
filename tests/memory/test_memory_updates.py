"""What updates of a memory depend on, and what they do not."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from data_set import CLASSES, DIM, draw, in_labels, stacked

from dhr_refine import ClassDiscriminant, ClassMemory

pytestmark = pytest.mark.usefixtures("one_thread")
ITEMS = draw(0, 12)
FIELDS = ("seen", "images", "weight", "first", "second")


def sums(memory):
    state = memory.state_dict()
    return [state[name] for name in FIELDS]


def assert_same(one, other, tolerance=0.0):
    """Equal sums, or equal but for the rounding of float32 products, relative to the largest entry."""
    for name, a, b in zip(FIELDS, sums(one), sums(other), strict=True):
        assert a.dtype == b.dtype == torch.float64
        largest = max(1.0, float(a.abs().max()))
        torch.testing.assert_close(a, b, rtol=0, atol=tolerance * largest, msg=lambda text, n=name: n + text)


def make(items, *, known=None, **options):
    """One update for each image."""
    memory = ClassMemory(CLASSES + 1, DIM, **options)
    for item in items:
        memory.update(item.features, item.mask, labels=item.tags, known=known)
    return memory


def test_rounds_are_passes_with_the_memory_before():
    samples = [{"uss_features": i.features, "masks": i.mask, "labels": i.tags} for i in ITEMS]
    expected = make(ITEMS)
    for rounds in range(3):
        assert_same(ClassMemory.fit(samples, CLASSES + 1, rounds=rounds), expected)
        expected = make(ITEMS, known=expected.solve())
    assert_same(
        ClassMemory.fit(lambda: iter(samples), CLASSES + 1), ClassMemory.fit(samples, CLASSES + 1, rounds=6)
    )
    assert_same(ClassMemory.fit(iter(samples), CLASSES + 1, rounds=0), make(ITEMS))


def test_fit_finds_the_features_in_every_form():
    features, masks, tags = stacked(ITEMS[:3])
    expected = make(ITEMS[:3])
    for sample in (
        {"uss_features": features, "masks": masks, "labels": tags},
        {"uss_features": list(features), "masks": list(masks), "labels": tags},
    ):
        memory = ClassMemory.fit([sample], CLASSES + 1, rounds=0, least_images=3)
        assert (memory.dim, memory.least_images) == (DIM, 3.0)
        assert_same(memory, expected, 1e-6)


def test_without_tags_the_masks_say_what_there_is():
    for background in ("first", "last", "none"):
        classes = CLASSES + (background != "none")
        for item in ITEMS[:4]:
            mask = in_labels(item.mask, background)
            without = ClassMemory(classes, DIM, background=background)
            without.update(item.features, mask)
            offset = int(background == "first")
            present = {int(label) for label in item.mask.unique()} - {0, 255}
            memory = ClassMemory(classes, DIM, background=background)
            memory.update(item.features, mask, labels=sorted(label - 1 for label in present))
            assert_same(without, memory)
            assert without.images.sum() >= 1 - offset


@pytest.mark.parametrize("covariance", ["class", "pooled"])
def test_the_place_of_the_background_moves_labels_alone(covariance):
    made = {}
    for background in ("first", "last", "none"):
        classes = CLASSES + (background != "none")
        memory = ClassMemory(classes, DIM, background=background, covariance=covariance, least_images=2)
        for item in ITEMS:
            memory.update(item.features, in_labels(item.mask, background), labels=item.tags)
        made[background] = memory
    first, last, none = (made[name] for name in ("first", "last", "none"))
    order = [CLASSES, *range(CLASSES)]
    assert torch.equal(first.images, last.images[order])
    assert torch.equal(first.images[1:], none.images)
    torch.testing.assert_close(first.solve().means, last.solve().means[order])
    torch.testing.assert_close(first.solve().precision, last.solve().precision)
    torch.testing.assert_close(first.solve().means[1:], none.solve().means)
    foreground = first.state_dict()
    assert not torch.equal(first.solve().precision, none.solve().precision)
    if covariance == "class":
        assert torch.equal(foreground["second"][1:], none.state_dict()["second"])
    else:
        assert torch.equal(foreground["second"][1], none.state_dict()["second"][1])


def test_two_cells_are_the_least():
    mask = torch.full((24, 30), 255)
    features = ITEMS[0].features
    for pixels, images in ((0, 0), (47, 0), (48, 1), (49, 1)):  # a cell has 24 pixels
        mask.view(-1)[:pixels] = 3
        memory = ClassMemory(CLASSES + 1, DIM, least_images=1)
        memory.update(features, mask, labels=[2])
        assert memory.images.tolist() == [0, 0, 0, images, 0, 0, 0, 0, 0]
        assert memory.solve().known.tolist() == [False] * 3 + [bool(images)] + [False] * 5
        weight = sums(memory)[2]
        assert weight[3].item() == pytest.approx((pixels / 24) ** 0.5 if images else 0.0, rel=1e-6)


def test_least_images_counts_the_images_of_each_class():
    memory = make(ITEMS * 2)
    counts = memory.images.tolist()
    assert min(counts) < 5 <= sorted(counts)[-3]
    for least in (1, 4, 5, 5.5, 1e9):
        other = ClassMemory(CLASSES + 1, DIM, least_images=least)
        other.merge(memory)
        solved = other.solve()
        assert solved.known.tolist() == [count >= least and count > 0 for count in counts]
        assert not solved.means[~solved.known].any()
        assert not solved.directions[~solved.known].any()
        assert f"{int(solved.known.sum())} of 9 classes known" in repr(solved)
        seen = sum(count >= least for count in counts)
        assert repr(other) == f"ClassMemory(9 classes, dim 12, 24 images, {seen} classes known)"


def test_copies_are_apart():
    memory = make(ITEMS)
    kept = sums(memory)
    for other in (copy.deepcopy(memory), pickle.loads(pickle.dumps(memory)), memory.to("cpu")):
        assert_same(memory, other)
        other.update(ITEMS[0].features, ITEMS[0].mask)
        assert all(torch.equal(a, b) for a, b in zip(sums(memory), kept, strict=True))
        assert not torch.equal(other.solve().means, memory.solve().means)
    solved = memory.solve()
    for other in (copy.deepcopy(solved), pickle.loads(pickle.dumps(solved))):
        assert isinstance(other, ClassDiscriminant)
        for name in ("means", "precision", "directions", "offsets", "known"):
            assert torch.equal(getattr(other, name), getattr(solved, name))
            assert getattr(other, name).data_ptr() != getattr(solved, name).data_ptr()
        assert (other.background, other.num_classes, other.dim) == ("first", 9, DIM)
        assert other.to("cpu") is other
