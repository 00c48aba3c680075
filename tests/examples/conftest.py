"""The scripts in reach."""

from __future__ import annotations

import sys

from places import ROOT

sys.path.append(str(ROOT / "examples"))
