"""Tags out of COCO's annotations, the file of all instances of a split."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import UserError
from ..files.limits import shorten
from ..files.regular import show_name
from .rows import id_of
from .tag_table import Tags
from .tag_words import Known
from .texts import read_text

_MOST = 2**31  # the instances of train2017 have 470 MB
_FIX = "pass the file of instances, a table, or a cls_labels.npy"


def read_json(path: Path) -> Any:
    """The content of a JSON file, without the outlines of objects, which are nearly all of COCO's.

    Raises
    ------
    UserError
        The file cannot be opened or is no JSON.
    """
    try:
        return json.loads(read_text(path, _FIX, most=_MOST), object_pairs_hook=_without_outlines)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{show_name(path)} is no JSON ({shorten(error)}): {_FIX}") from error


def _without_outlines(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    return {name: value for name, value in pairs if name != "segmentation"}


def is_coco(content: Any) -> bool:
    """Whether the content of a file has the parts of COCO's annotations."""
    return isinstance(content, dict) and {"images", "annotations", "categories"} <= set(content)


def tags_of_coco(content: dict[str, Any], path: Path, known: Known) -> Tags:
    """Tags of each image of the file, none where it has no annotation; crowds count.

    Tags are the places of the categories in the order of their ids: 0 to 79 for COCO, whose ids go up to 90
    with gaps. Where as many classes are wanted as the ids go up to, they are the ids less 1, with the gaps.

    Parameters
    ----------
    content : of the file
    path : the file, for messages
    known : the classes that are wanted

    Raises
    ------
    UserError
        The parts do not fit together, or there are other categories than classes.
    """
    try:
        categories = sorted(_number(entry["id"]) for entry in content["categories"])
        names = {_number(entry["id"]): _name(entry) for entry in content["images"]}
        pairs = [(_number(part["image_id"]), _number(part["category_id"])) for part in content["annotations"]]
    except KeyError as error:
        raise _broken(path, f"a part has no {error}") from error
    except (TypeError, ValueError) as error:
        raise _broken(path, str(error)) from error
    classes, tag_of = _tag_of(categories, path, known)
    own: dict[int, set[int]] = {number: set() for number in names}
    for image, category in pairs:
        if image not in own or category not in tag_of:
            what = f"the image {image}" if image not in own else f"the category {category}"
            raise _broken(path, f"an annotation is of {what}, which is not listed")
        own[image].add(tag_of[category])
    keys = {number: id_of(name, path) for number, name in names.items()}
    if len(set(keys.values())) < len(keys):
        raise _broken(path, "two images have one name")
    return Tags(
        {keys[number]: tuple(sorted(tags)) for number, tags in own.items()}, classes, "COCO instances"
    )


def _tag_of(categories: Sequence[int], path: Path, known: Known) -> tuple[int, dict[int, int]]:
    """Number of classes, and the tag of each category."""
    count, highest = len(categories), max(categories, default=0)
    if len(set(categories)) < count:
        raise _broken(path, "two categories have one id")
    if known.foreground in (None, count):
        return count, {category: tag for tag, category in enumerate(categories)}
    if known.foreground is not None and known.foreground >= highest and min(categories, default=1) >= 1:
        return known.foreground, {category: category - 1 for category in categories}
    raise UserError(
        f"{show_name(path)} has {count} categories with ids up to {highest}, but {known.option} asks for "
        f"{known.foreground} foreground classes: pass --classes {count + 1}, or leave it out"
    )


def _number(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"an id is {shorten(repr(value))}")
    return value


def _name(entry: dict[str, Any]) -> str:
    return str(entry.get("file_name") or entry["id"])


def _broken(path: Path, why: str) -> UserError:
    return UserError(f"{show_name(path)} is no file of COCO's instances ({shorten(why)}): {_FIX}")
