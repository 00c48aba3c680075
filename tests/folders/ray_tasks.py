"""Small tasks whose processes die or whose disks are full; processes import them from here."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dhr_refine.files.writing import write_atomic


@dataclass(frozen=True)
class Copying:
    """Writes the id of each image into a file of that name.

    Parameters
    ----------
    out : for the files
    deadly : images that kill their process
    deadly_once : images that kill it the first time
    damaged : images that cannot be read
    full_at : image at which the disk is full
    missing : what ``open`` raises
    """

    out: Path
    deadly: tuple[str, ...] = ()
    deadly_once: tuple[str, ...] = ()
    damaged: tuple[str, ...] = ()
    full_at: str = ""
    missing: Exception | None = None
    together = False

    def open(self) -> Copying:
        if self.missing is not None:
            raise self.missing
        return self

    def finished(self, key: str) -> bool:
        return (self.out / key).exists()

    def read(self, key: str) -> str:
        if key in self.damaged:
            raise OSError(f"{key} is no picture")
        return key

    def work(self, items: Sequence[str]) -> Sequence[str]:
        for key in items:
            trace = self.out / f"died-{key}"
            if key in self.deadly or (key in self.deadly_once and not trace.exists()):
                trace.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return items

    def write(self, key: str, result: str) -> None:
        if key == self.full_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        write_atomic(self.out / key, result.encode())
