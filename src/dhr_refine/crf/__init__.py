"""Fully connected conditional random field with Gaussian edge potentials (dense CRF).

``inference.py`` holds the call, ``labels.py`` the probabilities of a label map. ``lattice.py`` turns images
and the kernels' deviations into lattices: ``geometry.py`` scales positions and colours, a backend
(``backends/``) builds the lattice and runs mean field on it, from the logarithms that ``unary.py`` defines.
``volumes.py`` does so with volumes. ``permutohedral.py`` is the lattice of any features; ``energies.py`` runs
mean field from any energies with any terms (``terms.py``) of one image, on lattices that ``kept.py`` finds
again (``recent.py``).
"""

from .inference import dense_crf
from .labels import probs_from_labels
from .lattice import DenseCRFLattice
from .permutohedral import PermutohedralLattice

__all__ = ["DenseCRFLattice", "PermutohedralLattice", "dense_crf", "probs_from_labels"]
