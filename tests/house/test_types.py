"""What type checkers make of the package: a user's script is clean, and every public name has a type."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import pytest

import dhr_refine

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("user_script.py")
# What users import names from.
MODULES = (
    "api",
    "files",
    "folders",
    "metrics",
    "pydensecrf",
    "pydensecrf.densecrf",
    "pydensecrf.eigen",
    "pydensecrf.utils",
    "training",
    "viz",
)


@pytest.fixture
def run_checker(tmp_path):
    """Run a type checker of this Python over the sources of this checkout, or skip."""

    def run(module: str, *options: str) -> subprocess.CompletedProcess[str]:
        if importlib.util.find_spec(module) is None:
            pytest.skip(f'{module} is not installed: pip install -e ".[lint]"')
        source = str(Path(dhr_refine.__file__).parents[1])
        python = Path(sys.executable).parent  # where pyright looks for packages
        paths = {"PYTHONPATH": source, "MYPYPATH": source, "MYPY_CACHE_DIR": str(tmp_path)}
        environment = os.environ | paths | {"PATH": f"{python}{os.pathsep}{os.environ['PATH']}"}
        command = [sys.executable, "-m", module, *options]
        return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True)

    return run


@pytest.mark.slow
def test_a_users_script_passes_mypy_strict(run_checker):
    answer = run_checker("mypy", "--strict", "--follow-imports=silent", str(SCRIPT))
    assert answer.returncode == 0, answer.stdout + answer.stderr


@pytest.mark.slow
def test_a_users_script_passes_pyright_strict(run_checker):
    answer = run_checker("pyright", "--pythonpath", sys.executable, str(SCRIPT))
    assert answer.returncode == 0, answer.stdout + answer.stderr


def public_names() -> set[str]:
    """Full names of the public functions and classes, where they are defined and where they are offered."""
    names = set()
    for module in (importlib.import_module(f"dhr_refine.{name}") for name in MODULES):
        for name in module.__all__:
            made = getattr(module, name)
            if isinstance(made, type | FunctionType) and made.__module__.startswith("dhr_refine"):
                names.add(f"{made.__module__}.{made.__qualname__}")
            names.add(f"{module.__name__}.{name}".replace("dhr_refine.api.", "dhr_refine."))
    return names


@pytest.mark.slow
def test_every_public_name_has_a_known_type(run_checker):
    """``pyright --verifytypes``, of which the parts inside are left out."""
    answer = run_checker("pyright", "--verifytypes", "dhr_refine", "--ignoreexternal", "--outputjson")
    report = json.loads(answer.stdout)["typeCompleteness"]
    assert Path(report["packageRootDirectory"]) == Path(dhr_refine.__file__).parent
    public = public_names()
    found, untyped = set(), []
    for symbol in report["symbols"]:
        owners = public & {symbol["name"], symbol["name"].rpartition(".")[0]}
        found |= owners
        if owners and not (symbol["isTypeKnown"] and not symbol["isTypeAmbiguous"]):
            untyped += [symbol["name"], *(one["message"] for one in symbol["diagnostics"])]
    assert untyped == []
    assert {f"dhr_refine.{name}" for name in dhr_refine.__all__} <= found
