"""Every form in which refine_mask takes crop boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scenes import make_scene
from two_scenes import BOXES, EXPECTED, TURNED, call, listed, single

from dhr_refine import refine_steps


@pytest.mark.parametrize("order", ["xyxy", "yyxx"])
@pytest.mark.parametrize(
    "form",
    [
        list,
        torch.tensor,
        np.array,
        lambda b: torch.tensor(b, dtype=torch.int16),
        lambda b: torch.tensor(b).float(),
        lambda b: [torch.tensor(x) for x in b],
        lambda b: [np.array(x, dtype=np.int16) for x in b],
        lambda b: tuple(list(x) for x in b),
    ],
)
def test_boxes_in_every_form(order, form):
    expected = call(boxes=BOXES, box_format="xyxy")
    boxes = form(BOXES if order == "xyxy" else TURNED)
    mask = call(boxes=boxes, box_format=order)
    assert torch.equal(mask, expected)
    assert torch.equal(single(boxes=boxes[0], box_format=order), expected[0])
    assert all(
        torch.equal(a, b) for a, b in zip(listed(boxes=boxes, box_format=order), expected, strict=True)
    )


def test_boxes_of_some_images_only():
    expected = call(boxes=[(0, 0, 56, 40), BOXES[1]], box_format="xyxy")
    assert torch.equal(call(boxes=[None, BOXES[1]], box_format="xyxy"), expected)
    assert all(
        torch.equal(a, b)
        for a, b in zip(listed(boxes=[None, BOXES[1]], box_format="xyxy"), expected, strict=True)
    )
    assert torch.equal(call(boxes=[None, None], box_format="xyxy"), EXPECTED)
    assert all(torch.equal(a, b) for a, b in zip(listed(boxes=[None, None]), EXPECTED, strict=True))


def test_padding_changes_nothing():
    """A crop padded to a whole number of cells gives what the crop alone gives, inside its box."""
    scene = make_scene(4, size=(40, 56), uss_grid=(10, 14), cam_grid=(10, 14), wss_grids=((10, 14),))
    alone = refine_steps(scene.cams, scene.mask, scene.uss, scene.wss, labels=scene.tags, boundary=None)

    def pad(t, rows, columns, value):
        return torch.nn.functional.pad(t, (columns, 0, 0, rows), value=value)

    padded = refine_steps(
        pad(scene.cams, 3, 2, 9.0),
        pad(scene.mask, 12, 8, 5),
        pad(scene.uss, 3, 2, 1.0),
        [pad(level, 3, 2, 1.0) for level in scene.wss],
        labels=scene.tags,
        boxes=(8, 0, 64, 40),
        box_format="xyxy",
        boundary=None,
    )
    assert torch.allclose(padded.uss_centroids, alone.uss_centroids, atol=1e-5)
    assert torch.allclose(padded.uss[:, :10, 2:], alone.uss, atol=2e-3)
    assert torch.equal(padded.init_mask[:40, 8:], alone.init_mask) or (
        (padded.init_mask[:40, 8:] != alone.init_mask)[:38, 2:].sum()
        == 0  # resizing sees the padding at the rim
    )
    assert (padded.mask[40:] == 255).all()
    assert (padded.mask[:, :8] == 255).all()
    assert (padded.mask[:38, 10:] == alone.mask[:38, 2:]).float().mean() > 0.995
