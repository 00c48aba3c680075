"""The weights of the demo's ViT."""

from __future__ import annotations

from pathlib import Path

import pytest
from weights import vit_or_skip


@pytest.fixture(scope="session")
def vit_path() -> Path:
    """The checked weights."""
    return vit_or_skip()
