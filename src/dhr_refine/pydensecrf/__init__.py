"""The interface of pydensecrf on this library's own dense CRF: no compiler, the same calls, the same results.

``densecrf.py`` holds the fields, ``unaries.py`` their energies as objects, ``utils.py`` the functions that
make energies and features, ``eigen.py`` the names of the matrices that the original returns; ``arguments.py``
reads what callers pass, ``device.py`` says where fields compute. ``alias.py`` puts all of it in the
original's place, so that scripts which import ``pydensecrf`` run as they are.
"""

from . import densecrf as densecrf
from . import eigen as eigen
from . import utils as utils
from .alias import install, uninstall
from .device import use_device

__all__ = ["install", "uninstall", "use_device"]
