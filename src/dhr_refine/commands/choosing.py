"""Arguments of the verbs that look at masks: which images, what the labels are."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..datasets.classes import SETS, ClassSet, class_set
from ..errors import UsageError
from .arguments import whole


def add_choice(parser: argparse.ArgumentParser) -> None:
    """Which images."""
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--list", type=Path, metavar="FILE", help="images in a text file, one a line (all)")
    which.add_argument("--ids", type=_ids, metavar="A,B", help="images by their ids (all)")
    parser.add_argument("--limit", type=whole(1), metavar="N", help="only the first N images")


def add_labels(parser: argparse.ArgumentParser) -> None:
    """What the labels are."""
    parser.add_argument(
        "--classes",
        default="voc",
        metavar="SET",
        help=f"labels of the masks: {', '.join(SETS)}, or their number with the background (%(default)s)",
    )
    parser.add_argument(
        "--background",
        choices=("first", "last", "none"),
        help="which label is the background (as the data set has it; first for a number)",
    )
    parser.add_argument(
        "--ignore-index",
        type=whole(-(2**31)),
        default=255,
        metavar="N",
        help="label of what has no class (%(default)s)",
    )


def read_labels(arguments: argparse.Namespace) -> ClassSet:
    """The classes that were asked for; a UsageError if there are none of that name."""
    try:
        classes = class_set(arguments.classes, background=arguments.background)
    except ValueError as error:
        raise UsageError(f"--{error}") from error
    if 0 <= arguments.ignore_index < classes.num_classes:
        raise UsageError(
            f"--ignore-index {arguments.ignore_index} is a class: labels go from 0 to "
            f"{classes.num_classes - 1}, so pass one that no class has"
        )
    return classes


def chosen(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the functions of ``folders`` are told of the images and labels."""
    from ..datasets.items import read_list

    return {
        "classes": read_labels(arguments),
        "ignore_index": arguments.ignore_index,
        "ids": arguments.ids if arguments.list is None else read_list(arguments.list),
        "limit": arguments.limit,
    }


def check_place(path: Path, option: str) -> None:
    """Raise before a long run if a file cannot be written where it shall be."""
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise UsageError(f"{option} {path} is no place for a file: name a file in a folder that there is")


def _ids(text: str) -> list[str]:
    ids = [part.strip() for part in text.split(",") if part.strip()]
    if not ids:
        raise argparse.ArgumentTypeError(f"must be ids of images with commas, got {text[:50]!r}")
    return ids
