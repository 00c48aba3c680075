"""Base masks out of CAMs: normalisation, background score, boundary tool."""

from __future__ import annotations

import pytest
import torch

from dhr_refine.base_masks import make_base_mask


def test_base_mask_is_the_largest_normalised_cam_above_the_background():
    cams = torch.tensor([[[2.0, 1.0, 0.0, 0.0]], [[0.0, 6.0, 10.0, 3.0]], [[0.0, 0.0, 0.0, 0.0]]])
    image = torch.zeros(3, 1, 4, dtype=torch.uint8)
    assert make_base_mask(cams, image, background=0.45, boundary=None).tolist() == [[1, 2, 2, 0]]
    assert make_base_mask(cams, image, background=0.7, boundary=None).tolist() == [[1, 0, 2, 0]]


@pytest.mark.parametrize("boundary", ["crf", "pamr"])
def test_base_mask_follows_the_edges_of_the_image(boundary):
    image = torch.zeros(3, 32, 32, dtype=torch.uint8)
    image[:, :, 16:] = 255
    cams = torch.zeros(1, 32, 32)
    cams[:, :, 14:] = 1.0  # two columns too far
    base = make_base_mask(cams, image, background=0.45, boundary=boundary)
    assert base[:, :16].float().mean() < 0.02
    assert base[:, 16:].float().mean() > 0.98
