"""The files that a run writes for an image: its mask, and on request a colour copy and the probabilities."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from ...files.writing import grey_png, index_png, write_atomic

COLOUR, PROBS = "colour", "probs"
"""Folders beside the masks."""


@dataclass(frozen=True)
class Result:
    """What there is to write of an image."""

    mask: Tensor
    """(H, W) labels from 0 to 255."""
    probs: Tensor | None = None
    """(K, H, W) what the mask is the argmax of."""
    labels: Sequence[int] = ()
    """Label of each of these K maps."""


@dataclass(frozen=True)
class Outputs:
    """Where masks are written: the mask last, so that an image with a mask is complete.

    Parameters
    ----------
    folder : for the masks
    palette : (256, 3) uint8 colours, for copies in a folder of their own; None = no copies
    probs : whether the probabilities are written, as half precision beside the labels of the maps
    """

    folder: Path
    palette: np.ndarray | None = None
    probs: bool = False

    def finished(self, key: str) -> bool:
        """Whether all files of an image are there."""
        return all(os.path.lexists(path) for path in self.paths(key))

    def paths(self, key: str) -> list[Path]:
        """The files of an image, in the order in which they are written."""
        paths = [self.folder / f"{key}.png"]
        if self.palette is not None:
            paths.insert(0, self.folder / COLOUR / f"{key}.png")
        if self.probs:
            paths.insert(0, self.folder / PROBS / f"{key}.npz")
        return paths

    def make_folders(self) -> None:
        """Make the folders that are not there."""
        for path in self.paths("x"):
            path.parent.mkdir(parents=True, exist_ok=True)

    def write(self, key: str, result: Result) -> None:
        """Write the files of an image, each in one piece."""
        *others, mask = self.paths(key)
        for path in others:
            write_atomic(path, self._probs(result) if path.suffix == ".npz" else self._colour(result))
        write_atomic(mask, grey_png(result.mask))

    def others(self, keys: Sequence[str]) -> list[str]:
        """Images whose masks are there and that are not among ``keys``."""
        return sorted({path.stem for path in self.folder.glob("*.png")} - set(keys))

    def remove(self, key: str) -> None:
        """Remove the files of an image, the mask first."""
        for path in reversed(self.paths(key)):
            path.unlink(missing_ok=True)

    def _colour(self, result: Result) -> bytes:
        assert self.palette is not None
        return index_png(result.mask, self.palette)

    @staticmethod
    def _probs(result: Result) -> bytes:
        assert result.probs is not None
        data = io.BytesIO()
        np.savez_compressed(
            data, keys=np.array(result.labels, np.int64), prob=result.probs.half().cpu().numpy()
        )
        return data.getvalue()
