"""Ctrl-C, failing threads and forks: no call on several threads hangs, leaks or spoils the next one."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="sends the signal of Ctrl-C to itself, and forks")
@pytest.mark.parametrize("mode", ["lines", "workers", "signals", "fork"])
def test_interrupted_calls(mode):
    script = Path(__file__).with_name("interrupted.py")
    answer = subprocess.run([sys.executable, script, mode], capture_output=True, text=True, timeout=300)
    assert answer.returncode == 0, answer.stderr[-4000:]
