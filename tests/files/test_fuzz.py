"""Changed files end in a result or in an error that names them: see ``fuzz_files.py``."""

from __future__ import annotations

import os
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the watched process needs Linux")
fuzz_files = pytest.importorskip("fuzz_files")
watched = pytest.importorskip("watched")

COUNT = int(os.environ.get("DHR_REFINE_FUZZ", "0"))
SEED = int(os.environ.get("DHR_REFINE_FUZZ_SEED", "0"))


def check(tmp_path, seed, count):
    report = fuzz_files.fuzz(seed, count, tmp_path)
    shown = [f"{fuzzed.source}, {fuzzed.how}: {outcome}" for fuzzed, outcome in report.faults[:10]]
    assert not report.faults, "\n".join(shown)
    assert not report.unforeseen
    # The changes are neither lost on the files nor all there is in them.
    assert 0.1 * count < report.kinds["read"] < 0.5 * count
    assert report.slowest < watched.SECONDS
    assert report.peak < watched.BYTES


def test_a_thousand_changed_files(tmp_path):
    check(tmp_path, SEED, 1000)


@pytest.mark.slow
@pytest.mark.skipif(not COUNT, reason="a minute or more: set DHR_REFINE_FUZZ to a number of files, 20000 say")
def test_many_changed_files(tmp_path):
    check(tmp_path, SEED + 1, COUNT)


def test_changes_are_the_same_for_the_same_seed():
    one, same, other = (list(fuzz_files.mutants(seed, 40)) for seed in (5, 5, 6))
    assert one == same
    assert one != other
