"""What compiled code is made of. Importing this folder does not import numba.

``lookup.py`` finds the compiled counterpart of a module, if numba is installed. ``jit.py`` compiles a
function and keeps its machine code on disk, in files that ``cache.py`` checks before they are used; it also
lists the sources that this machine code is made of. ``simd.py`` adds short vectors to numba's language,
``barrier.py`` waiting for each other; ``threads.py`` runs threads that Ctrl-C can stop; ``memory.py`` makes
arrays that start where vectors or pages do; ``untraced.py`` keeps torch.compile out. Modules that need numba
have it in their name, or lie here or in a folder named so.
"""

from .lookup import counterpart
from .untraced import eager, ordinary

__all__ = ["counterpart", "eager", "ordinary"]
