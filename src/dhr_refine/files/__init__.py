"""Files of other codebases, read without ever executing a pickle that is not trusted."""

from .cams import Cams, load_arrays, read_cams

__all__ = ["Cams", "load_arrays", "read_cams"]
