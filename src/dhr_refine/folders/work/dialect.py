"""What number 0 means in a folder of CAM files: one look at many files tells what a single one does not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ...errors import UsageError, UserError
from ...files.cams import read_told
from ...files.contents import read_safely
from .sources import CamBackground, Sources

# Files that are looked at, spread over the folder, and how many must agree where tags do not tell.
_LOOKS = 100
_ENOUGH = 5


class Dialect(NamedTuple):
    """How the CAM files of a folder number their classes."""

    background: CamBackground | None
    """As ``read_cams`` takes it; None if no file has a number 0."""
    why: str
    """What says so."""


def find_dialect(sources: Sources, keys: Sequence[str]) -> Dialect:
    """Find out how CAM files of a data set number their classes.

    Files that number their maps and all have a 0 have the background there: hardly all images show the first
    class. If some have a 0 and others not, it is the first class. Where tags are known, they decide.

    Raises
    ------
    UsageError
        Too few files to tell.
    """
    if sources.cam_background is not None:
        return Dialect(sources.cam_background, "as asked for")
    there = [key for key in keys if key in sources.cam_files]
    looked = there[:: max(1, len(there) // _LOOKS)]
    numbers = {key: found for key in looked if (found := _numbers(sources, key))}
    with_zero = [key for key, found in numbers.items() if 0 in found]
    if not numbers:
        return Dialect(None, "maps without numbers")
    if not with_zero:
        return Dialect(None, "no file has the number 0, so they count from the first class")
    if sources.tags is not None and any(key in sources.tags for key in numbers):
        return _by_tags(sources, numbers)
    if len(with_zero) < len(numbers):
        return Dialect("none", f"{len(with_zero)} of {len(numbers)} files have the number 0")
    if len(numbers) >= _ENOUGH:
        return Dialect("first", f"all of {len(numbers)} files have the number 0")
    raise UsageError(
        f"the CAM files have the number 0, which may be the background or the first class, and "
        f"{len(numbers)} are too few to tell: pass --cam-background first or none, or --tags"
    )


def _by_tags(sources: Sources, numbers: dict[str, list[int]]) -> Dialect:
    """The reading that agrees with the tags of more images."""
    tags = sources.tags or {}
    shared = [key for key in numbers if key in tags]
    as_none = sum(set(tags[key]) <= set(numbers[key]) for key in shared)
    as_first = sum({tag + 1 for tag in tags[key]} <= set(numbers[key]) for key in shared)
    if as_none == as_first:
        # Both hold the tags (a map for every class, say): the narrower one is meant.
        as_first += sum({tag + 1 for tag in tags[key]} | {0} == set(numbers[key]) for key in shared)
        as_none += sum(set(tags[key]) == set(numbers[key]) for key in shared)
    background: CamBackground = "first" if as_first > as_none else "none"
    agree = max(as_first, as_none)
    return Dialect(background, f"so the classes of {agree} of {len(shared)} files fit the tags")


def _numbers(sources: Sources, key: str) -> list[int]:
    """The numbers that a CAM file gives to its maps; none if it has none, or cannot be read."""
    path = sources.cam_files[key]
    try:
        cams, told = read_safely(
            path, lambda: read_told(path, background="none", allow_pickle=sources.allow_pickle)
        )
    except (UserError, OSError):
        return []
    return cams.keys.tolist() if told else []
