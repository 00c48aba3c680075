"""Propagation of CAMs over the cells of an image by a random walk: how the base masks of the field are made.

``edges.py`` (IRN), ``matrices.py`` (PSA, SEAM, CLIP-ES) and ``features.py`` (USS, AffinityNet) make
an affinity; ``affinity.py`` says what that is: a grid, and averages over its cells, which ``averages.py``
takes, dense or of few neighbours. ``neighbours.py`` knows who is a neighbour, ``limits.py`` what is too big.
``walk.py`` walks, with no more products than the result needs (``polynomial.py``); ``boxes.py`` is where
CLIP-ES lets it start.
"""

from .affinity import Affinity
from .edges import edge_affinity
from .features import feature_affinity
from .matrices import attention_affinity, pairwise_affinity
from .walk import random_walk

__all__ = [
    "Affinity",
    "attention_affinity",
    "edge_affinity",
    "feature_affinity",
    "pairwise_affinity",
    "random_walk",
]
