"""The dense CRF on a CPU, compiled by numba: no compiler to install, no GIL held.

Python prepares arrays (``memory.py``) and threads (``threads.py``), compiled loops fill them. All of these
release the GIL; none uses fast-math.

- ``lattice.py`` builds lattices. Image to simplices, ``tiles.py`` by tiles: ``simplices.py``. Simplices to
  numbered vertices: ``vertices.py`` by the hash tables of ``tables.py``, or ``planes.py`` without any.
  Vertices to neighbours: ``chains.py``. Weights: ``normalise.py``.
- ``terms.py`` runs mean field on them, by one filter at a time: ``filtering.py``. The usual pair, positions
  and colours of three channels, has loops of its own: ``solve.py``. Probabilities or energies are packed:
  ``packing.py``. Then, by turns (``iterations.py``), a pass over the pixels, ``passes.py``, and one over the
  vertices, ``blur.py``.
"""

from .lattice import NumbaKernel, build_bilateral, build_features, build_gaussian
from .terms import build_and_infer, filter_values, mean_field, mean_field_terms, pairwise

__all__ = [
    "NumbaKernel",
    "build_and_infer",
    "build_bilateral",
    "build_features",
    "build_gaussian",
    "filter_values",
    "mean_field",
    "mean_field_terms",
    "pairwise",
]
