"""Which steps did nothing to an image, and why."""

from __future__ import annotations

import numpy as np
import torch

from ..label_names import Names, name_of
from ..steps import RefineSteps

SEED, USS, WSS = "OT seed", "USS step", "WSS step"


def idle_steps(
    one: RefineSteps, base: np.ndarray | None, init: np.ndarray, names: Names, tau: float | None = None
) -> dict[str, str]:
    """A line for each step that did nothing, by the step's name.

    Parameters
    ----------
    one : steps of one image
    base, init : (H, W), the base mask, if it is known, and M_init
    names : name of each label
    tau : what the classes' similarity was compared with, if it is known
    """
    lines = {}
    if base is not None and np.array_equal(base, init):
        lines[SEED] = "put no class back, M_init is the base mask"
    present = one.uss_similarity.diagonal() > 0.5
    if int(present.sum()) < 2:
        lines[USS] = lines[WSS] = "fewer than two classes to tell apart"
    elif not torch.triu(one.groups | one.groups.mT, 1).any():
        alike = torch.triu(one.uss_similarity, 1).cpu()
        ones = torch.triu(present[:, None] & present, 1).cpu()
        first, second = divmod(int(torch.where(ones, alike, -2.0).argmax()), len(alike))
        pair = " and ".join(name_of(names, int(one.classes[k])) for k in (first, second))
        limit = "above tau" if tau is None else f"at tau {tau:g}"
        lines[WSS] = f"no two classes are alike {limit} (closest: {pair}, {alike[first, second]:.2f})"
    return lines
