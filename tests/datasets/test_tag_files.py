"""Files of image tags."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scene_folder import CLASSES, KEYS

from dhr_refine.datasets.index import IMAGES, FileIndex
from dhr_refine.datasets.items import select
from dhr_refine.datasets.tags import read_tags
from dhr_refine.errors import UserError


def test_tags_of_a_file(folder, tmp_path):
    row = np.array([0, 1, 0, 1], dtype=np.float32)
    np.save(tmp_path / "names.npy", {"2007_000032": row, "x": row[::-1]})  # type: ignore[arg-type]
    np.save(tmp_path / "numbers.npy", {np.int32(2007000032): row})  # type: ignore[arg-type]
    assert read_tags(tmp_path / "names.npy", 5) == {"2007_000032": (1, 3), "x": (0, 2)}
    assert read_tags(tmp_path / "numbers.npy", 5) == {"2007_000032": (1, 3)}
    rows = {key: np.eye(CLASSES - 1)[2] for key in KEYS} | {"c": np.zeros(CLASSES - 1)}
    np.save(tmp_path / "tags.npy", rows)  # type: ignore[arg-type]
    tags = read_tags(tmp_path / "tags.npy", CLASSES)
    images, targets = (FileIndex(folder / name, IMAGES) for name in ("images", "targets"))
    items = select(KEYS, images, targets, classes=CLASSES, tags=tags)
    assert [(item.key, item.tags) for item in items] == [(key, (2,)) for key in "abd"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "holds no dictionary"),
        (
            {"a": np.ones(3)},
            r"has tags of shape \(3,\) for a but --classes 5 needs \(4,\)",
        ),
        ({"a": np.ones((1, 4))}, r"has tags of shape \(1, 4\)"),
        ({"a": 1}, r"has tags of shape \(\)"),
        ({"a": ["cat"]}, "holds list, no array of numbers"),
        ({"a": [[1], [1, 2]]}, "holds list, no array of numbers"),
        ({"a": {"b": 1}}, "holds dict, no array of numbers"),
        ({"a": np.full(4, np.nan)}, "holds NaN or infinity"),
        ({"a": np.array([1, -1, 0, 0])}, "has negative tags for a: tags are 1"),
        ({"../a": np.ones(4)}, r"has the image id '\.\./a': an id is the name of a file"),
        ({"": np.ones(4)}, "has the image id ''"),
    ],
)
def test_tags_that_are_none(tmp_path, content, said):
    torch.save(content, tmp_path / "tags.pt")
    with pytest.raises(UserError, match=rf"tags\.pt {said}"):
        read_tags(tmp_path / "tags.pt", 5)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.bool, torch.uint8, list])
def test_tags_of_every_kind_of_number(tmp_path, kind):
    row = [0, 1, 0, 1]
    torch.save({"a": row if kind is list else torch.tensor(row, dtype=kind)}, tmp_path / "tags.pt")
    assert read_tags(tmp_path / "tags.pt", 5) == {"a": (1, 3)}
