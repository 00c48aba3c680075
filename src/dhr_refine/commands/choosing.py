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
    which.add_argument(
        "--ids",
        metavar="A,B",
        help="these images: ids, or a file of them such as the failures of a run (all)",
    )
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


def add_run(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """How a run that writes files is carried out; the group of these options."""
    work = parser.add_argument_group("the run")
    work.add_argument(
        "--jobs",
        type=whole(1, 4096),
        metavar="N",
        help="processes of one thread each (one for each core, or a single one for an accelerator)",
    )
    work.add_argument("--device", default="cpu", metavar="D", help="cpu, cuda, cuda:1, ... (%(default)s)")
    work.add_argument("--part", metavar="K/N", help="of N parts of the images the one of number K, from 1")
    work.add_argument("--overwrite", action="store_true", help="make anew what is there")
    work.add_argument("--quiet", action="store_true", help="do not tell how far it is")
    work.add_argument(
        "--ray",
        nargs="?",
        const="",
        metavar="ADDRESS",
        help="share the work out on a Ray cluster, without an address on one of this machine",
    )
    return work


def add_files(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """What is written beside the masks, and what may be read."""
    files = parser.add_argument_group("files")
    files.add_argument("--out", type=Path, required=required, metavar="DIR", help="folder for the results")
    files.add_argument("--palette", action="store_true", help="also copies in colour, in OUT/colour")
    files.add_argument("--save-probs", action="store_true", help="also the probabilities, in OUT/probs")
    files.add_argument(
        "--allow-pickle", action="store_true", help="unpickle files, which can run any code that they hold"
    )


def run_options(arguments: argparse.Namespace) -> Any:
    """The :class:`dhr_refine.folders.RunOptions` of a command line."""
    from ..folders import RunOptions

    return RunOptions(
        ids=arguments.ids,
        listed=arguments.list,
        limit=arguments.limit,
        part=arguments.part,
        jobs=arguments.jobs,
        overwrite=arguments.overwrite,
        quiet=arguments.quiet,
        ray=arguments.ray,
        wait=getattr(arguments, "wait", 0.0),
    )


def tell(report: Any) -> int:
    """Print the report of a run; the exit code."""
    print(report)
    return report.exit_code
