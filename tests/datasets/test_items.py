"""Which images of a data set are worked on."""

from __future__ import annotations

import numpy as np
import pytest
from scene_folder import CLASSES, KEYS, write_png

from dhr_refine.datasets.items import read_list, select
from dhr_refine.errors import UserError
from dhr_refine.files.pictures import read_index_mask

pytest.importorskip("PIL.Image", reason="needs Pillow")


@pytest.mark.parametrize(("kind", "classes", "ignore"), [(np.uint8, 81, 255), (np.uint16, 300, 999)])
def test_index_pngs_of_many_classes(tmp_path, kind, classes, ignore):
    mask = np.array([[0, classes - 1, 3], [ignore, 0, 1]])
    write_png(tmp_path / "x.png", mask, kind)
    write_png(tmp_path / "y.png", np.zeros((2, 3)), kind)
    assert np.array_equal(read_index_mask(tmp_path / "x.png", classes, ignore), mask)
    (item,) = select("xy", tmp_path, tmp_path, classes=classes, ignore_index=ignore)
    assert item.tags == (0, 2, classes - 2)  # an image without a tag is left out


def test_selection(folder):
    def keys(**options):
        items = select(reversed(KEYS), folder / "images", folder / "targets", classes=CLASSES, **options)
        return [item.key for item in items]

    assert keys() == list(KEYS)
    assert keys(min_classes=2) == ["a", "b", "d"]
    assert keys(min_classes=2, limit=2) == ["a", "b"]
    assert keys(min_classes=2, part="tune") == ["a", "d"]
    assert keys(min_classes=2, part="check") == ["b"]
    assert keys(min_classes=2, part="tune", limit=1) == ["a"]
    with pytest.raises(UserError, match="no image is left"):
        keys(min_classes=5)


def test_lists_of_other_codebases(tmp_path):
    """Ids alone, paths of images, pairs of image and mask, and an id with a dot in it."""
    path = tmp_path / "list.txt"
    path.write_text("2007_000032\n/JPEGImages/b.jpg /SegmentationClassAug/b.png\n\n  v1.2 \nc.JPEG\n")
    assert read_list(path) == ["2007_000032", "b", "v1.2", "c"]
