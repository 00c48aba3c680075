"""The class memory of a run, kept beside its results: learned once, merged over parts, found again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import Unfinished, UsageError, reading, writing
from ..files.writing import write_atomic
from ..memory import ClassMemory
from .job import Tally
from .learn import learn
from .options import RunOptions
from .sources import Sources

# Seconds between two looks for the memories of other parts.
_LOOK = 1.0


@dataclass(frozen=True)
class Remembered:
    """The files of a memory: of all images, and of each part where a run has parts.

    Parameters
    ----------
    folder : for the files
    part : (k, n) of this run, None if it has no parts
    """

    folder: Path
    part: tuple[int, int] | None = None

    @property
    def path(self) -> Path:
        """The memory of all images."""
        return self.folder / "all.npz"

    def find(
        self, sources: Sources, keys: Sequence[str], run: RunOptions, tally: Tally, *, rounds: int
    ) -> Path:
        """The memory of all images, learned if it is not there.

        Raises
        ------
        UsageError
            There is one, of other images.
        Unfinished
            Other parts have not learned theirs yet.
        """
        if not self._is_of(self.path, keys):
            mine = self.path if self.part is None else self._of_part(self.part[0])
            if not self._is_of(mine, keys):
                memory = learn(sources, keys, run, tally, rounds=rounds)
                self._keep(mine, memory, keys)
            if self.part is not None:
                self._merge(self.part[1], run.wait)
        return self.path

    def remove(self) -> None:
        """Remove those that this run would learn."""
        own = self.path if self.part is None else self._of_part(self.part[0])
        for path in (self.path, own):
            path.unlink(missing_ok=True)
            path.with_suffix(".txt").unlink(missing_ok=True)

    def _of_part(self, number: int) -> Path:
        assert self.part is not None
        return self.folder / f"part-{number}-of-{self.part[1]}.npz"

    def _is_of(self, path: Path, keys: Sequence[str]) -> bool:
        """Whether there is a memory, of these images or more."""
        listed = path.with_suffix(".txt")
        if not (path.is_file() and listed.is_file()):
            return False
        more = set(keys) - set(listed.read_text(encoding="utf-8").splitlines())
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
            write_atomic(path.with_suffix(".txt"), "".join(f"{key}\n" for key in keys).encode())
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
                keys += path.with_suffix(".txt").read_text(encoding="utf-8").splitlines()
            if merged is None:
                merged = memory
            else:
                merged.merge(memory)
        assert merged is not None
        self._keep(self.path, merged, keys)
