"""Nothing depends on the process's defaults: the whole public API under changed ones, on random calls."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from same_results import digest, make, numbers_of, with_gradient
from torch import Tensor

# Every kind of call of same_results.py: a third of them the whole step, on all recipes and boundary tools.
CALLS = range(42)


@contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


@contextmanager
def deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def flush_denormal() -> Iterator[None]:
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor does not flush denormals")
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


EXACT = {
    "float64": lambda: default_dtype(torch.float64),
    "float16": lambda: default_dtype(torch.float16),
    "bfloat16": lambda: default_dtype(torch.bfloat16),
    "device": lambda: torch.device("meta"),
    "deterministic": deterministic,
    "autocast": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
    "inference": torch.inference_mode,
}
ROUNDING = {
    "two threads": lambda: threads(2),
    "three threads": lambda: threads(3),
    "denormals": flush_denormal,
}


@pytest.fixture(scope="module")
def expected():
    """The results under the usual defaults, on one thread."""
    with threads(1), pytest.warns(UserWarning, match="without labels"):
        return [make(number)() for number in CALLS]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore:refine_mask was called without labels")
@pytest.mark.parametrize("mode", list(EXACT))
def test_the_same_bits(mode, expected):
    for number, result in zip(CALLS, expected, strict=True):
        call = make(number)
        if mode == "inference" and getattr(call, "func", None) is with_gradient:
            continue  # there are none in this mode
        with EXACT[mode]():
            found = call()
        assert digest(found) == digest(result), number


@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore:refine_mask was called without labels")
@pytest.mark.parametrize("mode", list(ROUNDING))
def test_the_same_numbers_to_rounding(mode, expected):
    for number, result in zip(CALLS, expected, strict=True):
        call = make(number)
        with ROUNDING[mode]():
            found = call()
        pairs = list(zip(numbers_of(found), numbers_of(result), strict=True))
        assert pairs
        for one, other in pairs:
            assert_near(one, other, number)


def assert_near(one: Tensor, other: Tensor, number: int) -> None:
    """Labels but for ties, everything else to rounding."""
    assert (one.dtype, one.shape) == (other.dtype, other.shape)
    if one.is_floating_point():
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4, equal_nan=True)
    elif one.numel() > 1000:  # masks; the passes of a solver may differ by one
        assert (one != other).double().mean() < 1e-3, number


def test_a_changed_default_would_be_noticed():
    """The guard itself: a result that follows the default dtype has another fingerprint."""
    plain = digest(torch.zeros(2))
    with default_dtype(torch.float64):
        assert digest(torch.zeros(2)) != plain
