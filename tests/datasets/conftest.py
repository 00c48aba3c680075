"""A small data set on disk."""

from __future__ import annotations

import pytest
from scene_folder import make_scenes, write_folder


@pytest.fixture
def scenes():
    """Four scenes, by their key."""
    return make_scenes()


@pytest.fixture
def folder(tmp_path, scenes):
    """A data set of four images, each kind of own file in another form."""
    pytest.importorskip("PIL.Image", reason="needs Pillow")
    return write_folder(tmp_path, scenes)
