"""A memory of a few real images, with stand-ins for a network's features, does not harm their masks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from places import shared_folder

from dhr_refine import ClassMemory, refine_mask

FOLDER = shared_folder() / "data" / "voc12"
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(
        not (FOLDER / "index.json").is_file(), reason=f"no VOC images in {FOLDER}; set DHR_REFINE_SHARED"
    ),
]
CLASSES = 21
IMAGES = 20
# What rounding and chance may cost the mean IoU of so few images.
MARGIN = 0.005


def onehot(mask, grid):
    known = torch.where(mask == 255, 0, mask)
    return F.adaptive_avg_pool2d(F.one_hot(known, CLASSES).permute(2, 0, 1)[None].float(), grid)[0]


@pytest.fixture(scope="module")
def photos():
    """Truths of two classes or more, flooded base masks, CAMs, and features that half know the classes.

    A class has one direction in all images, under noise that is as strong.
    """
    image_of = pytest.importorskip("PIL.Image", reason="needs Pillow").open
    table = torch.from_numpy(np.random.default_rng(0).normal(size=(CLASSES, 32))).float()
    made = []
    index = [entry for entry in json.loads((FOLDER / "index.json").read_text()) if entry["split"] == "val"]
    for entry in [entry for entry in index if 15 in entry["classes"]][:IMAGES]:
        with image_of(FOLDER / "SegmentationClassAug" / f"{entry['id']}.png") as picture:
            truth = torch.from_numpy(np.array(picture.resize((picture.width // 4, picture.height // 4), 0)))
        truth = truth.long()
        generator = torch.Generator().manual_seed(len(made))
        grid = [max(2, side // 4) for side in truth.shape]
        cells = torch.einsum("chw,cd->dhw", onehot(truth, grid), table)
        uss = cells + torch.randn(cells.shape, generator=generator)
        cams = F.avg_pool2d(onehot(truth, grid)[1:], 5, 1, 2)
        # Each object takes the background beside it, as a mask of a CAM does.
        things = torch.where((truth == 0) | (truth == 255), -1, truth)
        wide = F.max_pool2d(things[None].float(), 9, 1, 4)[0].long()
        base = torch.where((truth == 0) & (wide > 0), wide, torch.where(truth == 255, 0, truth))
        tags = sorted(set(truth.unique().tolist()) - {0, 255})
        made.append((truth, base, cams, uss, [tag - 1 for tag in tags]))
    return made


def mean_iou(masks, truths):
    """Over the classes that the truths have."""
    same, either = torch.zeros(CLASSES), torch.zeros(CLASSES)
    for mask, truth in zip(masks, truths, strict=True):
        for label in range(CLASSES):
            one, other = (mask == label) & (truth != 255), truth == label
            same[label] += (one & other).sum()
            either[label] += (one | other).sum() if other.any() else one.sum()
    present = torch.stack([(torch.cat([t.flatten() for t in truths]) == k).any() for k in range(CLASSES)])
    return float((same / either.clamp_min(1))[present].mean())


def test_the_masks_do_not_get_worse(photos):
    samples = [{"uss_features": uss, "masks": base, "labels": tags} for _, base, _, uss, tags in photos]
    memory = ClassMemory.fit(samples, CLASSES, rounds=3)
    assert memory.solve().known.sum() >= 2
    scores = {}
    for name, given in (("without", None), ("with", memory)):
        masks = [
            refine_mask(cams, base, uss, uss, labels=tags, boundary=None, memory=given)
            for _, base, cams, uss, tags in photos
        ]
        scores[name] = mean_iou(masks, [photo[0] for photo in photos])
    scores["base"] = mean_iou([photo[1] for photo in photos], [photo[0] for photo in photos])
    assert len(photos) >= 10
    assert scores["with"] > scores["without"] - MARGIN, scores
    assert scores["with"] > scores["base"], scores
