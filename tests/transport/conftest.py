"""Fixtures of this folder."""

from __future__ import annotations

import pytest


@pytest.fixture(params=["compiled", "torch"])
def engine(request):
    """The compiled loop that serves float32 on the CPU where numba is installed, and the torch operations."""
    if request.param == "torch":
        request.getfixturevalue("without_numba")
    else:
        pytest.importorskip("numba", reason="needs numba: pip install dhr_refine[numba]")
    return request.param
