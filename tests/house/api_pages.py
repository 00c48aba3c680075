"""The names on the API pages, and the objects behind them."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

from places import ROOT

import dhr_refine

DOCS = ROOT / "docs"
API = sorted((DOCS / "api").glob("*.md"))
DIRECTIVE = r"^\s*\.\. (currentmodule|py:module|auto\w+):: (\S+)"


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def documented() -> list[str]:
    """Full names in the autodoc directives of the API pages."""
    names = []
    for page in API:
        scope = ""
        for directive, name in re.findall(DIRECTIVE, read(page), re.M):
            if directive in ("currentmodule", "py:module"):
                scope = name
            elif directive == "automodule":
                names += [f"{name}.{member}" for member in public(name)]
            elif directive in ("automethod", "autoproperty", "autoattribute"):
                names.append(f"{names_class(names)}.{name}")
            else:
                names.append(name if name.startswith("dhr_refine") else f"{scope}.{name}")
    return names


def documented_modules() -> set[str]:
    """Full names of the modules that have a page of their own."""
    pages = [re.findall(DIRECTIVE, read(page), re.M) for page in API]
    return {name for page in pages for directive, name in page if directive in ("py:module", "automodule")}


def public(module: str) -> list[str]:
    """What a module offers to others."""
    return list(importlib.import_module(module).__all__)


def names_class(names: list[str]) -> str:
    """The class that a member directive belongs to: the latest name that is one."""
    return next(name for name in reversed(names) if inspect.isclass(resolve(name)))


def resolve(name: str) -> object:
    """The object behind a full name."""
    parts = name.split(".")
    found: object = dhr_refine
    for count, part in enumerate(parts[1:], start=2):
        if inspect.ismodule(found) and not hasattr(found, part):
            importlib.import_module(".".join(parts[:count]))
        found = getattr(found, part)
    return found
