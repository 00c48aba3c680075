"""The class memory of a run, kept beside its results: learned once, merged over parts, found again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...errors import Unfinished, UsageError, reading, writing
from ...files.writing import write_atomic
from ...memory import ClassMemory
from ..runs.job import Tally
from ..runs.options import RunOptions
from .learn import learn
from .sources import Sources

# Seconds between two looks for the memories of other parts.
_LOOK = 1.0
# Names of files may hold any bytes.
_NAMES = "surrogateescape"


@dataclass(frozen=True)
class Remembered:
    """The files of a memory: of all images, and of each part where a run has parts.

    Parameters
    ----------
    folder : for the files
    images : ids of all images of this run, those that fail too: mended ones go by the memory that there is
    part : (k, n) of this run, None if it has no parts
    """

    folder: Path
    images: Sequence[str]
    part: tuple[int, int] | None = None

    @property
    def path(self) -> Path:
        """The memory of all images."""
        return self.folder / "all.npz"

    def find(
        self, sources: Sources, keys: Sequence[str], run: RunOptions, tally: Tally, *, rounds: int
    ) -> Path:
        """The memory of all images, learned if it is not there.

        Parameters
        ----------
        sources : with base masks and USS features
        keys : ids of the images that have not failed
        run : how it is carried out
        tally : counts the images that fail
        rounds : passes after the first

        Raises
        ------
        UsageError
            There is one, of other images.
        Unfinished
            Other parts have not learned theirs yet.
        """
        if not self._is_of(self.path):
            mine = self.path if self.part is None else self._of_part(self.part[0])
            if not self._is_of(mine):
                memory = learn(sources, keys, run, tally, rounds=rounds)
                self._keep(mine, memory, self.images)
            if self.part is not None:
                self._merge(self.part[1], run.wait)
        return self.path

    def remove(self, same: bool) -> None:
        """Remove what this run would learn.

        Parameters
        ----------
        same : whether they are of runs with the same arguments: one of more images then serves some of them
            that are made anew; of others all are removed
        """
        own = self.path if self.part is None else self._of_part(self.part[0])
        if same and set(_listed(own)) - set(self.images):
            return
        for path in (self.path, own) if same else self.folder.glob("*.npz"):
            path.unlink(missing_ok=True)
            path.with_suffix(".txt").unlink(missing_ok=True)

    def _of_part(self, number: int) -> Path:
        assert self.part is not None
        return self.folder / f"part-{number}-of-{self.part[1]}.npz"

    def _is_of(self, path: Path) -> bool:
        """Whether there is a memory, of these images or more."""
        if not (path.is_file() and path.with_suffix(".txt").is_file()):
            return False
        more = set(self.images) - set(_listed(path))
        if more:
            raise UsageError(
                f"{path} is a memory of other images ({min(more)} is not among them): name another "
                "folder with --out, pass it as --memory to use it all the same, or make all anew with "
                "--overwrite"
            )
        return True

    def _keep(self, path: Path, memory: ClassMemory, keys: Sequence[str]) -> None:
        with writing(path, "--out"):
            self.folder.mkdir(exist_ok=True)
            # The list first: a memory without one counts as none.
            write_atomic(path.with_suffix(".txt"), "".join(f"{key}\n" for key in keys).encode(errors=_NAMES))
            memory.save(path)

    def _merge(self, count: int, wait: float) -> None:
        """Make the memory of all images of those of the parts."""
        paths = [self._of_part(number) for number in range(1, count + 1)]
        until = time.monotonic() + wait
        while missing := [path.stem for path in paths if not path.is_file()]:
            if time.monotonic() > until:
                raise Unfinished(
                    f"the memory of this part is learned, but {', '.join(missing[:3])} of {count} parts is "
                    "not there yet: run the other parts too, then this command again, or let it wait with "
                    "--wait"
                )
            time.sleep(_LOOK)
        merged: ClassMemory | None = None
        keys: list[str] = []
        for path in paths:
            with reading(path, "remove it and run its part again"):
                memory = ClassMemory.load(path)
                keys += _listed(path)
            if merged is None:
                merged = memory
            else:
                merged.merge(memory)
        assert merged is not None
        self._keep(self.path, merged, keys)


def _listed(path: Path) -> list[str]:
    """The images that a memory is of; none if it has no list, which counts as no memory."""
    listed = path.with_suffix(".txt")
    return listed.read_text(encoding="utf-8", errors=_NAMES).splitlines() if listed.is_file() else []
