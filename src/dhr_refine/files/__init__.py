"""Single files: those of other codebases, read without ever executing a pickle that is not trusted, and ours.

``arrays.py`` loads arrays and tensors from any of the usual files by an allow-list of what a pickle may name;
``cams.py`` finds the CAMs in what it loads; ``regular.py`` opens files, but no pipes or devices. Not imported
with the package, because few need them: ``pictures.py`` reads images and index masks, ``writing.py`` makes
PNGs and writes files in one piece.
"""

from .arrays import load_arrays
from .cams import Cams, read_cams

__all__ = ["Cams", "load_arrays", "read_cams"]
