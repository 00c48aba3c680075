"""The dense CRF on a CPU, compiled by numba: no compiler to install, no GIL held.

``lattice.py`` builds lattices and ``solve.py`` runs mean field on them: both prepare arrays (``memory.py``)
and threads (``threads.py``) for compiled loops. ``embedding.py`` places the pixels in a lattice and links its
vertices, ``filtering.py`` filters and runs mean field.
"""

from .lattice import NumbaKernel, build_bilateral, build_gaussian
from .solve import build_and_infer, mean_field

__all__ = ["NumbaKernel", "build_and_infer", "build_bilateral", "build_gaussian", "mean_field"]
