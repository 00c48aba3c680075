"""dhr_refine: refine pseudo masks for weakly-supervised semantic segmentation."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from .version import __version__ as __version__

if TYPE_CHECKING:
    from . import api
    from . import files as files
    from . import folders as folders
    from . import metrics as metrics
    from . import propagation as propagation
    from . import pydensecrf as pydensecrf
    from . import viz as viz
    from .api import *  # noqa: F403

    __all__: list[str] = []
    __all__ += api.__all__

# Of use by name after ``import dhr_refine``, each imported when it is first asked for.
_MODULES = ("files", "folders", "metrics", "propagation", "pydensecrf", "sam", "viz")

if not TYPE_CHECKING:  # to type checkers, a name that is none of these is an error

    def __getattr__(name: str) -> object:
        """Import the public names when the first is asked for: --version answers without PyTorch."""
        if name in _MODULES:
            return importlib.import_module(f"{__name__}.{name}")
        # Before an import of a submodule Python asks for a name like it.
        if name == "__all__" or not (name.startswith("__") or importlib.util.find_spec(f"{__name__}.{name}")):
            public = importlib.import_module(f"{__name__}.api")
            if name in (*public.__all__, "__all__"):
                return getattr(public, name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        """The public names, for completion."""
        return sorted(
            {*__getattr__("__all__"), *_MODULES, *(name for name in globals() if name.startswith("__"))}
        )
