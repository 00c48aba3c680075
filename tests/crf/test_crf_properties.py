"""What holds for the dense CRF whatever the image."""

from __future__ import annotations

import pytest
import torch
from photos import photo, scores

from dhr_refine import dense_crf

pytestmark = pytest.mark.usefixtures("one_thread")


def test_probabilities_sum_to_one(backend):
    result = dense_crf(photo("rocket", 60, 70), scores(7, 60, 70), backend=backend)
    assert result.min() >= 0
    torch.testing.assert_close(result.sum(dim=0), torch.ones(60, 70))


def test_without_compatibility_nothing_moves(backend):
    probs = scores(3, 30, 40)
    result = dense_crf(photo("coffee", 30, 40), probs, compat=0, gauss_compat=0, backend=backend)
    torch.testing.assert_close(result, probs, atol=1e-5, rtol=0)


def test_refines_towards_the_edge_of_the_image(backend):
    image = torch.zeros(3, 40, 40, dtype=torch.uint8)
    image[:, :, 20:] = 200
    truth = torch.zeros(40, 40)
    truth[:, 20:] = 1
    foreground = torch.full((40, 40), 0.4)
    foreground[10:30, 17:34] = 0.9  # too small, and over the edge
    probs = torch.stack([1 - foreground, foreground])
    result = dense_crf(image, probs, sxy=30, srgb=10, compat=10, backend=backend).argmax(dim=0)
    before = (probs.argmax(dim=0) == truth).double().mean()
    assert (result == truth).double().mean() > max(0.95, float(before))


def test_single_class_gives_ones(backend):
    image = photo("coffee", 30, 40)
    assert torch.equal(dense_crf(image, torch.ones(1, 30, 40), backend=backend), torch.ones(1, 30, 40))
