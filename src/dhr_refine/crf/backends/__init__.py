"""Implementations of the dense CRF, one file or folder each, named like the backend.

Each builds lattices from a geometry and runs mean field on them: ``build_gaussian``, ``build_bilateral``,
``mean_field`` (numba also ``build_and_infer``, which keeps no lattice; pydensecrf only ``mean_field``). A
backend is imported when it is first asked for: all but torch need a package that may be missing.
"""

from __future__ import annotations

import importlib
from types import ModuleType


def implementation(backend: str) -> ModuleType:
    """The module of a backend that is installed."""
    return importlib.import_module(f".{backend}", __package__)
