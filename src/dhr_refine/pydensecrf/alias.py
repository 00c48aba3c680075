"""Standing in for pydensecrf: scripts that import it get these modules instead."""

from __future__ import annotations

import sys
from types import ModuleType

from . import densecrf, eigen, utils

__all__ = ["install", "uninstall"]

_replaced: dict[str, ModuleType] = {}


def install(*, replace: bool = False) -> None:
    """Make ``import pydensecrf`` give the modules of this package, in this process, from now on.

    To be called before anything imports pydensecrf: at the top of the script that is started, outside of
    ``if __name__ == "__main__"``. Processes that fork from this one inherit it; those that are spawned run
    the top of the script again, and with it this call. Where they have no script, as in a notebook, pass it
    on: ``Pool(initializer=dhr_refine.pydensecrf.install)``. Calling it again does nothing.

    Parameters
    ----------
    replace : bool, default False
        Take the place of a pydensecrf that is imported already. Modules that have imported it keep the
        names that they hold.

    Raises
    ------
    RuntimeError
        The original is imported already, and ``replace`` is False.

    Examples
    --------
    >>> import dhr_refine.pydensecrf
    >>> dhr_refine.pydensecrf.install(replace=True)
    >>> import pydensecrf.densecrf as dcrf
    >>> dcrf.__name__
    'dhr_refine.pydensecrf.densecrf'
    >>> dhr_refine.pydensecrf.uninstall()
    """
    own = _own_modules()
    others = {
        name: module
        for name, module in list(sys.modules.items())
        if name.partition(".")[0] == "pydensecrf" and module is not own.get(name)
    }
    # None keeps a name from being imported: nothing has it.
    if any(module is not None for module in others.values()) and not replace:
        origin = getattr(others.get("pydensecrf"), "__file__", None) or "an unknown place"
        raise RuntimeError(
            f"pydensecrf is imported already, from {origin}: call install() above the first import of it, or "
            "pass replace=True, after which only later imports get dhr_refine's"
        )
    _replaced.update(others)
    for name in others:
        del sys.modules[name]
    sys.modules.update(own)


def uninstall() -> None:
    """Undo :func:`install`: ``import pydensecrf`` gives the original again, or fails where there is none.

    What was imported in the meantime keeps the names that it holds. Without a call of :func:`install` before,
    nothing happens.

    Raises
    ------
    Nothing

    Examples
    --------
    >>> import dhr_refine.pydensecrf
    >>> dhr_refine.pydensecrf.uninstall()
    """
    for name, module in _own_modules().items():
        if sys.modules.get(name) is module:
            del sys.modules[name]
    sys.modules.update(_replaced)
    _replaced.clear()


def _own_modules() -> dict[str, ModuleType]:
    package = sys.modules[__name__.rpartition(".")[0]]
    return {
        "pydensecrf": package,
        "pydensecrf.densecrf": densecrf,
        "pydensecrf.eigen": eigen,
        "pydensecrf.utils": utils,
    }
