"""Where fields compute: on the CPU, unless a caller names a device."""

from __future__ import annotations

import torch

from ..checks import describe

__all__ = ["use_device"]

_chosen: list[torch.device] = []


def use_device(device: str | torch.device) -> None:
    """Compute fields that are made from now on on a device; arrays stay NumPy's.

    Parameters
    ----------
    device : str or torch.device
        "cuda", "cuda:1", or "cpu", where numba computes if it is installed.

    Raises
    ------
    TypeError
        ``device`` names no device.
    ValueError
        Nothing can be computed there.

    Examples
    --------
    >>> import dhr_refine.pydensecrf
    >>> dhr_refine.pydensecrf.use_device("cpu")
    """
    try:
        chosen = torch.device(device)
    except (TypeError, RuntimeError):
        raise TypeError(f"device must name a device, got {describe(device)}: pass 'cuda' or 'cpu'") from None
    try:
        torch.zeros(1, device=chosen).cpu()
    except (AssertionError, NotImplementedError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(f"device {chosen} cannot be used ({reason}): pass 'cpu'") from None
    _chosen[:] = [chosen]


def chosen_device() -> torch.device | None:
    """The device of new fields; None is the CPU."""
    return _chosen[0] if _chosen else None
