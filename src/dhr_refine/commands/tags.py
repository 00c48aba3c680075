"""``dhr-refine tags``: image tags from any source as one plain table."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import whole
from .choosing import check_place, read_labels

HELP = "read image tags from any source, and write them as one table"
DESCRIPTION = (
    "Read image tags from whatever holds them: cls_labels.npy, VOC's XML annotations, COCO's instances, "
    "lists and tables, names of files, or masks; and write them as a table with the columns id and tags, "
    "numbers of the foreground classes from 0. The other verbs read it, and any such source, with --tags."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell a parser the options."""
    parser.add_argument("source", type=Path, metavar="SOURCE", help="file or folder that holds the tags")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the table to write, a .csv")
    parser.add_argument(
        "--classes",
        metavar="SET",
        help="voc, coco, context, ade, stuff, or the number of labels with the background (what SOURCE says)",
    )
    parser.add_argument(
        "--first",
        type=whole(0, 1),
        metavar="0|1",
        help="number of the first foreground class, where tags are numbers that could count from either",
    )
    parser.add_argument(
        "--background",
        choices=("first", "last", "none"),
        help="which label of masks is the background (as the data set has it, else first)",
    )
    parser.add_argument(
        "--ignore-index",
        type=whole(0, 65535),
        default=255,
        metavar="N",
        help="label of masks that has no class (%(default)s)",
    )
    parser.add_argument("--list", type=Path, metavar="FILE", help="only the images of a list (all)")
    parser.add_argument(
        "--allow-pickle", action="store_true", help="unpickle SOURCE, which can run any code that it holds"
    )


def run(arguments: argparse.Namespace) -> int:
    """Read and write the tags."""
    from ..datasets.items import read_list
    from ..datasets.tags import read_tags, write_tags
    from ..errors import UsageError, UserError, writing

    check_place(arguments.out, "--out")
    classes = None if arguments.classes is None else read_labels(arguments)
    keys = None if arguments.list is None else read_list(arguments.list)
    if not arguments.source.exists():
        raise UsageError(f"SOURCE {arguments.source} is not there: pass a file or folder that is")
    tags = read_tags(
        arguments.source,
        classes=classes,
        background=arguments.background,
        ignore_index=arguments.ignore_index,
        first=arguments.first,
        keys=keys,
        allow_pickle=arguments.allow_pickle,
    )
    if missing := [key for key in keys or () if key not in tags.table]:
        raise UserError(
            f"{arguments.source} has no tags of {len(missing)} of the {len(keys or ())} images of --list "
            f"{arguments.list}, {missing[0]} the first of them: take them out, or pass another source"
        )
    with writing(arguments.out, "--out"):
        write_tags(arguments.out, tags.table)
    print(f"{_summary(list(tags.table.values()))}, read as {tags.form}: {arguments.out}")
    return 0


def _summary(tags: list[tuple[int, ...]]) -> str:
    images = f"{len(tags)} image{'s' if len(tags) != 1 else ''}"
    if not tags:
        return images
    counts = [len(own) for own in tags]
    least, most = min(counts), max(counts)
    each = f"{least}" if least == most else f"{least} to {most}"
    classes = len({tag for own in tags for tag in own})
    return f"{images} with {each} tags each ({sum(counts) / len(counts):.2f} on average, {classes} classes)"
