"""Backends and threads as parameters of the dense CRF's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from parity import BACKENDS


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def set_threads() -> Iterator[Callable[[int], None]]:
    """Change torch's number of threads until the end of the test."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def two_threads(set_threads):
    set_threads(2)
