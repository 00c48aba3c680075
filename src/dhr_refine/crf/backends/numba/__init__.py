"""The dense CRF on a CPU, compiled by numba: no compiler to install, no GIL held.

``run.py`` prepares arrays and threads for the compiled loops: ``embedding.py`` places the pixels in a
lattice and links its vertices, ``filtering.py`` filters and runs mean field.
"""

from .run import NumbaKernel, build_and_infer, build_bilateral, build_gaussian, mean_field

__all__ = ["NumbaKernel", "build_and_infer", "build_bilateral", "build_gaussian", "mean_field"]
