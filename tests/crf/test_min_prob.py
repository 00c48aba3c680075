"""Classes that are left out of an image."""

from __future__ import annotations

import pytest
import torch
from photos import photo, scores

from dhr_refine import dense_crf

pytestmark = pytest.mark.usefixtures("one_thread")


def test_min_prob_leaves_out_absent_classes(backend):
    images = torch.stack([photo("coffee", 60, 70), photo("astronaut", 60, 70)])
    probs = 1e-4 * torch.rand(2, 8, 60, 70)
    probs[0, [1, 6]] += scores(2, 60, 70)
    probs[1, [0, 3, 5]] += scores(3, 60, 70, seed=1)
    result = dense_crf(images, probs, min_prob=1e-3, backend=backend)
    absent = torch.ones(2, 8, dtype=torch.bool)
    absent[0, [1, 6]] = absent[1, [0, 3, 5]] = False
    assert not result[absent].any()
    torch.testing.assert_close(result.sum(dim=1), torch.ones(2, 60, 70))
    expected = dense_crf(images[0], probs[0, [1, 6]], backend=backend)
    torch.testing.assert_close(result[0, [1, 6]], expected, atol=1e-5, rtol=0)
    everything = dense_crf(images, probs, backend=backend)
    torch.testing.assert_close(result, everything, atol=5e-3, rtol=0)


def test_min_prob_above_everything_keeps_all_probable(backend):
    image, probs = photo("coffee", 20, 30), 0.1 * torch.rand(3, 20, 30)
    result = dense_crf(image, probs, min_prob=0.5, backend=backend)
    assert torch.isfinite(result).all()
    torch.testing.assert_close(result.sum(dim=0), torch.ones(20, 30))


def test_min_prob_with_one_class_left(backend):
    image, probs = photo("coffee", 20, 30), torch.zeros(3, 20, 30)
    probs[1] = 1
    result = dense_crf(image, probs, min_prob=0.5, backend=backend)
    torch.testing.assert_close(result[1], torch.ones(20, 30))
    assert not result[[0, 2]].any()


def test_an_image_that_would_lose_all_classes_keeps_all(backend):
    image = photo("coffee", 40, 50)
    nothing, scene = torch.zeros(5, 40, 50), scores(5, 40, 50)
    alone = dense_crf(image, nothing, min_prob=1e-3, backend=backend)
    torch.testing.assert_close(alone, dense_crf(image, nothing, backend=backend))
    both = dense_crf(
        torch.stack([image, image]), torch.stack([nothing, scene]), min_prob=1e-3, backend=backend
    )
    torch.testing.assert_close(both[0], alone, atol=1e-5, rtol=0)
