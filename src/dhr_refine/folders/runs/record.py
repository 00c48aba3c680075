"""What a run leaves beside its results: arguments, versions, counts and time, and the failures."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from ...errors import UserError, reason, writing
from ...files.regular import show_name
from ...files.writing import write_atomic
from ...version import __version__
from .outcomes import Outcome

NAME = "dhr_refine.json"
"""The file of a run; that of a part has the part in its name."""
_STALE = 3600.0  # seconds
_ENDS = re.compile(r"[\s,;#\[\]]")


class Record:
    """The file that says how the results of a folder were made.

    Parameters
    ----------
    out : folder of the results, made if it is not there
    verb : what is done
    arguments : what the results depend on
    part : (k, n) of a run on the k-th of n parts, from 1

    Raises
    ------
    UserError
        The folder cannot be written.
    """

    def __init__(
        self, out: Path, verb: str, arguments: Mapping[str, Any], *, part: tuple[int, int] | None = None
    ):
        """Look at what is there, and make the folder."""
        self.out, self.part = out, part
        self.made_by = made_by(verb, arguments)
        with writing(out, "--out"):
            out.mkdir(parents=True, exist_ok=True)
            if not os.access(out, os.W_OK):
                raise PermissionError(13, "permission denied")
        self._remove_parts()
        self.extra: dict[str, Any] = {}
        self.started = datetime.now(timezone.utc)

    @property
    def path(self) -> Path:
        """The file."""
        return self.out / f"{self._stem}.json"

    @property
    def failed_path(self) -> Path:
        """The list of the images that failed, which ``--ids`` takes."""
        return self.out / f"{self._stem}-failed.txt"

    @property
    def _stem(self) -> str:
        stem = NAME.removesuffix(".json")
        return stem if self.part is None else f"{stem}-part-{self.part[0]}-of-{self.part[1]}"

    @property
    def exists(self) -> bool:
        """Whether any run says how what is there was made."""
        return bool(_paths(self.out))

    def differing(self) -> list[str]:
        """What differs between the runs into the folder and this one, in words."""
        return _all_differences(self.out, self.made_by)

    def remove_others(self) -> None:
        """Remove what runs of other arguments have left, when none of their results is there any more."""
        for path in _paths(self.out):
            if differences(_read(path), self.made_by):
                path.unlink(missing_ok=True)
                path.with_name(f"{path.stem}-failed.txt").unlink(missing_ok=True)

    @staticmethod
    def read_differences(out: Path, verb: str, arguments: Mapping[str, Any]) -> list[str]:
        """What differs between runs into a folder and one of these arguments, in words."""
        return _all_differences(out, made_by(verb, arguments))

    def save(
        self, status: str, *, counts: Mapping[str, int], failed: Sequence[Outcome], seconds: float
    ) -> None:
        """Write both files, each in one piece."""
        content = {
            **self.made_by,
            "status": status,
            "part": None if self.part is None else "/".join(map(str, self.part)),
            "started": self.started.isoformat(timespec="seconds"),
            "seconds": round(seconds, 3),
            "counts": dict(counts),
            "failed": [{"id": one.key, "stage": one.stage, "message": one.message} for one in failed],
            "versions": {
                "dhr_refine": __version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            **self.extra,
        }
        lines = [f"{_quoted(one.key)}\t{one.stage}\t# {one.message}\n" for one in failed]
        with writing(self.out, "--out"):
            write_atomic(self.path, _bytes(json.dumps(content, indent=1, ensure_ascii=False)))
            if lines:
                write_atomic(self.failed_path, _bytes("".join(lines)))
            else:
                self.failed_path.unlink(missing_ok=True)

    def _remove_parts(self) -> None:
        """Remove what runs that were killed have left half-written: nobody writes a file for an hour."""
        for folder in (self.out, *(path for path in self.out.iterdir() if path.is_dir())):
            for path in folder.glob(".*.part"):
                with suppress(OSError):
                    if time.time() - path.stat().st_mtime > _STALE:
                        path.unlink()


def _bytes(text: str) -> bytes:
    """UTF-8, in which names of files that are none are told with their bytes written out."""
    return text.encode("utf-8", "backslashreplace")


def _quoted(key: str) -> str:
    """An id as lists are read: in quotes, if something in it could end it."""
    return f'"{key}"' if _ENDS.search(key) else key


def made_by(verb: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """What results depend on, as it comes back from JSON."""
    return json.loads(json.dumps({"verb": verb, "arguments": dict(arguments)}))


def _all_differences(out: Path, own: Mapping[str, Any]) -> list[str]:
    """What differs from the first run of other arguments that a folder has results of."""
    return next((found for path in _paths(out) if (found := differences(_read(path), own))), [])


def _paths(out: Path) -> list[Path]:
    """The files of all runs into a folder."""
    return sorted(out.glob(f"{NAME.removesuffix('.json')}*.json"))


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not isinstance(content.get("arguments"), dict):
            raise ValueError("it has no arguments")
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            f"{show_name(path)} cannot be read ({reason(error)}): remove it, and the masks beside it if "
            "they may be of other arguments"
        ) from error
    return content


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What differs between the records of two runs, in words."""
    if one.get("verb") != other["verb"]:
        return [f"of {one.get('verb')!r}, not of {other['verb']!r}"]
    before, now = one["arguments"], other["arguments"]
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return [f"{name} was {before.get(name)!r}, now {now.get(name)!r}" for name in names]
