"""The command line: options, version, and one line when something is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dhr_refine
from dhr_refine import cli
from dhr_refine.demo import run


@pytest.fixture
def options(monkeypatch):
    """Collect what the command line asks for instead of running it."""
    asked = []
    monkeypatch.setattr(run, "run", lambda options: asked.append(options))
    return asked


def test_cli_passes_options_on(options, monkeypatch):
    threads = []
    monkeypatch.setattr(torch, "set_num_threads", threads.append)
    assert cli.main(["demo"]) == 0
    assert options[0] == run.Options()
    assert threads == []
    arguments = (
        "--out o --photo temple --photo coffee --photo temple --boundary none --recipe paper --background 0.3"
    )
    assert cli.main(["demo", *arguments.split(), "--threads", "2", "--cache", "c", "--vit", "v.whl"]) == 0
    assert options[1] == run.Options(
        out=Path("o"),
        photos=("temple", "coffee"),
        boundary=None,
        recipe="paper",
        background=0.3,
        cache=Path("c"),
        vit=Path("v.whl"),
    )
    assert threads == [2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "VERB"),
        ("demo --boundary gauss", "invalid choice: 'gauss'"),
        ("demo --threads 0", "must be a whole number from 1 to 1024, got '0'"),
        ("demo --threads two", "must be a whole number from 1 to 1024, got 'two'"),
        ("demo --threads 100000", "must be a whole number from 1 to 1024, got '100000'"),
        ("demo --background 1.5", "must be a number from 0 to 1, got '1.5'"),
        ("demo --background dark", "must be a number from 0 to 1, got 'dark'"),
    ],
)
def test_cli_refuses_bad_options(arguments, message, options, capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(arguments.split())
    assert error.value.code == 2
    assert message in capsys.readouterr().err
    assert not options


def test_cli_refuses_photos_that_it_has_not(options, capsys):
    assert cli.main(["demo", "--photo", "dog"]) == 2
    assert "--photo 'dog' is none of the photos: choose from officer" in capsys.readouterr().err
    assert not options


def test_cli_names_its_version(capsys):
    with pytest.raises(SystemExit) as error:
        cli.main(["--version"])
    assert error.value.code == 0
    assert capsys.readouterr().out == f"dhr-refine {dhr_refine.__version__}\n"


def test_cli_ends_quietly_when_interrupted(monkeypatch):
    def interrupt(options):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run", interrupt)
    assert cli.main(["demo"]) == 130


@pytest.mark.parametrize("module", ["onnx", "rich.console", "transformers"])
def test_missing_package_gives_one_line(module, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(["demo", "--out", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert f"the demo needs {module}" in message
    assert re.search(rf': pip install .*"{module.partition(".")[0]}[^" ]+"', message)
    assert message.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_unwritable_output_gives_one_line(tmp_path, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    assert cli.main(["demo", "--out", str(blocked)]) == 1
    message = capsys.readouterr().err
    assert "cannot be written" in message
    assert "--out" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize("arguments", ["--version", "--help", "demo --help"])
def test_cli_answers_without_pytorch(arguments):
    code = (
        "import sys\nfrom dhr_refine import cli\n"
        f"try: cli.main({arguments.split()})\n"
        "except SystemExit: print(sorted({'torch', 'numpy', 'rich'} & set(sys.modules)))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.endswith("[]\n")


@pytest.mark.parametrize("module", ["dhr_refine", "dhr_refine.cli"])
def test_python_m_is_the_same_command(module):
    process = subprocess.run(
        [sys.executable, "-m", module, "--version"], capture_output=True, text=True, timeout=120
    )
    assert (process.returncode, process.stderr) == (0, "")
    assert process.stdout == f"dhr-refine {dhr_refine.__version__}\n"
