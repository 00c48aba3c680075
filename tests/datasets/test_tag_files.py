"""Files of image tags."""

from __future__ import annotations

import numpy as np
from scene_folder import CLASSES, KEYS

from dhr_refine.datasets.items import select
from dhr_refine.datasets.tags import read_tags


def test_tags_of_a_file(folder, tmp_path):
    row = np.array([0, 1, 0, 1], dtype=np.float32)
    np.save(tmp_path / "names.npy", {"2007_000032": row, "x": row[::-1]})  # type: ignore[arg-type]
    np.save(tmp_path / "numbers.npy", {np.int32(2007000032): row})  # type: ignore[arg-type]
    assert read_tags(tmp_path / "names.npy", 5) == {"2007_000032": (1, 3), "x": (0, 2)}
    assert read_tags(tmp_path / "numbers.npy", 5) == {"2007_000032": (1, 3)}
    rows = {key: np.eye(CLASSES - 1)[2] for key in KEYS} | {"c": np.zeros(CLASSES - 1)}
    np.save(tmp_path / "tags.npy", rows)  # type: ignore[arg-type]
    tags = read_tags(tmp_path / "tags.npy", CLASSES)
    items = select(KEYS, folder / "images", folder / "targets", classes=CLASSES, tags=tags)
    assert [(item.key, item.tags) for item in items] == [(key, (2,)) for key in "abd"]
