"""What a run over folders returns: how many images, which failed, how long."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path

from .outcomes import Outcome

_SHOWN = 5


@dataclass(frozen=True, repr=False)
class FolderReport:
    """Result of a run over folders.

    Its ``repr`` says it in a few lines, in notebooks as a table.
    """

    out: Path
    """Folder of the results; ``dhr_refine.json`` there says how they were made."""
    done: int
    """Number of images that this run finished."""
    skipped: int
    """Number of images that an earlier run had finished."""
    failed: tuple[Outcome, ...]
    """The images that failed, with stage and message."""
    notes: dict[str, int]
    """Warnings, and for how many images each came up."""
    seconds: float
    """Time that the run took."""
    failed_list: Path
    """File of the failed ids, for another run on them; it is there only if there are some."""

    @property
    def exit_code(self) -> int:
        """What a command line returns: 0, or 3 if an image failed."""
        return 3 if self.failed else 0

    def __repr__(self) -> str:
        """A few lines."""
        return "\n".join([self.summary(), *self.details()])

    def summary(self) -> str:
        """One line."""
        rate = f" ({self.done / self.seconds:.1f} a second)" if self.done and self.seconds else ""
        parts = [f"{self.done:,} done{rate}"]
        parts += [f"{self.skipped:,} there before"] if self.skipped else []
        parts += [f"{len(self.failed):,} failed"] if self.failed else []
        return f"{self.out}: {', '.join(parts)}, {_duration(self.seconds)}"

    def details(self) -> list[str]:
        """Warnings and the first failures, a line each."""
        lines = [f"note, {images_of(count)}: {note}" for note, count in self.notes.items()]
        lines += [f"failed: {one.key} ({one.stage}): {one.message}" for one in self.failed[:_SHOWN]]
        if self.failed:
            more = len(self.failed) - _SHOWN
            again = (
                f"all failures are in {self.failed_list}; mend them and pass it as ids (--ids) to try again"
            )
            lines.append(f"and {more:,} more; {again}" if more > 0 else again)
        return lines

    def _repr_html_(self) -> str:
        """A table, for notebooks."""
        rows = [
            ("folder", str(self.out)),
            ("done", f"{self.done:,}"),
            ("there before", f"{self.skipped:,}"),
            ("failed", f"{len(self.failed):,}"),
            ("time", _duration(self.seconds)),
        ]
        body = "".join(f"<tr><th>{name}</th><td>{html.escape(text)}</td></tr>" for name, text in rows)
        notes = "".join(f"<li>{html.escape(line)}</li>" for line in self.details())
        return f"<table>{body}</table>" + (f"<ul>{notes}</ul>" if notes else "")


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def images_of(count: int) -> str:
    """A number of images in words."""
    return f"{count:,} image" + "s" * (count != 1)
