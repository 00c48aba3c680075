"""Folders of photos that tests write."""

from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture
def write_photos(tmp_path):
    """Write some small photos of several sizes; their folder."""
    pillow = pytest.importorskip("PIL.Image", reason="needs Pillow")

    def write(count):
        rng = np.random.default_rng(5)
        folder = tmp_path / "photos"
        folder.mkdir()
        for number in range(count):
            pixels = rng.integers(0, 256, (40 + 3 * number, 70 - number, 3), np.uint8)
            pillow.fromarray(pixels).save(folder / f"photo_{number:02d}.png")
        return folder

    return write
