"""How far a run is: a bar in a terminal, a line a minute in a log, or nothing."""

from __future__ import annotations

import sys
import time
from typing import Any

from ...errors import require
from ...interrupts import held

# Seconds between two lines of a log.
_PAUSE = 60.0


class Progress:
    """Tells of a run on some images; a context.

    Parameters
    ----------
    total : number of images
    what : what is done
    quiet : say nothing
    """

    def __init__(self, total: int, what: str, *, quiet: bool = False):
        """Nothing done yet."""
        self.total, self.what = total, what
        self.done = self.failed = self.skipped = 0
        self._start = self._said = time.monotonic()
        self._bar: Any = None
        self._task: Any = None
        if quiet:
            self._said = float("inf")
        elif sys.stderr.isatty():
            rich = require("rich.progress", by="the bar")
            self._bar = rich.Progress(
                rich.TextColumn("{task.description}"),
                rich.BarColumn(),
                rich.MofNCompleteColumn(),
                rich.TextColumn("{task.fields[rate]}"),
                rich.TimeRemainingColumn(),
                console=require("rich.console").Console(stderr=True),
            )

    def __enter__(self) -> Progress:
        """Show the bar."""
        if self._bar is not None:
            try:
                with held():
                    self._bar.start()
                    self._task = self._bar.add_task(self.what, total=self.total, rate="")
            except BaseException:  # an interrupt, which would leave the terminal without a cursor
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            with held():
                self._bar.stop()

    def advance(self, status: str) -> None:
        """One more image is done, failed or was there already."""
        self.done += status == "done"
        self.failed += status == "failed"
        self.skipped += status == "skipped"
        if self._bar is not None:
            self._bar.update(self._task, advance=1, rate=self._rate())
        elif time.monotonic() - self._said > _PAUSE:
            self._said = time.monotonic()
            print(self._line(), file=sys.stderr, flush=True)

    @property
    def per_second(self) -> float:
        """Images a second, without those that were there already."""
        return (self.done + self.failed) / max(time.monotonic() - self._start, 1e-9)

    def _rate(self) -> str:
        failed = f", {self.failed} failed" if self.failed else ""
        return f"{self.per_second:.1f} images/s{failed}"

    def _line(self) -> str:
        seen = self.done + self.failed + self.skipped
        left = (self.total - seen) / max(self.per_second, 1e-9)
        return f"{self.what}: {seen:,} of {self.total:,}, {self._rate()}, {left / 60:.0f} min left"
