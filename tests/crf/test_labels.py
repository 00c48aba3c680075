"""Probabilities from label maps."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from dhr_refine import probs_from_labels

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("classes", "gt_prob"), [(2, 0.7), (5, 0.7), (21, 0.5)])
def test_probs_from_labels_equals_pydensecrf(classes, gt_prob):
    from pydensecrf.utils import unary_from_labels

    labels = torch.randint(0, classes, (2, 9, 11))
    result = probs_from_labels(labels, num_classes=classes, gt_prob=gt_prob)
    for label, probs in zip(labels, result, strict=True):
        expected = unary_from_labels(label.numpy(), classes, gt_prob=gt_prob, zero_unsure=False)
        torch.testing.assert_close(-probs.log().reshape(classes, -1), torch.from_numpy(expected))


def test_probs_from_labels_ignores(dtype):
    del dtype
    labels = torch.tensor([[0, 255, 2]], dtype=torch.uint8)
    result = probs_from_labels(labels, num_classes=4)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result[:, 0, 1], torch.full((4,), 0.25))
    torch.testing.assert_close(result.sum(dim=0), torch.ones(1, 3))


def test_labels_of_few_bits_are_compared_as_numbers():
    labels = torch.tensor([[0, 255]], dtype=torch.uint8)
    for ignore_index in (-1, 256):  # to torch, these are 255 and 0 of 8 bits
        result = probs_from_labels(labels, num_classes=300, ignore_index=ignore_index)
        assert result.argmax(0).tolist() == [[0, 255]]
        assert result.amax(0).tolist() == [[pytest.approx(0.7)] * 2]
    wide = probs_from_labels(labels.to(torch.uint16), num_classes=np.int64(2), gt_prob=np.float32(0.7))
    torch.testing.assert_close(wide, probs_from_labels(labels, num_classes=2))


@pytest.mark.parametrize(
    ("labels", "options", "error", "message"),
    [
        (torch.zeros(4), {}, ValueError, "labels must have shape (B, H, W) or (H, W), got"),
        (torch.zeros(4, 4), {}, TypeError, "labels must hold integers, got a torch.float32 tensor"),
        (torch.full((4, 4), 3), {}, ValueError, "labels must be below num_classes=3 or 255, got 3"),
        (torch.full((4, 4), -1), {}, ValueError, "labels must be below num_classes=3 or 255, got -1"),
        (
            torch.zeros(4, 4).long(),
            {"num_classes": 1},
            ValueError,
            "num_classes must be an int of at least 2",
        ),
        (torch.zeros(4, 4).long(), {"gt_prob": 1.0}, ValueError, "gt_prob must lie between 0 and 1, got 1.0"),
    ],
)
def test_probs_from_labels_errors(labels, options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        probs_from_labels(labels, **{"num_classes": 3, **options})
