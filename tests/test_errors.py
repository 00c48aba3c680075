"""Optional packages: one line that says what needs them and how to get them."""

from __future__ import annotations

import math
import sys

import pytest

from dhr_refine.errors import UserError, require
from dhr_refine.extras import install_command


def test_a_missing_package_is_named_with_who_needs_it(monkeypatch):
    assert require("math") is math
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(UserError) as caught:
        require("PIL.Image")
    text = str(caught.value)
    assert text.startswith("this needs PIL.Image, which cannot be imported (")
    assert text.endswith(f"): {install_command('demo')}")
    with pytest.raises(UserError, match=r"^the demo needs PIL\.Image, "):
        require("PIL.Image", by="the demo")
