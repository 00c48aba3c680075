"""Optional packages: one line that says what needs them and how to get them."""

from __future__ import annotations

import math
import sys

import pytest

from dhr_refine.errors import UserError, require


def test_a_missing_package_is_named_with_who_needs_it(monkeypatch):
    assert require("math") is math
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(UserError) as caught:
        require("PIL.Image")
    text = str(caught.value)
    assert text.startswith("this needs PIL.Image, which is not installed (")
    assert text.endswith('): pip install "dhr_refine[demo]"')
    with pytest.raises(UserError, match=r"^the demo needs PIL\.Image, "):
        require("PIL.Image", by="the demo")
