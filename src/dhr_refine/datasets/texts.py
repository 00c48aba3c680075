"""Text files of a data set: lists, an index, annotations."""

from __future__ import annotations

import codecs
from pathlib import Path
from unicodedata import normalize

from ..errors import UserError
from ..files.regular import NotRegularError, open_regular, show_name

_MOST = 2**28
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_bytes(path: Path, fix: str, *, most: int = _MOST) -> bytes:
    """The content of a regular file of so many bytes at most; the errors are those of :func:`read_text`."""
    try:
        with open_regular(path) as file:
            data = file.read(most + 1)
    except NotRegularError as error:
        raise UserError(f"{error}: {fix}") from error
    except OSError as error:
        raise UserError(f"{show_name(path)} cannot be read ({error.strerror}): {fix}") from error
    if len(data) > most:
        raise UserError(f"{show_name(path)} has more than {most} bytes: {fix}")
    return data


def read_text(path: Path, fix: str, *, most: int = _MOST) -> str:
    """A text in UTF-8, or in UTF-16 if it says so in its first bytes, as texts of Windows do.

    Parameters
    ----------
    path : path of the file
    fix : what to do about a file that is none, the end of the message
    most : bytes that the file may have

    Raises
    ------
    UserError
        The file cannot be opened, or is no text, or very large, or a pipe or device.
    """
    data = read_bytes(path, fix, most=most)
    kind = next((kind for bom, kind in _BOMS.items() if data.startswith(bom)), "utf-8")
    try:
        text = data.decode(kind)
    except UnicodeDecodeError as error:
        raise UserError(f"{show_name(path)} is no text ({error}): {fix}") from error
    if "\0" in text:
        raise UserError(f"{show_name(path)} is no text (it holds null characters): {fix}")
    return text


def check_key(key: str, path: Path) -> str:
    """An image id of a file, normalised, if it can be the name of files; a UserError names the file if not.

    Ids name what is read and what is written: one with folders in it would lead out of the data set's.
    """
    if key in ("", "..") or Path(key).name != key or not key.isprintable():
        raise UserError(
            f"{show_name(path)} has the image id {key[:80]!a}: an id is the name of a file, without "
            "folders and suffix"
        )
    return normalize("NFC", key)
