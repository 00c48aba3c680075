"""Which images of a data set a run is for, and how it is carried out; what all runs over folders share."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...checks import check_range, describe
from ...datasets.items import read_list
from ...datasets.texts import check_key
from ...errors import UsageError

PathLike = str | os.PathLike[str]
"""A path as callers give it."""

CHUNK = 8
"""Images that a process gets at a time: few, so that all end together, but enough to read ahead."""


@dataclass(frozen=True)
class RunOptions:
    """Which images a run over folders is for, and how it is carried out.

    Nothing of it changes a result, so that runs into the same folder may differ in it.

    Attributes
    ----------
    ids : sequence of str, str or path, optional
        These images alone: ids, a text with commas, or a file with an id at the start of each line.
    listed : str or path, optional
        List of the data set's images. Default: all that there are files of.
    limit : int, optional
        The first images alone.
    part : str, optional
        "K/N": of N parts the one of number K, from 1.
    jobs : int, optional
        Number of processes, each with one thread; None: one for each core, or a single one for an
        accelerator; with Ray, one for each core or GPU of the cluster. Scripts that start processes need
        ``if __name__ == "__main__":``.
    overwrite : bool
        Make everything anew.
    quiet : bool
        No progress.
    ray : str, optional
        Address of a Ray cluster, "" for one of this machine: work is shared out there, by ``jobs``
        processes. All its machines need the files at the same paths, and this package.
    wait : float
        Seconds that a part waits for what it needs of the other parts.

    Raises
    ------
    UsageError
        ``part`` is no part of a whole, or a number is below 1.
    ValueError, TypeError
        ``wait`` is no number, or below 0.

    Examples
    --------
    >>> from dhr_refine.folders import RunOptions
    >>> RunOptions(ids="a,b,c", part="2/2").choose(list)
    ['b']
    """

    ids: Sequence[str] | PathLike | None = None
    listed: PathLike | None = None
    limit: int | None = None
    part: str | None = None
    jobs: int | None = 1
    overwrite: bool = False
    quiet: bool = False
    ray: str | None = None
    wait: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        _ = self.place
        for name in ("limit", "jobs"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, got {value}")
        check_range(self.wait, "wait", 0.0, math.inf)

    @property
    def place(self) -> tuple[int, int] | None:
        """``part`` as (K, N)."""
        if self.part is None:
            return None
        number, slash, count = self.part.partition("/")
        if not (slash and number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
            raise UsageError(f"part must be K/N with K from 1 to N, as 2/4, got {self.part[:50]!r}")
        return int(number), int(count)

    def choose(self, there: Callable[[], Iterable[str]]) -> list[str]:
        """The ids: those asked for, else all that are ``there``; of them the first ones, and the part.

        Parameters
        ----------
        there : gives all ids; called only if no others are asked for

        Raises
        ------
        UsageError
            None is left.
        UserError
            An id is none, as it has folders in it.
        """
        if self.ids is not None:
            keys = read_ids(self.ids)
        elif self.listed is not None:
            keys = read_list(Path(self.listed))
        else:
            keys = list(there())
        keys = [*dict.fromkeys(keys)][: self.limit]
        if self.place is not None:
            number, count = self.place
            keys = keys[number - 1 :: count]
        if not keys:
            raise UsageError("no image is left to work on: see to --list, --ids, --part and the folders")
        return keys

    def processes(self, images: int, device: str) -> int:
        """How many processes to use for so many images: never more than there is work for.

        Parameters
        ----------
        images : number of images
        device : "cpu", or an accelerator, which several processes would only share
        """
        jobs = self.jobs or (_cores() if device == "cpu" else 1)
        return max(1, min(jobs, -(-images // CHUNK)))


def read_ids(ids: Sequence[str] | PathLike) -> list[str]:
    """Ids given one by one, as a text with commas, or as a file with one at the start of each line."""
    if isinstance(ids, (str, os.PathLike)):
        if Path(ids).is_file():
            return read_list(Path(ids))
        found = [part.strip() for part in os.fspath(ids).split(",") if part.strip()]
        if not found:
            raise UsageError(f"ids (--ids) must be ids with commas or a file of them, got {ids!r}")
    else:
        found = list(ids)
        if not all(isinstance(key, str) for key in found):
            raise TypeError(
                f"ids must be a list of image ids, got {describe(ids)}: pass ['2007_000033'], say"
            )
    # Files of these names are written, and removed to make them anew.
    return [check_key(key, Path("ids (--ids)")) for key in found]


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
