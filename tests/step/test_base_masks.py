"""Base masks out of CAMs and tags, against slow NumPy loops, and in every form that callers hold."""

from __future__ import annotations

import copy
import re
from functools import partial

import boundary_reference as reference
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from photos import photo

from dhr_refine import base_mask, par, two_threshold_mask

pytestmark = pytest.mark.usefixtures("one_thread")

TAGS = [[2, 4], [], [0]]
BOXES = [(0, 0, 20, 16), (3, 2, 15, 14), (2, 0, 20, 13)]
SIZE = (16, 20)
THRESHOLDS = {"high": 0.6, "low": 0.3}


def draw(seed=0, grid=(4, 5)):
    """CAMs (3, 5, h, w) of five classes and images (3, 3, 16, 20)."""
    generator = torch.Generator().manual_seed(seed)
    cams = 3 * torch.rand(3, 5, *grid, generator=generator) - 0.5
    images = torch.stack([photo(name, *SIZE) for name in ("coffee", "astronaut", "rocket")])
    return cams, images


def each(cams, function, **options):
    """The reference image by image; entries of ``boxes`` go with the images."""
    boxes = options.pop("boxes", [None] * len(TAGS))
    rows = [function(c[t].numpy(), t, box=b, **options) for c, t, b in zip(cams, TAGS, boxes, strict=True)]
    return torch.from_numpy(np.stack(rows))


@pytest.mark.parametrize("boxes", [None, BOXES])
@pytest.mark.parametrize("background", [0.0, 0.4, 1.0, "power"])
def test_base_mask_equals_the_loops(background, boxes):
    cams, images = draw()
    options = {"boxes": boxes, "box_format": "xyxy"} if boxes else {}
    result = base_mask(cams, TAGS, images, background=background, alpha=1.5, **options)
    constant = None if background == "power" else background
    expected = each(
        cams,
        partial(reference.base_mask, height=16, width=20, background=constant, alpha=1.5),
        **({"boxes": boxes} if boxes else {}),
    )
    assert torch.equal(result, expected)
    if boxes:
        outside = torch.ones(3, *SIZE, dtype=torch.bool)
        for row, (x0, y0, x1, y1) in zip(outside, boxes, strict=True):
            row[y0:y1, x0:x1] = False
        assert (result[outside] == 255).all()
        assert (result[~outside] != 255).all()


@pytest.mark.parametrize("boxes", [None, BOXES])
@pytest.mark.parametrize("refine", [None, "par"])
@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_two_thresholds_equal_the_loops(refine, boxes, scale):
    cams, images = draw(1)
    own = {"boxes": boxes} if boxes else {}
    result = two_threshold_mask(
        cams, TAGS, images, refine=refine, scale=scale, **THRESHOLDS, **own, box_format="xyxy"
    )
    expected = torch.from_numpy(
        np.stack(
            [
                reference.two_threshold_mask(
                    c[t].numpy(), t, i.numpy(), refine=refine is not None, scale=scale, box=b, **THRESHOLDS
                )
                for c, t, i, b in zip(cams, TAGS, images, boxes or [None] * 3, strict=True)
            ]
        )
    )
    assert torch.equal(result, expected)
    assert set(result[0].unique().tolist()) >= {3, 255}
    assert (result[1] == 0).sum() == (result[1] != 255).sum() > 0


@pytest.mark.parametrize("form", [list, tuple, np.array, torch.tensor])
@pytest.mark.parametrize("refine", [None, "par"])
def test_thresholds_of_each_image_equal_the_loops(refine, form):
    cams, images = draw(1)
    highs, lows = [0.8, 0.6, 0.45], [0.1, 0.3, 0.45]
    options = {"refine": refine, "boxes": BOXES, "box_format": "xyxy"}
    result = two_threshold_mask(cams, TAGS, images, high=form(highs), low=form(lows), **options)
    for index, (high, low) in enumerate(zip(highs, lows, strict=True)):
        own = cams[index][TAGS[index]].numpy(), TAGS[index], images[index].numpy()
        expected = reference.two_threshold_mask(
            *own, refine=refine is not None, scale=0.5, box=BOXES[index], high=high, low=low
        )
        assert torch.equal(result[index], torch.from_numpy(expected))
    turned = two_threshold_mask(
        list(cams.flip(0)), TAGS[::-1], list(images.flip(0)), high=form(highs[::-1]), low=form(lows[::-1]),
        **options | {"boxes": BOXES[::-1]},
    )  # fmt: skip
    assert all(torch.equal(mask, other) for mask, other in zip(turned[::-1], result, strict=True))


def test_thresholds_of_images_that_are_made_together():
    """Images of equally many tags are, whatever lies between them in the batch."""
    cams = torch.tensor([[[[0.5, 1.0]]], [[[1.0, 1.0]]], [[[0.5, 1.0]]]])
    masks = two_threshold_mask(cams, [[0], [], [0]], high=[0.4, 0.9, 0.6], low=torch.tensor(0.2))
    assert masks.tolist() == [[[1, 1]], [[0, 0]], [[255, 1]]]
    assert two_threshold_mask(cams[0], [0], high=torch.tensor([0.6]), low=0.2).tolist() == [[255, 1]]
    assert two_threshold_mask(cams[:0], torch.zeros(0, 1), high=[], low=0.2).shape == (0, 1, 2)


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    high=st.floats(0, 1, width=32),
    low=st.floats(0, 1, width=32),
    grid=st.tuples(st.integers(1, 20), st.integers(1, 24)),
)
def test_plain_thresholds_at_any_grid(seed, high, low, grid):
    cams, images = draw(seed, grid)
    high, low = max(high, low), min(high, low)
    result = two_threshold_mask(cams, TAGS, images, high=high, low=low)
    for row, tags, mask in zip(cams, TAGS, result, strict=True):
        maps = reference.scale_cams(row[tags].numpy(), *SIZE, None, True)
        best = torch.from_numpy(maps.max(axis=0)) if tags else torch.zeros(SIZE)
        sure = ((best - high).abs() > 1e-5) & ((best - low).abs() > 1e-5)
        assert torch.equal(((best > low) & (best <= high))[sure], (mask == 255)[sure])
        assert torch.equal((best <= low)[sure], (mask == 0)[sure])


def test_ties_go_to_the_background():
    cams = torch.tensor([[[0.5, 1.0]]])
    assert base_mask(cams, [0], background=0.5).tolist() == [[0, 1]]
    assert two_threshold_mask(cams, [0], high=1.0, low=0.5).tolist() == [[0, 255]]


def test_without_division_cams_are_taken_as_they_are():
    cams = torch.tensor([[[0.2, 0.4, -0.3]]])
    assert base_mask(cams, [0], background=0.3, normalise=False).tolist() == [[0, 1, 0]]
    assert base_mask(cams, [0], background=0.3).tolist() == [[1, 1, 0]]
    assert two_threshold_mask(cams, [0], high=0.3, low=0.1, normalise=False).tolist() == [[255, 1, 0]]
    seen = []
    base_mask(cams, [0], background=0.3, normalise=False, refine=lambda _, probs: seen.append(probs) or probs)
    torch.testing.assert_close(seen[0], torch.tensor([[[[0.3, 0.3, 0.3]], [[0.2, 0.4, 0.0]]]]))


def test_scores_sum_to_one_before_the_tool():
    cams, _ = draw()
    seen = []
    tool = lambda images, probs: seen.append(probs) or probs  # noqa: E731
    base_mask(cams, TAGS, background=0.3, refine=tool)
    two_threshold_mask(cams, TAGS, **THRESHOLDS, refine=tool, size=(9, 12))
    for probs in seen:
        torch.testing.assert_close(probs.sum(1), torch.ones_like(probs[:, 0]))
    assert [tuple(probs.shape) for probs in seen] == [
        (1, 3, 4, 5),
        (1, 2, 4, 5),
        *[(1, 3, 4, 6)] * 2,
        *[(1, 2, 4, 6)] * 2,
    ]


def test_what_is_outside_a_box_scores_no_more_than_the_best_inside():
    cams = torch.tensor([[[1.0, 0.5, 9.0]]])
    seen = []
    two_threshold_mask(
        cams, [0], high=1.0, low=0.5, scale=1.0, boxes=(0, 0, 2, 1), box_format="xyxy",
        refine=lambda _, probs: seen.append(probs) or probs,
    )  # fmt: skip
    expected = torch.tensor([[[1.0, 1.0, 1.0]], [[1.0, 0.5, 1.0]]]).softmax(0)[None]
    torch.testing.assert_close(seen[0], expected)


@pytest.mark.parametrize("refine", ["crf", "pamr", "par"])
def test_masks_follow_the_edges_of_the_image(refine):
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    image[:, :, 16:] = 255
    cams = torch.zeros(1, 32, 32)
    cams[:, :, 14:] = 1.0  # two columns too far
    base = base_mask(cams, [0], image, background=0.45, refine=refine)
    assert base[:, :16].float().mean() < 0.02
    assert base[:, 16:].float().mean() > 0.98
    base = two_threshold_mask(cams, [0], image, high=0.6, low=0.3, refine=refine, scale=1.0)
    assert (base[:, :14] == 0).float().mean() > 0.98
    assert (base[:, 18:] == 1).float().mean() > 0.98


def test_a_named_tool_is_the_public_function():
    cams, images = draw()
    options = {"background": 0.4}
    named = base_mask(cams, TAGS, images, refine="par", **options)
    assert torch.equal(named, base_mask(cams, TAGS, images, refine=par, **options))
    half = base_mask(cams, TAGS, images, refine=partial(par, scale=0.5), **options)
    assert not torch.equal(named, half)


FORMS = {
    "multi-hot": torch.tensor([[0, 0, 1, 0, 1], [0] * 5, [1, 0, 0, 0, 0]]),
    "bool": torch.tensor([[0, 0, 1, 0, 1], [0] * 5, [1, 0, 0, 0, 0]]).bool(),
    "sets": [{4, 2}, set(), {0}],
    "keys": [np.array([2, 4]), np.zeros(0, int), torch.tensor([0])],
}


@pytest.mark.parametrize(
    "make", [partial(base_mask, background=0.4), partial(two_threshold_mask, **THRESHOLDS)]
)
class TestForms:
    @pytest.mark.parametrize("form", FORMS)
    def test_tags_in_every_form(self, make, form):
        cams, images = draw()
        assert torch.equal(make(cams, FORMS[form], images), make(cams, TAGS, images))

    def test_one_image_and_lists_equal_the_batch(self, make):
        cams, images = draw()
        batch = make(cams, TAGS, images, boxes=BOXES, box_format="xyxy")
        ones = [
            make(c, t, i, boxes=b, box_format="xyxy")
            for c, t, i, b in zip(cams, TAGS, images, BOXES, strict=True)
        ]
        listed = make(list(cams), TAGS, list(images), boxes=BOXES, box_format="xyxy")
        assert isinstance(listed, list)
        assert torch.equal(torch.stack(ones), batch)
        assert torch.equal(torch.stack(listed), batch)

    def test_a_list_may_hold_images_of_any_size_and_cams_of_the_tags_alone(self, make):
        cams, images = draw()
        sizes = [(16, 20), (9, 30), (25, 7)]
        own = [c[t] for c, t in zip(cams, TAGS, strict=True)]
        masks = make(own, TAGS, size=sizes)
        assert [tuple(mask.shape) for mask in masks] == sizes
        assert torch.equal(masks[0], make(cams[0], TAGS[0], images[0]))
        assert tuple(make(own, TAGS)[0].shape) == (4, 5)

    def test_a_background_channel_is_ignored(self, make):
        cams, images = draw()
        more = torch.cat((torch.full_like(cams[:, :1], 9.0), cams), dim=1)
        assert torch.equal(make(more, FORMS["multi-hot"], images), make(cams, TAGS, images))

    def test_boxes_and_images_in_their_forms(self, make):
        cams, images = draw()
        expected = make(cams, TAGS, images, boxes=BOXES, box_format="xyxy")
        turned = torch.tensor([[y0, y1, x0, x1] for x0, y0, x1, y1 in BOXES])
        unit = images.float() / 255
        last = images.movedim(1, -1)
        for other in (unit, last):
            assert torch.equal(make(cams, TAGS, other, boxes=turned, box_format="yyxx"), expected)
        no_box = make(cams, TAGS, images, boxes=[None, (5, 5, 5, 9), None], box_format="xyxy")
        assert (no_box[1] == 255).all()
        assert torch.equal(no_box[0], make(cams, TAGS, images)[0])

    def test_types_and_inputs(self, make):
        cams, images = draw()
        kept = copy.deepcopy((cams, images))
        result = make(cams.requires_grad_(), TAGS, images, refine=lambda i, p: i.zero_() is None or p.mul_(1))
        assert result.dtype == torch.long
        assert torch.equal(cams.detach(), kept[0])
        assert torch.equal(images, kept[1])
        half = make(cams.detach().half(), TAGS, images)
        assert (half == make(cams.detach().half().float(), TAGS, images)).all()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert torch.equal(make(cams, TAGS, images), make(kept[0], TAGS, images))

    def test_degenerate_cams(self, make):
        zero = torch.zeros(2, 3, 4)
        assert (make(zero, [0, 1]) == 0).all()
        assert (make(zero - 1, [0, 1]) == 0).all()
        assert (make(torch.zeros(0, 3, 4), []) == 0).all()
        assert make(torch.zeros(0, 2, 3, 4), torch.zeros(0, 2)).shape == (0, 3, 4)
        assert (make(zero + 5, [1])[0] == 2).all()

    def test_another_ignore_index(self, make):
        cams, images = draw()
        result = make(cams, TAGS, images, boxes=BOXES, box_format="xyxy", ignore_index=-1)
        expected = make(cams, TAGS, images, boxes=BOXES, box_format="xyxy")
        assert torch.equal(result, expected.masked_fill(expected == 255, -1))


CAMS, IMAGES = draw()
ERRORS = [
    ({"cams": None}, TypeError, "cams must be a torch.Tensor of shape (B, C, h, w) or (C, h, w), or a"),
    ({"cams": []}, TypeError, "cams must hold at least one image, got an empty list: pass"),
    ({"cams": CAMS.long()}, TypeError, "cams must be floating point, got a torch.int64"),
    ({"cams": CAMS[:, :, :0]}, ValueError, "cams is empty"),
    ({"cams": CAMS * float("nan")}, ValueError, "cams holds NaN or infinity: find the layer"),
    ({"cams": CAMS.double() * 1e300}, ValueError, "cams holds numbers too large for float32 arithmetic"),
    ({"labels": None}, TypeError, "labels must be the tags of each image, got None: pass multi-hot tags"),
    ({"labels": [[0], [1]]}, ValueError, "labels has 2 entries but cams has 3 images: pass the tags"),
    ({"labels": [[0], [1], [7]]}, ValueError, "labels[2] holds the tag 7 but cams has 5 channels"),
    ({"images": IMAGES[:2]}, ValueError, "images has batch size 2 but cams has 3: pass the same images"),
    ({"images": IMAGES[:, :1]}, ValueError, "images must have shape (B, 3, H, W) with the size of images"),
    ({"images": IMAGES, "size": (8, 8)}, ValueError, "size is (8, 8) but images has (16, 20)"),
    ({"size": (0, 8)}, ValueError, "size must hold numbers of at least 1, got (0, 8): pass (H, W)"),
    ({"size": 8}, TypeError, "size must be (H, W), got int 8: pass 2 whole numbers"),
    ({"refine": "par"}, ValueError, "images must be given for refine='crf', 'pamr' or 'par'"),
    ({"refine": "sam"}, ValueError, "refine must be 'crf', 'pamr', 'par', None or a callable, got"),
    ({"refine": lambda i, p: p[:, :1]}, ValueError, "refine must return probabilities of shape (1, 3, "),
    ({"refine": lambda i, p: p - 1}, ValueError, "refine returned negative values: return probabilities"),
    ({"boxes": BOXES}, ValueError, "box_format must be 'xyxy' or 'yyxx' where boxes are given"),
    ({"boxes": BOXES[:2], "box_format": "xyxy"}, ValueError, "boxes must have one entry per image, got 2"),
    ({"ignore_index": 3}, ValueError, "ignore_index 3 is the label of a class"),
    ({"ignore_index": 0.5}, TypeError, "ignore_index must be an int, got float 0.5"),
    ({"normalise": "no"}, TypeError, "normalise must be a bool, got 'no': pass True or False"),
    ({"normalise": False}, ValueError, "but must lie in [0, 1] with normalise=False: divide each class"),
]  # fmt: skip


@pytest.mark.parametrize(
    "make", [partial(base_mask, background=0.4), partial(two_threshold_mask, **THRESHOLDS)]
)
@pytest.mark.parametrize(("change", "error", "message"), ERRORS)
def test_errors(make, change, error, message):
    with pytest.raises(error, match=re.escape(message)):
        make(**{"cams": CAMS, "labels": TAGS, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": [IMAGES[0]]}, "images must have one entry for each of the 3 cams, got 1 entries: pass"),
        ({"labels": [[0]]}, "labels has 1 entries but cams has 3 images"),
        ({"boxes": [None, None, (0, 0, 99, 1)], "box_format": "xyxy"}, "boxes[2] is x 0..99, y 0..1"),
        ({"size": [(3, 3), (3, 0), (3, 3)]}, "size[1] must hold numbers of at least 1"),
        ({"labels": [[0], [1], [9]]}, "labels[2] holds the tag 9 but cams[2] has 5 channels"),
    ],
)
def test_errors_of_lists_name_the_entry(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        base_mask(**{"cams": list(CAMS), "labels": TAGS, "background": 0.4, **change})


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"background": "pow"},
            ValueError,
            "background must be a score in [0, 1] or 'power', got 'pow': pass 0.3",
        ),
        ({"background": 2}, ValueError, "background must lie in [0.0, 1.0], got 2: pass a number"),
        ({"background": None}, TypeError, "background must be a number, got NoneType None: pass"),
        ({"background": "power", "alpha": 0}, ValueError, "alpha must be above 0 and finite, got 0: pass"),
    ],
)
def test_errors_of_the_background(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        base_mask(CAMS, TAGS, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"high": 1.2, "low": 0.3}, "high must lie in [0.0, 1.0], got 1.2: pass a number"),
        ({"high": 0.2, "low": -0.3}, "low must lie in [0.0, 1.0], got -0.3: pass a number"),
        ({"high": 0.2, "low": 0.3}, "low must be at most high, got 0.3 and 0.2: exchange them"),
        ({"high": [0.2, 0.6, 0.6], "low": 0.3}, "low must be at most high, got 0.3 and 0.2: exchange"),
        ({"high": [0.6, 0.6, 1.6], "low": 0.3}, "high must lie in [0.0, 1.0], got 1.6: pass a number"),
        ({"high": [0.6, 0.6], "low": 0.3}, "high must be a number, or one for each of 3 images, got list"),
        (
            {"high": torch.full((3, 1, 16, 20), 0.6), "low": 0.3},
            "got a torch.float32 tensor of shape (3, 1, 16, 20): pass shape (3,); of scores by class the",
        ),
        ({**THRESHOLDS, "scale": 0}, "scale must lie in [1e-06, 1.0], got 0: pass a number"),
    ],
)
def test_errors_of_the_thresholds(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        two_threshold_mask(CAMS, TAGS, **options)
