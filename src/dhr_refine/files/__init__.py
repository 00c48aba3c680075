"""Single files: those of other codebases, read without ever executing a pickle that is not trusted, and ours.

``arrays.py`` loads arrays and tensors from any of the usual files by an allow-list of what a pickle may name;
``cams.py`` finds the CAMs in what it loads, ``masks.py`` has images and masks. Below them ``contents.py``
says in one line what is wrong with a file, ``pictures.py`` opens pictures, ``writing.py`` makes PNGs and
writes files in one piece, and ``regular.py`` opens files, but no pipes or devices.
"""

from .arrays import load_arrays
from .cams import Cams, read_cams
from .masks import read_image, read_mask, write_mask

__all__ = ["Cams", "load_arrays", "read_cams", "read_image", "read_mask", "write_mask"]
