"""Every form in which refine_mask takes base masks and features."""

from __future__ import annotations

import pytest
import torch
from two_scenes import CAMS, EXPECTED, MASKS, SCENES, TAGS, USS, WSS, call, listed, single

from dhr_refine import refine_steps


def test_background_last_and_none():
    last = torch.where(MASKS == 0, 8, MASKS - 1)
    mask = call(masks=last, background="last")
    assert torch.equal(torch.where(mask == 8, 0, mask + 1), EXPECTED)
    none = refine_steps(
        CAMS, torch.where(MASKS == 0, 255, MASKS - 1), USS, WSS, labels=TAGS, background="none", boundary=None
    )
    assert none.classes.tolist() == [[2, 6], [3, -1]]
    assert set(none.mask.unique().tolist()) == {2, 3, 6}


@pytest.mark.parametrize(
    "kind", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.float32, torch.float64, torch.float16]
)
def test_masks_of_any_type(kind):
    mask = call(masks=MASKS.to(kind))
    assert mask.dtype == torch.int64
    assert torch.equal(mask, EXPECTED)


def test_layouts_do_not_matter():
    def turned(t):
        return t.mT.contiguous().mT

    mask = call(
        cams=CAMS.to(memory_format=torch.channels_last),
        masks=turned(MASKS),
        uss_features=turned(USS),
        wss_features=[turned(level) for level in WSS],
    )
    assert torch.equal(mask, EXPECTED)


def test_another_ignore_index():
    masks = MASKS.clone()
    masks[:, 18:22] = 255
    expected = call(masks=masks)
    for ignore in (-1, 200, -100, 999):
        mask = call(masks=torch.where(masks == 255, ignore, masks), ignore_index=ignore)
        assert torch.equal(torch.where(mask == ignore, 255, mask), expected)


def test_one_level_as_a_tensor_or_a_list():
    assert torch.equal(call(wss_features=WSS[1]), call(wss_features=[WSS[1]]))
    assert torch.equal(call(wss_features=WSS[1]), call(wss_features=(WSS[1],)))
    assert torch.equal(single(wss_features=SCENES[0].wss[1]), single(wss_features=[SCENES[0].wss[1]]))
    one = listed(wss_features=[s.wss[1] for s in SCENES])
    assert all(torch.equal(a, b) for a, b in zip(one, call(wss_features=WSS[1]), strict=True))


def test_the_scenes_are_worth_it():
    assert EXPECTED[0].unique().tolist() == [0, 3, 7]
    assert EXPECTED[1].unique().tolist() == [0, 4]
    assert not torch.equal(EXPECTED, MASKS)
