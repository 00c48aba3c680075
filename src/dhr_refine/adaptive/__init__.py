"""Pixel-adaptive refinement, PAMR and PAR: scores are averaged over neighbours of similar colour.

``calls.py`` holds the two public functions; ``weights.py`` says what each takes for similar;
``averaging.py`` has what they share, the neighbours and the rounds of averaging.
"""

from .calls import pamr, par

__all__ = ["pamr", "par"]
