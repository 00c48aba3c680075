"""Tags that stand beside the images of a list or table, or in the names of their files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import UserError
from ..files.limits import shorten
from ..files.regular import show_name
from .classes import ClassSet
from .index import IMAGES
from .rows import Rows
from .tag_table import Tags

TITLE = "tags"
"""Title of the column of tags in tables of our own, which count from 0."""
_TITLES = (
    "tags",
    "tag",
    "labels",
    "label",
    "classes",
    "class",
    "categories",
    "category",
    "class_id",
    "label_id",
)
_NUMBER = re.compile(r"[+-]?[0-9]{1,9}(?:\.0*)?")
_IN_NAME = re.compile(r"\[([01](?:[ ,]*[01])*)\]")


@dataclass(frozen=True)
class Known:
    """What is known beside the source of tags.

    Parameters
    ----------
    classes : the classes of the data set
    first : number of the first foreground class where tags are numbers
    """

    classes: ClassSet | None = None
    first: int | None = None

    @property
    def foreground(self) -> int | None:
        """Number of foreground classes."""
        return None if self.classes is None else len(self.classes.foreground)

    @property
    def option(self) -> str:
        """How the number of classes is said on the command line."""
        return "" if self.classes is None else f"--classes {self.classes.num_classes}"

    def names(self) -> dict[str, int]:
        """The tag of each class by its name, without capitals, blanks and dashes."""
        names = () if self.classes is None else self.classes.foreground
        return {plain(name): tag for tag, name in enumerate(names)}


def plain(name: str) -> str:
    """A class name without capitals, blanks and dashes, which data sets write in several ways."""
    return re.sub(r"[\W_]+", "", name.lower())


def tags_of_names(keys: Sequence[str], path: Path, known: Known) -> Tags | None:
    """Multi-hot tags that the names of files carry, as ``x[1 0 0 1].png``; None if no name does.

    Raises
    ------
    UserError
        Some names carry tags and others none, or tags of other lengths.
    """
    found = {key: _IN_NAME.findall(key) for key in keys}
    if not any(found.values()):
        return None
    if without := [key for key, tags in found.items() if not tags]:
        raise UserError(
            f"{show_name(path)} has images with tags in their names and {shorten(without[0])} without: add "
            "them, as in name[1 0 1].png"
        )
    rows = [[int(digit) for digit in re.findall("[01]", tags[-1])] for tags in found.values()]
    return tags_of_rows([*found], rows, path, known, "names of files")


def tags_of_words(rows: Rows, path: Path, known: Known) -> Tags:
    """Tags out of the words or columns beside the images: multi-hot, class numbers or class names.

    Parameters
    ----------
    rows : the images and what stands beside them
    path : their file, for messages
    known : what tells numbers from 0 and from 1, and the names of classes

    Raises
    ------
    UserError
        There are no tags, they cannot be understood, could mean either of two things, or are none of the
        classes.
    """
    cells = _cells(rows)
    names = known.names()
    words = [[word for cell in own for word in _words(cell, names)] for _, own in cells]
    keys = [key for key, _ in cells]
    own_form = rows.table and rows.titles == [TITLE] and all(len(set(own)) == len(own) for own in words)
    if not any(words) and not own_form:
        found = tags_of_names(keys, path, known)
        if found is None:
            raise UserError(f"{show_name(path)} has no tags beside its images: pass a file with some")
        return found
    if not all(_NUMBER.fullmatch(word) for own in words for word in own):
        return _merge(keys, _by_name(words, names, path, known), known, "class names")
    values = [[int(float(word)) for word in own] for own in words]
    if own_form and known.first is None:
        known = Known(known.classes, 0)
    elif _are_multi_hot(values, path, known, rows.titles):
        order = [names.get(plain(title), -1) for title in rows.titles]
        if known.classes is not None and sorted(order) == [*range(len(names))]:  # columns in another order
            values = [[row[order.index(tag)] for tag in range(len(order))] for row in values]
        return tags_of_rows(keys, values, path, known, "multi-hot rows")
    first = _first(values, path, known)
    return _merge(keys, _by_number(values, first, path, known), known, f"class numbers from {first}")


def tags_of_rows(
    keys: Sequence[str], rows: Sequence[Sequence[float]], path: Path, known: Known, form: str
) -> Tags:
    """Tags out of multi-hot rows, one for each id.

    Raises
    ------
    UserError
        The lengths of the rows differ, or are not the number of classes.
    """
    count = len(rows[0]) if known.foreground is None and rows else known.foreground
    for key, row in zip(keys, rows):
        if len(row) != count:
            wanted = f"{known.option} needs {count}" if known.option else f"{keys[0]} has {count}"
            raise UserError(
                f"{show_name(path)} has {len(row)} zeros and ones for {key} but {wanted}: tags are multi-hot "
                "without the background"
            )
    return _merge(keys, [[tag for tag, value in enumerate(row) if value] for row in rows], known, form, count)


def _merge(
    keys: Sequence[str], tags: Sequence[Iterable[int]], known: Known, form: str, classes: int | None = None
) -> Tags:
    """A table; an image of several lines has the tags of all of them."""
    table: dict[str, set[int]] = {}
    for key, own in zip(keys, tags):
        table.setdefault(key, set()).update(own)
    classes = known.foreground if classes is None else classes
    return Tags({key: tuple(sorted(own)) for key, own in table.items()}, classes, form)


def _cells(rows: Rows) -> list[tuple[str, list[str]]]:
    """The cells that hold tags: those of the column of tags if one is called so; paths of masks are none."""
    column = next((rows.titles.index(title) for title in _TITLES if title in rows.titles), None)
    if column is not None:
        return [(key, own[column : column + 1]) for key, own in rows.rows]
    return [(key, [cell for cell in own if not cell.lower().endswith(IMAGES)]) for key, own in rows.rows]


def _words(cell: str, names: Mapping[str, int]) -> list[str]:
    """The tags of a cell, which may hold several; class names may have blanks."""
    parts = [part.strip(" '\"") for part in re.split("[;,|]", cell.strip("[](){} "))]
    # Numbers do not join to the name of a class: "1 4" is no class "14".
    whole = [part for part in parts if plain(part) in names and not part.replace(" ", "").isdecimal()]
    return [word for part in parts for word in ([part] if part in whole else part.split())]


def _are_multi_hot(values: Sequence[Sequence[int]], path: Path, known: Known, titles: Sequence[str]) -> bool:
    """Whether rows are multi-hot and no class numbers; a UserError names the file if both can be meant."""
    lengths = {len(row) for row in values}
    if len(lengths) != 1 or not all(value in (0, 1) for row in values for value in row):
        return False
    length = lengths.pop()
    if any(len(set(row)) < length for row in values) or (length > 1 and len(titles) == length):
        return True  # class numbers do not repeat, and have no titles of their own
    one_class = known.foreground == length == 1
    if one_class and {row[0] for row in values} == {0, 1}:
        return True
    if known.first is None and (one_class or (length == 2 and known.foreground in (None, 2))):
        raise UserError(
            f"{show_name(path)} has {length} zeros and ones for each image, which may be class numbers or "
            "multi-hot: dhr-refine tags --first 0 reads them as numbers, and titles of the columns make "
            "them multi-hot"
        )
    return False


def _first(values: Sequence[Sequence[int]], path: Path, known: Known) -> int:
    """The number of the first class."""
    if known.first is not None:
        return known.first
    least = min(value for row in values for value in row) if any(values) else 0
    most = max(value for row in values for value in row) if any(values) else 0
    if least <= 0:
        return 0
    if most == known.foreground:
        return 1
    raise UserError(
        f"{show_name(path)} has class numbers from {least} to {most}, which may count from 0 or from 1: "
        "dhr-refine tags --first 0 or --first 1 makes a table of them"
    )


def _by_number(values: Sequence[Sequence[int]], first: int, path: Path, known: Known) -> list[list[int]]:
    most = 65536 if known.foreground is None else known.foreground
    wrong = next((value for row in values for value in row if not first <= value < first + most), None)
    if wrong is not None:
        options = " ".join(part for part in (f"--first {first}", known.option) if part)
        raise UserError(
            f"{show_name(path)} has the class number {wrong}, but with {options} they are {first} to "
            f"{first + most - 1}: mend the file, or pass other options"
        )
    return [[value - first for value in row] for row in values]


def _by_name(
    words: Sequence[Sequence[str]], names: Mapping[str, int], path: Path, known: Known
) -> list[list[int]]:
    unknown = next((word for row in words for word in row if plain(word) not in names), None)
    if unknown is not None:
        classes = "which is a name" if known.classes is None else f"which is no class of {known.classes.name}"
        raise UserError(
            f"{show_name(path)} has the tag {shorten(repr(unknown))}, {classes}: pass --classes with the set "
            "that has these names, or a file with numbers"
        )
    return [[names[plain(word)] for word in row] for row in words]
