"""Bounding boxes of where maps are high: CLIP-ES walks from inside them alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..extras import import_optional

_EIGHT = np.ones((3, 3), dtype=bool)


def inside_boxes(maps: Tensor, share: float) -> Tensor:
    """(B, C, h, w) 1 inside the boxes around connected cells above ``share`` of a map's maximum, else 0.

    Cells that touch at a corner are connected. A map with no score above 0 has no box. The host waits.
    """
    top = maps.amax(dim=(2, 3), keepdim=True)
    high = (maps > share * top).cpu().numpy()
    inside = np.zeros(high.shape, dtype=bool)
    ndimage = import_optional("scipy.ndimage", by="random_walk(within=...)")
    for place in np.ndindex(high.shape[:2]):
        regions, _ = ndimage.label(high[place], _EIGHT)
        for box in ndimage.find_objects(regions):
            inside[place][box] = True
    return torch.from_numpy(inside).to(maps)
