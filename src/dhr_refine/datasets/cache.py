"""Arrays kept on disk, so that a stopped run goes on where it was."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor

from ..errors import UserError
from ..files.writing import write_atomic


class Cache:
    """Arrays on disk, found by a hash of everything that they were made from: never stale.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cache = Cache(Path(folder))
    ...     for count in (3, 3, 4):
    ...         made = cache("ones", "2007_000032", [count], lambda: print("made") or {"a": np.ones(count)})
    made
    made
    """

    def __init__(self, folder: Path):
        """Keep the arrays below a folder, which need not exist."""
        self.folder = folder

    def __call__(
        self,
        kind: str,
        key: str,
        made_from: Iterable[Any],
        make: Callable[[], dict[str, np.ndarray]],
        fits: Callable[[dict[str, np.ndarray]], bool] = bool,
    ) -> dict[str, np.ndarray]:
        """Read the arrays, or make and write them.

        Parameters
        ----------
        kind : name of a folder inside the cache
        key : id of the image
        made_from : everything that the arrays depend on, as :func:`digest` takes it
        make : makes them
        fits : tells whether arrays of the disk can be what ``make`` makes, by their names and shapes

        Raises
        ------
        UserError
            The folder cannot be written.
        """
        path = self.folder / kind / f"{key}-{digest(*made_from)[:16]}.npz"
        if (kept := _read(path)) is not None and fits(kept):
            return kept
        arrays = make()
        data = io.BytesIO()
        np.savez_compressed(data, **cast(Any, arrays))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, data.getvalue())
        except OSError as error:
            raise UserError(
                f"{path} cannot be written ({error}): name another folder with --cache"
            ) from error
        return arrays


def _read(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of a file, None if it is not there or damaged in any way."""
    if not path.is_file():
        return None
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception:  # zlib, zipfile and NumPy have many words for it
        return None


def digest(*parts: Any) -> str:
    """SHA-256 of bytes, tensors (dtype, shape and values) and anything whose ``repr`` says all about it."""
    result = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            result.update(f"{part.dtype} {tuple(part.shape)}".encode())
            part = part.contiguous().numpy().tobytes()
        part = part if isinstance(part, bytes) else repr(part).encode()
        result.update(len(part).to_bytes(8, "little") + part)
    return result.hexdigest()
