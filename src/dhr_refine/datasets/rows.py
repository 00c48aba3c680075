"""Lists and tables of images as text: an image's name and what else stands in its line."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from .index import IMAGES
from .texts import check_key, read_text

# Brackets hold together, because names of files carry tags in them: patch[1, 0, 0, 1].png.
_WORD = re.compile(r'"([^"]*)"|((?:\[[^\[\]]*\]|\S)+)')
_HELD = re.compile(r'"[^"]*"|\[[^\[\]]*\]')
_AFTER_FIRST = re.compile(r"[^\s,;]*(?:\s*([,;])|\s)")
_FIELDS = {
    comma: re.compile(rf'\s*(?:"((?:[^"]|"")*)"\s*|((?:\[[^\[\]]*\]|[^{comma}])*))({comma}|$)')
    for comma in ",;"
}
# Titles of the column of names. Without commas only those that are hardly an image's own name.
_TITLES = {"id", "image_id", "img_id", "image_name", "img_name", "filename", "file_name", "image_path"}
_TITLES_OF_TABLES = _TITLES | {"image", "images", "img", "name", "file", "path", "key"}


class Rows(NamedTuple):
    """The lines of a text that name an image."""

    titles: list[str]  # of the columns but that of the names, in lower case; empty if the text has none
    rows: list[tuple[str, list[str]]]  # id of the image, the other words or columns of its line
    table: bool  # columns are separated by commas or semicolons


def read_rows(path: Path, fix: str) -> Rows:
    """The images of a text and what stands beside them, blank lines and # comments left out.

    Parameters
    ----------
    path : path of a list (words in lines, the first one an image: its id, its file's name or path) or of a
        table (columns separated by commas or semicolons, with or without a line of titles)
    fix : what to do about a file that is none, the end of the message

    Raises
    ------
    UserError
        The file cannot be opened or is no text, or an id cannot be the name of a file.
    """
    lines = [line.strip() for line in read_text(path, fix).splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    if not lines:
        return Rows([], [], False)
    comma = next(filter(None, map(_separator, lines)), " ").strip() or None
    rows = [_split(line, comma) for line in lines]
    titles = [title.lower() for title in rows[0]]
    known = _TITLES if comma is None else _TITLES_OF_TABLES
    place = next((place for place, title in enumerate(titles) if title in known), None)
    if place is None:
        titles, place = [], 0
    else:
        rows = rows[1:]
    unnamed = {
        column for column, title in enumerate(titles) if not title
    }  # numbers of lines, as pandas writes
    others = [
        [word for column, word in enumerate(row) if column != place and column not in unnamed] for row in rows
    ]
    keys = [id_of(row[place] if place < len(row) else "", path) for row in rows]
    titles = [title for column, title in enumerate(titles) if column != place and column not in unnamed]
    return Rows(titles, [*zip(keys, others)], comma is not None)


def _separator(line: str) -> str | None:
    """What stands after the first word of a line: a comma, a semicolon, or a blank; None if nothing does."""
    match = _AFTER_FIRST.match(_HELD.sub("x", line))
    return match and (match[1] or " ")


def _split(line: str, comma: str | None) -> list[str]:
    if comma is None:
        words = [quoted or word for quoted, word in _WORD.findall(line)]
        return words[: next((place for place, word in enumerate(words) if word.startswith("#")), None)]
    fields, start, end = [], 0, comma
    while end:
        match = _FIELDS[comma].match(line, start)
        assert match is not None  # the pattern takes anything
        quoted, plain, end = match.groups()
        fields.append(plain.strip() if quoted is None else quoted.replace('""', '"'))
        start = match.end()
    return fields


def id_of(name: str, path: Path) -> str:
    """The id of an image that a file names in any way: by its id, or by its file's name or path."""
    file = PurePosixPath(name.replace("\\", "/"))
    return check_key(file.stem if file.suffix.lower() in IMAGES else file.name, path)
