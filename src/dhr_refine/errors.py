"""What command lines print in one line: errors that their user can put right, missing packages among them."""

from __future__ import annotations

import importlib
from typing import Any


class UserError(RuntimeError):
    """Something that the user of a command can put right; the text says what is wrong and what to do."""


def require(module: str, *, by: str = "this") -> Any:
    """Import an optional package when it is needed, or say in one line how to get all of them.

    Parameters
    ----------
    module : str
        Full name of the module, ``"PIL.Image"`` say.
    by : str
        Who needs it, the start of the message.

    Returns
    -------
    module

    Raises
    ------
    UserError
        The module cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(
            f'{by} needs {module}, which is not installed ({error}): pip install "dhr_refine[demo]"'
        ) from error
