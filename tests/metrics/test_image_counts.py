"""image_counts: types, devices, layouts and errors."""

# ruff: noqa: E501  (a table of errors, one case a line)

from __future__ import annotations

import numpy as np
import pytest
import torch
from drawn import CLASSES, draw_masks

from dhr_refine.metrics import MaskScores, image_counts, inter_class_share

ZEROS = np.zeros((2, 4, 4), dtype=np.int64)

ERRORS = [
    (ValueError, "ignore_index 255 is one of the 300 classes", lambda: image_counts(ZEROS, ZEROS, num_classes=300)),
    (TypeError, "pred must be a tensor or an array of labels, got list .*: convert it with torch.as_tensor", lambda: MaskScores(3).update([[0]], ZEROS)),
    (TypeError, "pred must hold integer labels, got a torch.float32 tensor", lambda: MaskScores(3).update(torch.zeros(2, 4, 4), ZEROS)),
    (TypeError, "target must hold integer labels, got a torch.bool tensor", lambda: MaskScores(3).update(ZEROS, torch.zeros(2, 4, 4).bool())),
    (TypeError, "base must hold integer labels, got a NumPy float64 array", lambda: MaskScores(3).update(ZEROS, ZEROS, base=ZEROS + 0.5)),
    (ValueError, r"pred must have shape \(B, H, W\) or \(H, W\), got a NumPy int64 array of shape \(1, 2, 4, 4\)", lambda: MaskScores(3).update(ZEROS[None], ZEROS)),
    (ValueError, r"pred has shape \(4, 4\) but target has \(2, 4, 4\): pass masks of the same images", lambda: MaskScores(3).update(ZEROS[0], ZEROS)),
    (ValueError, r"base has shape \(1, 4, 4\) but target has \(2, 4, 4\)", lambda: MaskScores(3).update(ZEROS, ZEROS, base=ZEROS[:1])),
    (ValueError, "pred is on meta but target is on cpu: move one of them", lambda: MaskScores(3).update(torch.zeros(2, 4, 4, dtype=torch.long, device="meta"), ZEROS)),
    (TypeError, "target is on the meta device, which holds no data", lambda: MaskScores(3).update(*[torch.zeros(2, 4, 4, dtype=torch.long, device="meta")] * 2)),
    (TypeError, "masks is on the meta device, which holds no data", lambda: inter_class_share(torch.zeros(4, 4, dtype=torch.long, device="meta"))),
    (TypeError, "pred must be a dense tensor, got torch.sparse_coo", lambda: MaskScores(3).update(torch.zeros(2, 4, 4, dtype=torch.long).to_sparse(), ZEROS)),
    (ValueError, "pred holds the label 3, but num_classes=3 allows 0 to 2 and ignore_index 255: raise num_classes", lambda: MaskScores(3).update(ZEROS + 3, ZEROS)),
    (ValueError, "target holds the label -1, but num_classes=3", lambda: MaskScores(3).update(ZEROS, ZEROS - 1)),
    (ValueError, "base holds the label 7", lambda: MaskScores(3).update(ZEROS, ZEROS, base=ZEROS + 7)),
]  # fmt: skip


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16, np.int32, np.int64])
def test_types_devices_and_layouts(kind, device):
    pred, _, target = draw_masks(2)
    expected = image_counts(pred, target, num_classes=CLASSES)
    for one, truth in (
        (pred.astype(kind), target.astype(kind)),
        (np.asfortranarray(pred.astype(kind)), target),
        (torch.from_numpy(pred.astype(np.int32)).to(device), torch.from_numpy(target).to(device)),
        (torch.from_numpy(pred).mT.contiguous().mT, target),
    ):
        before = one.copy() if isinstance(one, np.ndarray) else one.clone()
        counts = image_counts(one, truth, num_classes=CLASSES)
        assert all(np.array_equal(x, y) for x, y in zip(counts, expected, strict=True))
        assert (before == one).all()
        assert {part.dtype for part in counts} == {np.dtype(np.int64)}


def test_read_only_arrays_are_read():
    pred, _, target = draw_masks(2)
    pred.flags.writeable = False
    assert image_counts(pred, target, num_classes=CLASSES).true.sum() == (target != 255).sum()


@pytest.mark.parametrize(("kind", "text", "call"), ERRORS, ids=range(len(ERRORS)))
def test_errors_of_masks_name_the_argument_and_the_fix(kind, text, call):
    with pytest.raises(kind, match=text):
        call()
