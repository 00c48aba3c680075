"""Runs over folders that are killed, stopped, or not alone: the same command goes on, and nothing is lost."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import pytest
from small_sets import command, files_of, write_set

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(os.name != "posix", reason="needs signals"),
]
MORE = ("--memory", "auto", "--rounds", "1", "--save-probs", "--palette", "--jobs", "2")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("set"), 24)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """What an undisturbed run writes."""
    out = tmp_path_factory.mktemp("whole")
    assert subprocess.run([sys.executable, "-m", "dhr_refine", *command(data, out, *MORE)]).returncode == 0
    return files_of(out)


def start(data, out):
    return subprocess.Popen(
        [sys.executable, "-m", "dhr_refine", *command(data, out, *MORE)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def await_files(out, count, process):
    """Wait until there are so many files, half-written ones among them, or the run has ended."""
    while process.poll() is None and sum(path.is_file() for path in out.rglob("*")) < count:
        time.sleep(0.001)


def test_a_run_that_is_killed_again_and_again_comes_to_the_same(data, whole, tmp_path):
    rng, out = random.Random(3), tmp_path / "out"
    out.mkdir()
    for count in (1, 2, 4, 6, 14, 22, 31, 44, 58, 70):
        process = start(data, out)
        await_files(out, count, process)
        time.sleep(rng.random() / 20)
        process.kill()
        process.communicate()
        found = files_of(out)
        assert {name: found[name] for name in found if not name.endswith(".txt")}.items() <= whole.items()
    process = start(data, out)
    told = process.communicate()
    assert (process.returncode, told[1]) == (0, "")
    assert files_of(out) == whole
    assert json.loads((out / "dhr_refine.json").read_text())["status"] == "complete"


def test_two_runs_at_once_come_to_the_same(data, whole, tmp_path):
    one, two = start(data, tmp_path / "out"), start(data, tmp_path / "out")
    told = [one.communicate(), two.communicate()]
    assert (one.returncode, two.returncode, [errors for _, errors in told]) == (0, 0, ["", ""])
    assert files_of(tmp_path / "out") == whole
    assert list((tmp_path / "out").rglob(".*")) == []


@pytest.mark.parametrize("count", [1, 2, 20, 40])
@pytest.mark.parametrize("delay", [0.0, 0.7])
def test_ctrl_c_is_one_line(data, whole, tmp_path, count, delay):
    process, out = start(data, tmp_path / "out"), tmp_path / "out"
    await_files(out, count, process)
    time.sleep(delay if count < 20 else delay / 20)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate()
    assert process.returncode == 130
    line = rf"dhr-refine: stopped with \d+ images finished in {out}; the same command goes on from there\n"
    assert re.fullmatch(line, errors)
    assert json.loads((out / "dhr_refine.json").read_text())["status"] == "stopped"
    assert list(out.rglob(".*")) == []
    found = files_of(out)
    assert {name: found[name] for name in found if not name.endswith(".txt")}.items() <= whole.items()
