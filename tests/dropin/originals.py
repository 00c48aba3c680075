"""The compiled original beside our modules: what the tests of the drop-in compare."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
import pytest

import dhr_refine.pydensecrf.densecrf
import dhr_refine.pydensecrf.eigen
import dhr_refine.pydensecrf.utils

REASON = "needs the original: pip install pydensecrf2"


class Interface(NamedTuple):
    """The modules of one implementation."""

    densecrf: Any
    utils: Any
    eigen: Any


OURS = Interface(dhr_refine.pydensecrf.densecrf, dhr_refine.pydensecrf.utils, dhr_refine.pydensecrf.eigen)


def original() -> Interface:
    """The real pydensecrf, or a skip where it is missing."""

    def load(name: str) -> ModuleType:
        pytest.importorskip("pydensecrf.densecrf", reason=REASON)
        return importlib.import_module(f"pydensecrf.{name}")

    theirs = Interface(load("densecrf"), load("utils"), load("eigen"))
    assert theirs.densecrf is not OURS.densecrf
    return theirs


class Tally:
    """Differences of marginals, added up over many runs: single pixels weigh little in the share."""

    def __init__(self) -> None:
        self.pixels = self.equal = 0
        self.largest = 0.0

    def add(self, ours: Any, theirs: Any) -> None:
        """Compare two matrices (n_labels, n_pixels)."""
        ours, theirs = np.array(ours), np.array(theirs)
        assert ours.shape == theirs.shape
        assert ours.dtype == theirs.dtype == np.float32
        self.pixels += ours.shape[1]
        self.equal += int((ours.argmax(axis=0) == theirs.argmax(axis=0)).sum())
        self.largest = max(self.largest, float(np.abs(ours - theirs).max(initial=0)))

    def check(self) -> None:
        """Fail unless the marginals are equal to 1e-3 and the labels to one in ten thousand."""
        assert self.pixels > 0
        assert self.largest <= 1e-3
        assert self.equal >= 0.9999 * self.pixels, f"{self.pixels - self.equal} of {self.pixels} differ"
