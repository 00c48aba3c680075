"""Segments as the boundary tool of refine_mask: each image gets its own, whatever the call."""

from __future__ import annotations

import pytest
import torch
from scene_folder import write_png
from scenes import make_scene, stack

from dhr_refine import base_mask, dense_crf, refine_mask, refine_steps, two_threshold_mask
from dhr_refine.edges import Place, PlacedTool
from dhr_refine.sam import SegmentVoting, as_segments, segment_voting
from dhr_refine.sam.vote import vote_scores


def make_segments(seed, size=(24, 32)):
    """A label map of blocks, and blocks that overlap them."""
    generator = torch.Generator().manual_seed(seed)
    small = torch.randint(0, 5, (4, 4), generator=generator)
    rows, columns = (torch.arange(side) * 4 // side for side in size)
    labels = small[rows[:, None], columns]
    masks = [labels == label for label in range(1, 5)]
    return torch.stack([*masks, masks[0] | masks[1], torch.zeros(size, dtype=torch.bool)])


def voter(segments, boxes=None, tool=None):
    """The same votes as a plain callable, which knows the order in which one crop comes after the other."""

    def apply(images, probs):
        if tool is not None:
            probs = tool(images, probs)
        voted = vote_scores(probs[0], segments)
        return (voted / voted.sum(0).clamp_min(1e-12))[None].float()

    return apply


def scenes_of(count, sizes=((24, 32),)):
    tags = ((2, 6), (3,), (1, 5), (0, 4, 7))
    return [
        make_scene(s, tags=tags[s % 4], size=sizes[s % len(sizes)], uss_grid=(6, 8)) for s in range(count)
    ]


def call(scene, boundary, **options):
    arguments = (scene.cams, scene.mask, scene.uss, scene.wss, scene.image)
    return refine_mask(*arguments, labels=scene.tags, boundary=boundary, **options)


@pytest.mark.parametrize("tool", [None, "crf"])
def test_a_single_image_is_voted_on_after_the_tool(tool):
    (scene,), masks = scenes_of(1), make_segments(0)
    before = dense_crf if tool else None
    result = call(scene, segment_voting([masks], tool=tool))
    assert torch.equal(result, call(scene, voter(as_segments(masks), tool=before)))
    assert not torch.equal(result, call(scene, tool))


def test_batches_and_lists_give_each_image_its_segments():
    scenes = scenes_of(4)
    masks = [make_segments(seed) for seed in range(4)]
    wanted = [call(scene, segment_voting([own], tool=None)) for scene, own in zip(scenes, masks)]
    assert any(not torch.equal(call(scenes[0], segment_voting([own], tool=None)), wanted[0]) for own in masks)
    labels = [scene.tags for scene in scenes]
    batch = refine_mask(*stack(scenes), labels=labels, boundary=segment_voting(masks, tool=None))
    assert torch.equal(batch, torch.stack(wanted))


def test_lists_of_several_sizes_keep_the_order():
    scenes = scenes_of(5, sizes=((24, 32), (20, 28)))
    masks = [make_segments(seed, tuple(scene.mask.shape)) for seed, scene in enumerate(scenes)]
    wanted = [call(scene, segment_voting([own], tool="pamr")) for scene, own in zip(scenes, masks)]
    listed = refine_mask(
        *([getattr(scene, name) for scene in scenes] for name in ("cams", "mask", "uss", "wss", "image")),
        labels=[scene.tags for scene in scenes],
        boundary=segment_voting(masks, tool="pamr"),
    )
    for got, expected in zip(listed, wanted, strict=True):
        assert torch.equal(got, expected)


def test_boxes_cut_the_segments():
    scenes = scenes_of(3)
    masks = [make_segments(seed) for seed in range(3)]
    boxes = [(2, 3, 30, 20), (0, 0, 32, 24), (4, 0, 32, 17)]
    labels = [scene.tags for scene in scenes]
    got = refine_mask(
        *stack(scenes),
        labels=labels,
        boxes=boxes,
        box_format="xyxy",
        boundary=segment_voting(masks, tool=None),
    )
    for row, (x0, y0, x1, y1) in enumerate(boxes):
        cut = as_segments(masks[row][:, y0:y1, x0:x1])
        one = call(scenes[row], voter(cut), boxes=boxes[row], box_format="xyxy")
        assert torch.equal(got[row], one)


def test_segments_may_be_paths(tmp_path):
    (scene,), masks = scenes_of(1), make_segments(0)[:4]
    write_png(tmp_path / "a.png", sum(number * mask for number, mask in enumerate(masks.numpy(), 1)))
    for path in (tmp_path / "a.png", str(tmp_path / "a.png")):
        result = call(scene, segment_voting([path], tool=None))
        assert torch.equal(result, call(scene, segment_voting([masks], tool=None)))


def test_steps_hold_the_voted_scores():
    (scene,), masks = scenes_of(1), make_segments(0)
    steps = refine_steps(
        scene.cams, scene.mask, scene.uss, scene.wss, scene.image, labels=scene.tags,
        boundary=segment_voting([masks]),
    )  # fmt: skip
    torch.testing.assert_close(steps.probs.sum(0), torch.ones_like(steps.probs[0]))


def test_base_masks_take_it_too():
    scenes, masks = scenes_of(2), [make_segments(seed) for seed in range(2)]
    cams, images = [scene.cams for scene in scenes], [scene.image for scene in scenes]
    labels = [scene.tags for scene in scenes]
    got = base_mask(cams, labels, images, background=0.3, refine=segment_voting(masks, tool=None))
    for row in range(2):
        tool = voter(as_segments(masks[row]))
        assert torch.equal(
            got[row], base_mask(cams[row], labels[row], images[row], background=0.3, refine=tool)
        )
    boxed = base_mask(
        cams[1], labels[1], images[1], background=0.3, boxes=(2, 3, 30, 20), box_format="xyxy",
        refine=segment_voting([masks[1]], tool=None),
    )  # fmt: skip
    tool = voter(as_segments(masks[1][:, 3:20, 2:30]))
    options = {"background": 0.3, "boxes": (2, 3, 30, 20), "box_format": "xyxy"}
    assert torch.equal(boxed, base_mask(cams[1], labels[1], images[1], refine=tool, **options))


def test_at_half_the_resolution_segments_are_halved():
    (scene,), masks = scenes_of(1), make_segments(0)
    options = {"high": 0.6, "low": 0.3}
    got = two_threshold_mask(
        scene.cams, scene.tags, scene.image, refine=segment_voting([masks], tool=None), **options
    )
    tool = voter(as_segments(masks).resize((12, 16)))
    assert torch.equal(got, two_threshold_mask(scene.cams, scene.tags, scene.image, refine=tool, **options))


def test_it_is_a_callable_on_whole_images():
    masks = [make_segments(seed) for seed in range(2)]
    probs = torch.rand(2, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    got = segment_voting(masks, tool=None)(None, probs)
    for row in range(2):
        voted = vote_scores(probs[row], as_segments(masks[row]))
        torch.testing.assert_close(got[row], (voted / voted.sum(0)).float())
    assert isinstance(segment_voting(masks), PlacedTool)
    assert not isinstance("crf", PlacedTool)
    assert repr(segment_voting(masks, tool="par")) == "SegmentVoting(tool='par')"
    assert isinstance(segment_voting(masks), SegmentVoting)


def test_scores_without_a_batch_are_refused():
    with pytest.raises(ValueError, match=r"probs must have shape \(B, K, H, W\)"):
        segment_voting([make_segments(0)], tool=None)(None, torch.rand(2, 24, 32))


def test_images_are_needed_by_the_tool_before():
    (scene,), masks = scenes_of(1), make_segments(0)
    arguments = (scene.cams, scene.mask, scene.uss, scene.wss)
    with pytest.raises(ValueError, match="images must be given for boundary="):
        refine_mask(*arguments, labels=scene.tags, boundary=segment_voting([masks]))
    result = refine_mask(*arguments, labels=scene.tags, boundary=segment_voting([masks], tool=None))
    assert torch.equal(result, call(scene, segment_voting([masks], tool=None)))


def test_segments_of_another_call_are_refused():
    scenes = scenes_of(2)
    labels = [scene.tags for scene in scenes]
    with pytest.raises(ValueError, match=r"segments of 1 images but there is an image \[1\]"):
        refine_mask(*stack(scenes), labels=labels, boundary=segment_voting([make_segments(0)]))
    wrong = make_segments(0, (24, 30))
    with pytest.raises(ValueError, match=r"segments\[0\] is of an image of \(24, 30\) but .* \(24, 32\)"):
        call(scenes[0], segment_voting([wrong]))


@pytest.mark.parametrize(
    ("segments", "tool", "text"),
    [
        (as_segments(make_segments(0)), "crf", "must be a list with the segments of each image"),
        (3, "crf", "must be a list with the segments of each image"),
        ("a.png", "crf", "segments must have an entry for each"),
        ([make_segments(0)], "dense", "tool must be 'crf', 'pamr', 'par', None or a callable"),
        (
            [make_segments(0)],
            segment_voting([make_segments(0)]),
            "tool must be a boundary tool other than|vote",
        ),
    ],
)
def test_wrong_arguments_are_refused(segments, tool, text):
    with pytest.raises((TypeError, ValueError), match=text):
        segment_voting(segments, tool=tool)


def test_a_placed_tool_is_told_where_its_crops_are():
    told = []

    class Tool:
        needs_images = False

        def at(self, places):
            told.append(places)
            return lambda images, probs: probs

        def __call__(self, images, probs):
            raise AssertionError

    scenes = scenes_of(2)
    boxes = [(2, 3, 30, 20), (4, 0, 32, 17)]
    labels = [scene.tags for scene in scenes]
    refine_mask(*stack(scenes), labels=labels, boxes=boxes, box_format="xyxy", boundary=Tool())
    assert sorted(place for places in told for place in places) == [
        Place(row, (24, 32), box) for row, box in enumerate(boxes)
    ]
