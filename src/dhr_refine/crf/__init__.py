"""Fully connected conditional random field with Gaussian edge potentials (dense CRF).

``inference.py`` holds the public calls. An image and the kernels' deviations give a ``geometry.py``, from
which a backend (``backends/``) builds the lattices that ``unary.py``'s logarithms are filtered on.
"""

from .inference import DenseCRFLattice, dense_crf, probs_from_labels

__all__ = ["DenseCRFLattice", "dense_crf", "probs_from_labels"]
