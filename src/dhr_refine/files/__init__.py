"""Files of other codebases, read without ever executing a pickle that is not trusted.

``arrays.py`` loads arrays and tensors from any of the usual files by an allow-list of what a pickle may name;
``cams.py`` finds the CAMs in what it loads.
"""

from .arrays import load_arrays
from .cams import Cams, read_cams

__all__ = ["Cams", "load_arrays", "read_cams"]
