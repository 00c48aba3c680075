"""What compiled code is made of. Importing this folder does not import numba.

``lookup.py`` finds the compiled counterpart of a module, if numba is installed; ``jit.py`` compiles a
function and keeps its machine code on disk; ``simd.py`` adds short vectors to numba's language,
``barrier.py`` threads that wait for each other. Modules that need numba have it in their name, or lie here
or in a folder named so.
"""

from .lookup import counterpart

__all__ = ["counterpart"]
