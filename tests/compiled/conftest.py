"""Processes that compile a small module, each a fresh one, at the cost of a fork."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import dhr_refine

# Two signatures of one function, so two files of machine code; what it calls has files of its own.
_MODULE = """
from dhr_refine.compiled.jit import compiled

OFFSET = 5

@compiled
def shifted(value):
    return value + OFFSET

@compiled
def doubled(value):
    return 2 * shifted(value)

def answer():
    return [doubled(3), doubled(0.25)]
"""
_EXPECTED = [16, 10.5]
# Forks a process per line of input: a call of the module, after a line of code that breaks something.
_SERVER = """
import json, os, sys, traceback, warnings
from numba import njit
from numba.core import config
import dhr_refine.compiled.jit

njit(lambda value: value)(1)  # what every process needs, once for all of them

for line in sys.stdin:
    request = json.loads(line)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            warnings.simplefilter("error")
            config.CACHE_DIR = request["cache"]
            sys.path.insert(0, request["folder"])
            import module
            exec(request["before"])
            answer = module.answer()
            stats = module.doubled.stats
            result = [answer, sum(stats.cache_hits.values()), sum(stats.cache_misses.values())]
        except BaseException:
            result = traceback.format_exc()
        os.write(writer, json.dumps(result).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        text = pipe.read()
    status = os.waitpid(child, 0)[1]
    print(json.dumps([status, text]), flush=True)
"""


class Compiling:
    """Runs of a module of two compiled functions, and the folder where their machine code is kept."""

    def __init__(self, run: Callable[..., Any], folder: Path, cache: Path):
        self._run = run
        self.cache = cache
        self.module = folder / "module.py"
        if not self.module.exists():
            self.module.write_text(_MODULE)

    def run(self, before: str = "", expected: list[float] = _EXPECTED) -> tuple[int, int]:
        """Call it in a new process; signatures found in the cache, and compiled, of the outer function."""
        answer, hits, misses = self._run(str(self.module.parent), str(self.cache), before)
        assert answer == expected
        assert hits + misses == 2
        return hits, misses

    def files(self, ending: str) -> list[Path]:
        """Files of the outer function's cache."""
        return sorted(self.cache.rglob(f"module.doubled*.{ending}"))


@pytest.fixture(scope="session")
def _server(tmp_path_factory) -> Iterator[Callable[..., Any]]:
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    pytest.importorskip("numba", reason="needs numba: pip install numba")
    # Of the package what compiled code needs: importing torch would take longer than all the rest.
    root = tmp_path_factory.mktemp("package")
    source, ignored = Path(dhr_refine.__file__).parent / "compiled", shutil.ignore_patterns("__pycache__")
    shutil.copytree(source, root / "dhr_refine/compiled", ignore=ignored)
    (root / "dhr_refine/__init__.py").touch()
    errors = root / "stderr"
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1"}
    with errors.open("wb") as stderr:
        server = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment,
        )  # fmt: skip
    assert server.stdin is not None
    assert server.stdout is not None
    stdin, stdout = server.stdin, server.stdout

    def run(folder: str, cache: str, before: str) -> Any:
        stdin.write(json.dumps({"folder": folder, "cache": cache, "before": before}) + "\n")
        stdin.flush()
        status, text = json.loads(stdout.readline())
        assert errors.read_text() == ""
        assert status == 0
        result = json.loads(text)
        assert isinstance(result, list), result
        return result

    yield run
    stdin.close()
    assert server.wait(60) == 0
    stdout.close()


@pytest.fixture
def not_compiled(_server, tmp_path) -> Compiling:
    """The module in a folder of its own."""
    return Compiling(_server, tmp_path, tmp_path / "cache")


@pytest.fixture(scope="session")
def _compiled(_server, tmp_path_factory) -> Compiling:
    folder = tmp_path_factory.mktemp("compiled")
    compiling = Compiling(_server, folder, folder / "cache")
    assert compiling.run() == (0, 2)
    assert compiling.run() == (2, 0)
    return compiling


@pytest.fixture
def compiling(_server, _compiled, tmp_path) -> Compiling:
    """The module, its machine code in a folder of its own."""
    shutil.copytree(_compiled.cache, tmp_path / "cache")
    return Compiling(_server, _compiled.module.parent, tmp_path / "cache")
