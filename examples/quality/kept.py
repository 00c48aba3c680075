"""Arrays of the cache, looked at before they are used: files can be damaged, or not what their name says."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from command_line import reading

from dhr_refine.datasets.cache import Cache

Arrays = dict[str, np.ndarray]


def kept(
    cache: Cache,
    kind: str,
    key: str,
    made_from: Iterable[Any],
    make: Callable[[], Arrays],
    fits: Callable[[Arrays], bool],
) -> Arrays:
    """What the cache has or ``make`` makes; a UserError names the files to delete if that cannot be right."""
    making = False

    def noted() -> Arrays:
        nonlocal making
        making = True
        arrays = make()
        making = False
        return arrays

    files = cache.folder / kind / f"{key}-*.npz"
    try:
        arrays = cache(kind, key, made_from, noted)
    except Exception as error:
        if making:
            raise  # not the file's fault
        with reading(files, "delete them, they are made anew"):
            raise error
    with reading(files, "delete them, they are made anew"):
        if not fits(arrays):
            shapes = {name: array.shape for name, array in arrays.items()}
            raise ValueError(f"one holds arrays of other names, shapes or values: {shapes}")
    return arrays


def are_maps(arrays: Arrays, depths: dict[str, int | None]) -> bool:
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
