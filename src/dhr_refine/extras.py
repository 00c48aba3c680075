"""Packages that only a part of the library needs: imported when used, or else what pip is to install."""

from __future__ import annotations

import importlib
import re
from importlib import metadata
from typing import Any

NAME = "dhr_refine"


def import_optional(module: str, *, by: str, extra: str = "", install: str = "") -> Any:
    """Import a package when it is needed, or say in one line how to get it.

    Parameters
    ----------
    module : str
        Full name of the module, ``"PIL.Image"`` say.
    by : str
        Who needs it, the start of the message.
    extra : str
        The extra of this package that brings it, "" for what the library itself depends on.
    install : str
        What pip is to install where no extra brings it.

    Returns
    -------
    module

    Raises
    ------
    ImportError
        The module cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        command = f"pip install {install}" if install else install_command(extra)
        raise ImportError(f"{by} needs {module}, which cannot be imported ({error}): {command}") from error


def install_command(extra: str = "") -> str:
    """A command line that installs what an extra lacks here, or all of it if nothing is known to be missing.

    The extra's own name would not do: pip finds ``dhr_refine[demo]`` only where an index has the library, and
    ``.[demo]`` only in its sources.

    Parameters
    ----------
    extra : str
        One of the extras, "" for what the library itself depends on.

    Returns
    -------
    str
        ``pip install "numba>=0.59"``, say.

    Examples
    --------
    >>> install_command("numba")
    'pip install "numba>=0.59"'
    """
    try:
        lines = metadata.requires(NAME) or []
    except metadata.PackageNotFoundError:
        lines = []
    needed = [line.partition(";")[0].strip() for line in lines if _extra_of(line) == extra]
    if not needed:  # the sources alone are on a path, or those of a newer version
        return (
            f'pip install ".[{extra}]" in a clone of {NAME}'
            if extra
            else f"pip install . in a clone of {NAME}"
        )
    missing = [one for one in needed if not _is_there(one)]
    return "pip install " + " ".join(f'"{one}"' for one in missing or needed)


def _extra_of(line: str) -> str:
    """The extra that a requirement belongs to, "" for none."""
    found = re.search(r"""extra\s*==\s*['"]([^'"]+)['"]""", line.partition(";")[2])
    return found[1] if found else ""


def _is_there(requirement: str) -> bool:
    """Whether a distribution of that name is installed, of whatever version."""
    try:
        metadata.distribution(re.split(r"[^\w.-]", requirement, maxsplit=1)[0])
    except metadata.PackageNotFoundError:
        return False
    return True
