"""A VOC-like folder of made-up pictures, and how to train on it in seconds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

TINY = ["--networks", "tiny", "--batch", "2", "--crop", "64", "--eval-size", "64", "--boundary", "pamr"]


def make_folder(root: Path, *, train: int = 5, val: int = 2) -> Path:
    """A folder like shared/data/voc12: coloured rectangles on noise, odd sizes."""
    from PIL import Image

    rng = np.random.default_rng(0)
    (root / "JPEGImages").mkdir(parents=True)
    (root / "SegmentationClassAug").mkdir()
    index = []
    for i in range(train + val):
        height, width = 70 + 3 * i, 96 - 5 * i
        picture = rng.integers(90, 120, (height, width, 3)).astype(np.uint8)
        mask = np.zeros((height, width), np.uint8)
        tags = [1 + i % 3, 8 + i % 2]
        for place, tag in enumerate(tags):
            box = np.s_[20:50, 10 + 35 * place : 30 + 35 * place]
            picture[box], mask[box] = (40 * tag % 256, 200 - 20 * tag, 20 * tag), tag
        mask[20] = 255
        Image.fromarray(picture).save(root / "JPEGImages" / f"image{i}.jpg", quality=95)
        Image.fromarray(mask).save(root / "SegmentationClassAug" / f"image{i}.png")
        index.append({"id": f"image{i}", "split": "train" if i < train else "val", "image_tags": tags})
    (root / "index.json").write_text(json.dumps(index))
    return root
