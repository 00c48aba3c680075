"""Arrays of the cache, looked at before they are used: files can be damaged, or not what their name says."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

Arrays = dict[str, np.ndarray]


def are_maps(arrays: Arrays, depths: Mapping[str, int | None]) -> bool:
    """Whether these are maps (D, h, w) of finite numbers, of these names and, unless None, depths."""
    return arrays.keys() == depths.keys() and all(
        array.ndim == 3
        and array.dtype.kind == "f"
        and array.size > 0
        and depths[name] in (None, len(array))
        and bool(np.isfinite(array).all())
        for name, array in arrays.items()
    )


def are_masks(arrays: Arrays, names: Iterable[str], size: tuple[int, ...], labels: Iterable[int]) -> bool:
    """Whether these are masks of these names, of a size (H, W), with these labels only."""
    allowed = np.array(list(labels))
    return arrays.keys() == set(names) and all(
        array.shape == size and array.dtype.kind in "iu" and bool(np.isin(array, allowed).all())
        for array in arrays.values()
    )
