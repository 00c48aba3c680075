"""Maps of features and scores: resizing, and class averages with the cosines of every cell, in one reading.

``cosines.py`` pools and compares, by its compiled counterpart ``cosines_numba.py`` where that applies;
``resizing.py`` resizes for both and for the whole step.
"""

from .cosines import LEAST_NORM, Compared, compare
from .resizing import resize

__all__ = ["LEAST_NORM", "Compared", "compare", "resize"]
