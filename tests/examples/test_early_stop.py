"""Ctrl-C while the scripts import: one line, whatever the import makes of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from textwrap import dedent

import pytest
from early_stop import end_at_ctrl_c
from places import ROOT

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")


@pytest.mark.parametrize("script", ["train_wss", "benchmark_quality"])
def test_scripts_end_with_one_line(tmp_path, script):
    """Instead of torch there is a module that catches the interrupt."""
    (tmp_path / "torch.py").write_text(
        dedent(
            """
            import os, signal, time
            try:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)
            except BaseException as error:
                raise ImportError("half imported") from error
            """
        )
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    found = subprocess.run(
        [sys.executable, ROOT / "examples" / f"{script}.py"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (found.returncode, found.stdout, found.stderr) == (130, "", f"{script}: stopped\n")


@pytest.fixture
def handler():
    """Sets what an interrupt does, and gives back what it did."""
    before = signal.getsignal(signal.SIGINT)
    yield lambda what: signal.signal(signal.SIGINT, what)
    signal.signal(signal.SIGINT, before)


def test_the_handler_is_given_back(handler):
    handler(signal.default_int_handler)
    hear_again = end_at_ctrl_c("x")
    assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    hear_again()
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_process_that_does_not_hear_stays_deaf(handler):
    """A shell starts what runs in the background so."""
    handler(signal.SIG_IGN)
    hear_again = end_at_ctrl_c("x")
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    hear_again()
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
