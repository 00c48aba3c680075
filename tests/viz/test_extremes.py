"""show_extremes: which images are drawn, in which order, and with which scores."""

from __future__ import annotations

import pytest
import torch
from shown import MINUS, assert_nothing_overlaps, legend, picture, titles

from dhr_refine import viz


def make_masks(shares):
    """Ground truth of one class, and masks that find a share of its 10 columns: mIoU = share."""
    masks = torch.zeros(len(shares), 20, 10, dtype=torch.long)
    for mask, share in zip(masks, shares):
        mask[:, : round(10 * share)] = 1
    return masks


def test_extremes_are_sorted_by_change():
    before = make_masks([0.5, 0.5, 0.5, 0.5, 0.5])
    after = make_masks([0.6, 0.1, 1.0, 0.5, 0.4])
    targets = torch.ones_like(before)
    images = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 20, 10)
    figure = viz.show_extremes(images, targets, before, after, count=2, names=["background", "dog"])
    assert titles(figure)[::4] == ["Image 2", "Image 0", "Image 1", "Image 4"]
    assert titles(figure)[1::4] == ["Ground truth"] * 4
    assert titles(figure)[2::4] == ["Before, mIoU 50.0"] * 4
    assert titles(figure)[3::4] == [
        "After, mIoU 100.0 (+50.0)",
        "After, mIoU 60.0 (+10.0)",
        f"After, mIoU 10.0 ({MINUS}40.0)",
        f"After, mIoU 40.0 ({MINUS}10.0)",
    ]
    assert [text.get_text() for text in figure.texts] == ["Best by change in mIoU", "Worst by change in mIoU"]
    assert [int(picture(figure, place)[0, 0, 0]) for place in (0, 4, 8, 12)] == [2, 0, 1, 4]
    assert (picture(figure, 9) == viz.overlay_mask(images[1], targets[1])).all()
    assert (picture(figure, 10) == viz.overlay_mask(images[1], before[1])).all()
    assert (picture(figure, 11) == viz.overlay_mask(images[1], after[1])).all()
    assert legend(figure) == ["background", "dog"]
    assert_nothing_overlaps(figure)


def test_extremes_of_different_sizes_read_only_what_they_draw():
    sizes = [(20, 10), (12, 30), (16, 16), (9, 9)]
    targets = [torch.ones(size, dtype=torch.long) for size in sizes]
    targets[3][:] = 255  # no labelled pixel: no score
    targets[0][0] = 255
    after = [target.clamp_max(1) for target in targets]
    before = [torch.zeros(size, dtype=torch.long) for size in sizes]
    before[1][:, :15] = 1
    before[2][:] = 1
    after[2][:8] = 255  # a miss

    class Images(list):
        read: tuple[int, ...] = ()

        def __getitem__(self, index):
            self.read += (index,)
            return super().__getitem__(index)

    images = Images(torch.zeros(3, *size) for size in sizes)
    figure = viz.show_extremes(images, targets, before, after, titles=["a", "b", "c", "d"])
    assert titles(figure)[::4] == ["a", "c"]  # three scored images leave one at either end
    assert titles(figure)[3::4] == ["After, mIoU 100.0 (+100.0)", f"After, mIoU 50.0 ({MINUS}50.0)"]
    assert images.read == (0, 2)
    assert legend(figure) == ["class 0", "class 1", "ignored"]


def test_extremes_name_what_is_wrong():
    masks = make_masks([0.5, 0.6])
    images = torch.zeros(2, 3, 20, 10)
    with pytest.raises(ValueError, match="targets has 1 entries but images has 2: pass one per image"):
        viz.show_extremes(images, masks[:1], masks, masks)
    with pytest.raises(ValueError, match="titles has 3 entries but images has 2"):
        viz.show_extremes(images, masks, masks, masks, titles=list("abc"))
    with pytest.raises(ValueError, match="at least 2 with labelled pixels in targets, got 1"):
        viz.show_extremes(images[:1], masks[:1], masks[:1], masks[:1])
    with pytest.raises(ValueError, match=r"after\[0\] has size \(20, 9\), not \(20, 10\)"):
        viz.show_extremes(images, masks, masks, masks[:, :, :9])
    with pytest.raises(ValueError, match="count must be at least 1"):
        viz.show_extremes(images, masks, masks, masks, count=0)
