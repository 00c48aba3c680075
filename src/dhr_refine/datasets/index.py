"""The files of folders by the ids of their images, from one look at each folder."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from unicodedata import normalize

from ..errors import UserError
from ..files.regular import show_name

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""Suffixes of images."""
ARRAYS = (".npy", ".npz", ".pt", ".pth", ".pkl")
"""Suffixes of files that ``load_arrays`` reads."""
MASKS = (".png", *ARRAYS)
"""Suffixes of masks."""


class FileIndex:
    """Finds the file of an image, named by its id and one of some suffixes.

    Ids are case-sensitive, suffixes are not. Ids are normalised (Unicode's NFC), because the same name has
    another form in a list than on some disks. Hidden files, which half-written ones are among, are left out;
    links count as what they lead to.

    Of several files of one image the one with the first of the suffixes is taken. Where that leaves two, no
    one is taken, and asking for the image is an error.

    Parameters
    ----------
    places : folders, or single files
    suffixes : those of the files that are wanted, the preferred one first

    Raises
    ------
    UserError
        A folder is none or cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in ("2007_000032.JPG", "a.b.png", "notes.txt"):
    ...         Path(folder, name).touch()
    ...     index = FileIndex(Path(folder), (".jpg", ".png"))
    >>> index.keys()
    ['2007_000032', 'a.b']
    >>> index["a.b"].name
    'a.b.png'
    """

    def __init__(self, places: Path | Sequence[Path], suffixes: Sequence[str]):
        """Look at the folders, once."""
        self.places = (places,) if isinstance(places, Path) else tuple(places)
        self.suffixes = tuple(suffixes)
        ranks = {suffix.lower(): rank for rank, suffix in reversed([*enumerate(self.suffixes)])}
        found: dict[str, list[tuple[int, str]]] = {}
        for place in self.places:
            for entry in _entries(place):
                stem, dot, suffix = entry.name.rpartition(".")
                rank = ranks.get(f"{dot}{suffix}".lower())
                if rank is not None and not entry.name.startswith(".") and _is_file(entry):
                    found.setdefault(normalize("NFC", stem), []).append((rank, os.fspath(entry)))
        self._found = found
        for files in found.values():
            files.sort()

    def __getitem__(self, key: str) -> Path:
        """The file of an image; a UserError if there is none, or none that is preferred to all others."""
        files = self._found.get(normalize("NFC", key))
        where = " + ".join(map(show_name, self.places))
        if files is None:
            wanted = ", ".join(self.suffixes)
            raise UserError(f"{where} has no file of image {key}: add {key} with one of {wanted}")
        if len(files) > 1 and files[0][0] == files[1][0]:
            one, other = (show_name(path) for _, path in files[:2])
            raise UserError(
                f"{where} has two files of image {key}: remove {one} or {other}, or name the folder of one"
            )
        return Path(files[0][1])

    def __contains__(self, key: str) -> bool:
        """Whether there is a file of an image."""
        return normalize("NFC", key) in self._found

    def __len__(self) -> int:
        """Number of images."""
        return len(self._found)

    def keys(self) -> list[str]:
        """The ids of the images, sorted."""
        return sorted(self._found)

    @property
    def duplicates(self) -> dict[str, list[Path]]:
        """The files of each image that has several, the preferred one first."""
        return {
            key: [Path(path) for _, path in files] for key, files in self._found.items() if len(files) > 1
        }


def _entries(place: Path) -> Iterator[os.DirEntry[str] | Path]:
    if place.is_file():
        yield place
        return
    try:
        with os.scandir(place) as entries:
            yield from entries
    except OSError as error:
        raise UserError(
            f"{show_name(place)} cannot be read as a folder ({error.strerror}): pass the folder of the files"
        ) from error


def _is_file(entry: os.DirEntry[str] | Path) -> bool:
    try:
        return entry.is_file()
    except OSError:  # links in a circle
        return False
