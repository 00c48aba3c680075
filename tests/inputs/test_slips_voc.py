"""Real images and tags, in batches and alone, show no slip; shifted by one, nearly every batch does."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
from places import shared_folder

from dhr_refine.inputs import ArgumentNames, Evidence, warn_about_slips
from dhr_refine.inputs.boxes import Boxes

FOLDER = shared_folder() / "data" / "voc12"
pytestmark = pytest.mark.skipif(
    not (FOLDER / "index.json").is_file(), reason=f"no VOC images in {FOLDER}; set DHR_REFINE_SHARED"
)


@pytest.fixture(scope="module")
def images():
    """Labels of the mask, labels of the tags, size of every image."""
    picture = pytest.importorskip("PIL.Image", reason="needs Pillow")
    found = []
    for entry in json.loads((FOLDER / "index.json").read_text()):
        mask = np.array(picture.open(FOLDER / "SegmentationClassAug" / f"{entry['id']}.png"))
        found.append((sorted(set(np.unique(mask).tolist()) - {255}), entry["image_tags"], mask.shape))
    return found


def slips(batch, *, shift=0):
    """Number of warnings for images that are worked on together."""
    evidence = []
    for found, tags, (height, width) in batch:
        shown = [label + shift for label in found]
        maps = [("cams", "", (20, -(-height // 16), -(-width // 16))), ("uss_features", "", (384, 37, 37))]
        maps += [("wss_features", "", (1280, height // 32, width // 32))]
        boxes = Boxes([(0, 0, width, height)], [None], False)
        names = ArgumentNames("list", [len(evidence)])
        evidence.append(Evidence(names, (height, width), maps, [shown], [tags], 20, boxes, None, None))
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        warn_about_slips(evidence, "first", None)
    return len(seen)


@pytest.mark.parametrize("size", [1, 2, 4, 16])
def test_real_images_show_no_slip(images, size):
    groups = [images[i : i + size] for i in range(0, len(images), size)]
    assert sum(map(slips, groups)) == 0
    # Base masks that confuse classes, bus and car or cat and dog say, or hold what is in no tag.
    rng = np.random.default_rng(size)
    for group in groups if size > 1 else []:
        worse = [list(image) for image in group]
        image = worse[int(rng.integers(len(worse)))]
        image[0] = sorted({0, *rng.choice(20, size=len(image[0]), replace=False).tolist()})
        assert slips(worse) == 0


@pytest.mark.parametrize(("size", "least"), [(1, 0.2), (4, 0.9), (16, 0.95)])
def test_most_batches_show_masks_that_are_one_apart(images, size, least):
    groups = [images[i : i + size] for i in range(0, len(images) - size + 1, size)]
    assert np.mean([slips(group, shift=-1) > 0 for group in groups]) > least
