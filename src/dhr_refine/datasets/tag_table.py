"""What every source of tags becomes, and which of its ids are those of the images."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

# COCO's ids are numbers, with or without zeros before them and the name of the split before those.
_NUMBER = re.compile(r"(?:COCO_[a-z]+[0-9]{4}_)?([0-9]{1,12})")


@dataclass(frozen=True)
class Tags:
    """Image-level tags of a data set.

    Parameters
    ----------
    table : 0-based foreground classes per image id, in their order
    classes : number of foreground classes, None if the source does not know it
    form : what the source was read as, in words
    """

    table: dict[str, tuple[int, ...]]
    classes: int | None
    form: str

    def of(self, keys: Iterable[str]) -> Tags:
        """The tags of some images, under the ids that these have; images without an entry are left out."""
        own = match_ids(self.table, keys)
        return replace(self, table={key: self.table[name] for key, name in own.items()})


def match_ids(names: Iterable[str], keys: Iterable[str]) -> dict[str, str]:
    """For each image id its name in a source: the same, or the same number in COCO's ids.

    Parameters
    ----------
    names : ids that a source has
    keys : ids of images

    Examples
    --------
    >>> match_ids(["391895", "a"], ["COCO_train2014_000000391895", "a", "b"])
    {'COCO_train2014_000000391895': '391895', 'a': 'a'}
    """
    names, keys = dict.fromkeys(names), dict.fromkeys(keys)
    numbered, asked = _by_number(names), _by_number(keys)
    result = {}
    for key in keys:
        number = _number(key)
        alike = numbered.get(number, []) if number is not None else []
        if key in names:
            result[key] = key
        elif len(alike) == 1 and number is not None and len(asked[number]) == 1:  # else it could be another's
            result[key] = alike[0]
    return result


def _by_number(names: Iterable[str]) -> dict[int, list[str]]:
    result: dict[int, list[str]] = {}
    for name in names:
        if (number := _number(name)) is not None:
            result.setdefault(number, []).append(name)
    return result


def _number(name: str) -> int | None:
    match = _NUMBER.fullmatch(name)
    return int(match[1]) if match else None
