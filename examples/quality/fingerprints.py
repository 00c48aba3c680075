"""What cached arrays were made by: hashes of the code that they depend on."""

from __future__ import annotations

import functools
from pathlib import Path

import torch

import dhr_refine
from dhr_refine import pretrained
from dhr_refine.datasets.cache import digest

PACKAGE = Path(dhr_refine.__file__).parent
WITHOUT_INFLUENCE = {
    "__main__.py",
    "api.py",
    "cli.py",
    "commands",
    "datasets",
    "demo",
    "features.py",
    "folders",
    "metrics",
    "pretrained",
    "sam",
    "training.py",
    "viz",
}
"""Files and folders of the package that masks do not depend on, given CAMs, features and base masks."""


def mask_sources() -> list[Path]:
    """The library's files that masks depend on, base masks among them."""
    files = sorted(PACKAGE.rglob("*.py"))
    return [path for path in files if path.relative_to(PACKAGE).parts[0] not in WITHOUT_INFLUENCE]


@functools.cache
def library_code() -> str:
    """Hash of the library's code that masks depend on."""
    return digest(torch.__version__, *(path.read_bytes() for path in mask_sources()))


@functools.cache
def network_code() -> str:
    """Hash of the code that CAMs and features of the pretrained networks depend on."""
    files = sorted(Path(pretrained.__file__).parent.glob("*.py"))
    return digest(torch.__version__, *(path.read_bytes() for path in files))
