"""A scene and its steps, and a guard on matplotlib's global settings."""

from __future__ import annotations

import sys

import matplotlib
import pytest
from scenes import make_scene
from shown import refine


@pytest.fixture(scope="module")
def scene():
    """Tags 2 and 6, of which 6 (label 7) is missing in the base mask, and a band without labels."""
    return make_scene(0, lost=(6,), ignore=True)


@pytest.fixture(scope="module")
def steps(scene):
    return refine(scene)


@pytest.fixture(autouse=True)
def nothing_global_changes():
    before = dict(matplotlib.rcParams)
    yield
    assert dict(matplotlib.rcParams) == before
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []
