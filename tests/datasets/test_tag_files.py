"""Files of image tags: dictionaries of arrays, and the table that we write."""

from __future__ import annotations

from unicodedata import normalize

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scene_folder import CLASSES, KEYS

from dhr_refine.datasets.classes import class_set
from dhr_refine.datasets.index import IMAGES, FileIndex
from dhr_refine.datasets.items import select
from dhr_refine.datasets.tag_table import match_ids
from dhr_refine.datasets.tags import read_tags, write_tags
from dhr_refine.errors import UserError


def read(path, classes, **options):
    return read_tags(path, classes=class_set(classes), **options).table


def test_tags_of_a_file(folder, tmp_path):
    row = np.array([0, 1, 0, 1], dtype=np.float32)
    np.save(tmp_path / "names.npy", {"2007_000032": row, "x": row[::-1]})  # type: ignore[arg-type]
    np.save(tmp_path / "numbers.npy", {np.int32(2007000032): row})  # type: ignore[arg-type]
    assert read(tmp_path / "names.npy", 5) == {"2007_000032": (1, 3), "x": (0, 2)}
    assert read(tmp_path / "numbers.npy", 5) == {"2007_000032": (1, 3)}
    rows = {key: np.eye(CLASSES - 1)[2] for key in KEYS} | {"c": np.zeros(CLASSES - 1)}
    np.save(tmp_path / "tags.npy", rows)  # type: ignore[arg-type]
    tags = read(tmp_path / "tags.npy", CLASSES)
    images, targets = (FileIndex(folder / name, IMAGES) for name in ("images", "targets"))
    items = select(KEYS, images, targets, classes=CLASSES, tags=tags)
    assert [(item.key, item.tags) for item in items] == [(key, (2,)) for key in "abd"]


def test_tags_of_coco(tmp_path):
    """Its ids are numbers, which stand in the names of files with zeros and the split before them."""
    row = np.eye(3, dtype=np.float32)
    np.save(tmp_path / "tags.npy", {391895: row[0], np.int64(9): row[1], "x.jpg": row[2]})  # type: ignore[arg-type]
    tags = read_tags(tmp_path / "tags.npy")
    assert (tags.table, tags.classes) == ({"391895": (0,), "9": (1,), "x": (2,)}, 3)
    wanted = ["COCO_train2014_000000391895", "000000000009", "x", "COCO_val2014_000000000010"]
    own = read_tags(tmp_path / "tags.npy", keys=wanted)
    assert own.table == dict(zip(wanted, [(0,), (1,), (2,)]))
    assert own.classes == 3


def test_numbers_that_could_be_another_image(tmp_path):
    assert match_ids(["9", "009", "8"], ["00009", "009", "08"]) == {"009": "009", "08": "8"}
    assert match_ids(["9"], ["009", "0009"]) == {}
    assert match_ids(["2007_000009", "a9"], ["9", "a09"]) == {}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "holds no dictionary"),
        (
            {"a": np.ones(3)},
            r"has 3 zeros and ones for a but --classes 5 needs 4: tags are multi-hot",
        ),
        ({"a": np.ones((1, 4))}, r"has tags of shape \(1, 4\)"),
        ({"a": 1}, r"has tags of shape \(\)"),
        ({"a": ["cat"]}, "holds list, no array of numbers"),
        ({"a": [[1], [1, 2]]}, "holds list, no array of numbers"),
        ({"a": {"b": 1}}, "holds dict, no array of numbers"),
        ({"a": np.full(4, np.nan)}, "holds NaN or infinity"),
        ({"a": np.array([1, -1, 0, 0])}, "has negative tags for a: tags are 1"),
        ({"a": np.array([0.9, 0, 0, 0.1])}, "has fractions as tags for a: tags are 1 .* no scores"),
        ({"b": np.zeros(4), "a": np.ones(3)}, "has 3 zeros and ones for a but --classes 5 needs 4"),
        ({"../a": np.ones(4)}, r"has the image id '\.\./a': an id is the name of a file"),
        ({"": np.ones(4)}, "has the image id ''"),
    ],
)
def test_tags_that_are_none(tmp_path, content, said):
    torch.save(content, tmp_path / "tags.pt")
    with pytest.raises(UserError, match=rf"tags\.pt {said}"):
        read(tmp_path / "tags.pt", 5)


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.bool, torch.uint8, list])
def test_tags_of_every_kind_of_number(tmp_path, kind):
    row = [0, 1, 0, 1]
    torch.save({"a": row if kind is list else torch.tensor(row, dtype=kind)}, tmp_path / "tags.pt")
    assert read(tmp_path / "tags.pt", 5) == {"a": (1, 3)}


IDS = st.text(min_size=1, max_size=8).filter(
    lambda key: key.isprintable() and not set(key) & set("/\\\\") and key not in (".", "..")
)


@given(st.dictionaries(IDS.map(lambda key: normalize("NFC", key)), st.sets(st.integers(0, 300))))
def test_what_is_written_comes_back(tmp_path_factory, table):
    path = tmp_path_factory.mktemp("tags") / "tags.csv"
    write_tags(path, table)
    read = read_tags(path)
    assert read.table == {key: tuple(sorted(own)) for key, own in table.items()}
    assert read.classes is None
    assert [*path.parent.iterdir()] == [path]


def test_the_table_is_plain_text(tmp_path):
    write_tags(
        tmp_path / "tags.csv", {"b": (), "2007_000032": (14, 0), "a b.png": [3], "#x": (1,), "v1.2": (2,)}
    )
    assert (tmp_path / "tags.csv").read_text().splitlines() == [
        "id,tags",
        '"#x",1',
        "2007_000032,0 14",
        '"a b.png.png",3',
        "b,",
        "v1.2,2",
    ]


@pytest.mark.parametrize("key", ["", "..", "a/b", "a\\b", "a\nb"])
def test_ids_that_cannot_be_written(tmp_path, key):
    with pytest.raises(UserError, match=r"tags\.csv (has|cannot hold) the image id"):
        write_tags(tmp_path / "tags.csv", {key: (1,)})
    assert not [*tmp_path.iterdir()]


def test_a_table_of_classes_that_are_not_there(tmp_path):
    write_tags(tmp_path / "tags.csv", {"a": (19,), "b": (20,)})
    with pytest.raises(
        UserError, match="has the class number 20, but with --first 0 --classes 21 they are 0 to 19"
    ):
        read(tmp_path / "tags.csv", 21)
    assert read(tmp_path / "tags.csv", 22) == {"a": (19,), "b": (20,)}
