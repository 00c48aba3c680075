"""Where things lie: the repository, and the data beside it that some tests need."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def shared_folder() -> Path:
    """Golden data and real images: next to the repository, or where DHR_REFINE_SHARED says."""
    return Path(os.environ.get("DHR_REFINE_SHARED", ROOT.parent / "shared"))
