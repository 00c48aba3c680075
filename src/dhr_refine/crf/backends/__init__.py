"""Implementations of the dense CRF, one file or folder each, named like the backend.

Each builds lattices from a geometry and runs mean field on them: ``build_gaussian``, ``build_bilateral``,
``mean_field`` (numba also ``build_and_infer``, which keeps no lattice; pydensecrf only ``mean_field``).
:func:`choose_backend` picks one for a device, :func:`implementation` imports it when it is first asked for:
all but torch need a package that may be missing.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
from functools import cache
from types import ModuleType
from typing import Literal, get_args

# Not all of torch: in this folder, the name is that of a backend.
from torch import device as Device

from ...checks import check_choice
from ...compiled.lookup import usable
from ...compiled.threads import aside
from ...extras import install_command

__all__ = ["BACKENDS", "Backend", "choose_backend", "implementation"]

Backend = Literal["auto", "torch", "numba", "triton", "pydensecrf"]
BACKENDS: tuple[str, ...] = get_args(Backend)
_LOG = logging.getLogger("dhr_refine")
_EXTRAS = {"numba": "numba", "pydensecrf": "crf"}


@cache
def _installed(package: str) -> bool:
    if package == "numba":
        return usable()
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True


def choose_backend(backend: str, device: Device) -> str:
    """The backend that serves images on a device: the one asked for, never "auto"."""
    check_choice(backend, "backend", BACKENDS)
    if backend == "auto":
        backend = "numba" if device.type == "cpu" and _installed("numba") else "torch"
        why = ": numba cannot be used" if device.type == "cpu" and backend == "torch" else ""
        _LOG.debug("dense CRF: backend='auto' is %r for images on %s%s", backend, device, why)
        return backend
    # Triton's own switch: kernels run on the CPU, slowly, to be tested and debugged.
    if backend == "triton" and device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"backend='triton' runs on a CUDA device but images is on {device}: "
            "pass backend='auto', or images.cuda()"
        )
    if backend == "pydensecrf" and getattr(sys.modules.get(backend), "__name__", backend) != backend:
        raise ValueError(
            "backend='pydensecrf' is the original, but dhr_refine.pydensecrf.install() has put this "
            "library's CRF in its place: pass backend='auto', or call dhr_refine.pydensecrf.uninstall()"
        )
    if backend != "torch" and not _installed(backend):
        raise ValueError(
            f"backend={backend!r} needs the package {backend}, which cannot be imported: "
            f"{_how_to_get(backend)}, or pass backend='auto'"
        )
    if backend == "numba" and device.type != "cpu":
        raise ValueError(
            f"backend='numba' runs on the CPU but images is on {device}: "
            "pass backend='torch', or images.cpu()"
        )
    return backend


def _how_to_get(backend: str) -> str:
    if backend == "triton":
        return "PyTorch for CUDA on Linux brings it, else pip install triton"
    return install_command(_EXTRAS[backend])


@cache
def implementation(backend: str) -> ModuleType:
    """The module of a backend that is installed."""
    return aside(importlib.import_module, f".{backend}", __package__)
