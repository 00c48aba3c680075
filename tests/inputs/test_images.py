"""Every form in which refine_mask takes images."""

from __future__ import annotations

import torch
from two_scenes import IMAGES, MEAN, SCENES, STD, call, listed, single


def seen_images(images, **options):
    seen = []

    def tool(crops, probs):
        seen.append(crops)
        return probs

    call(images=images, boundary=tool, **options)
    return torch.cat(seen[: len(seen) // 2])


def test_images_in_every_form_reach_the_boundary_tool_as_the_same_bytes():
    unit = IMAGES.float() / 255
    normalised = (unit - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    other = (unit - 0.5) / 0.5
    assert torch.equal(seen_images(IMAGES), IMAGES)
    assert torch.equal(seen_images(IMAGES.permute(0, 2, 3, 1)), IMAGES)
    assert torch.equal(seen_images(unit), IMAGES)
    assert torch.equal(seen_images(unit, mean=None, std=None), IMAGES)
    assert torch.equal(seen_images(normalised), IMAGES)
    assert torch.equal(seen_images(normalised.double()), IMAGES)
    assert torch.equal(seen_images(other, mean=[0.5] * 3, std=[0.5] * 3), IMAGES)
    rough = seen_images(normalised.half()).int() - IMAGES.int()
    assert rough.abs().max() <= 1


def test_one_image_with_channels_last():
    seen = []

    def tool(images, probs):
        seen.append(images)
        return probs

    single(images=SCENES[0].image.permute(1, 2, 0), boundary=tool)
    assert torch.equal(seen[0][0], SCENES[0].image)
    listed(images=[s.image.permute(1, 2, 0) for s in SCENES], boundary=tool)
    assert torch.equal(seen[2][0], SCENES[0].image)
