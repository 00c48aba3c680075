"""``dhr-refine show``: masks over their images, on one HTML page."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .arguments import whole
from .choosing import add_choice, add_labels, check_place, chosen

HELP = "write an HTML page with masks over their images, and what changed"
DESCRIPTION = (
    "Write one HTML file that needs nothing else and opens from disk. For each image it shows the image, the "
    "mask before refining, the mask and the ground truth, as far as they are given, which classes were "
    "recovered and lost, and how the IoU changed. A missing or damaged file is named and its image left out "
    "(exit code 3)."
)
_COUNT = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell a parser the options."""
    parser.add_argument("images", type=Path, metavar="IMAGES", help="folder of images, or a data set's")
    parser.add_argument("masks", type=Path, metavar="MASKS", help="folder of their masks")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the page, index.html say")
    parser.add_argument("--base", type=Path, metavar="DIR", help="folder of the masks before refining")
    parser.add_argument(
        "--targets", type=Path, metavar="DIR", help="folder of the ground truth, or a data set's"
    )
    order = parser.add_mutually_exclusive_group()
    count: Any = {"type": whole(1), "metavar": "N"}
    order.add_argument(
        "--worst", **count, help=f"the N of least mean IoU ({_COUNT} where there is only ground truth)"
    )
    order.add_argument("--changed", **count, help=f"the N that changed most ({_COUNT} where there is a base)")
    order.add_argument("--first", **count, help=f"the first N ({_COUNT} where there is neither)")
    add_labels(parser)
    add_choice(parser)
    parser.add_argument("--quiet", action="store_true", help="do not tell how far it is")


def run(arguments: argparse.Namespace) -> int:
    """Write the page; 3 if some images were left out."""
    import sys

    from ..files.regular import show_name
    from ..folders import show_folder
    from ..folders.review.cards import MOST_CLASSES
    from ..folders.show import MOST_CARDS

    check_place(arguments.out, "--out")
    order, count = _order(arguments)
    options = chosen(arguments)
    if options["classes"].num_classes > MOST_CLASSES:
        raise UsageError(f"--classes {arguments.classes}: there are colours for {MOST_CLASSES} labels alone")
    if count > MOST_CARDS:
        raise UsageError(f"{count} images are too many for a page: ask for {MOST_CARDS} at most")
    shown = show_folder(
        arguments.images,
        arguments.masks,
        arguments.out,
        base=arguments.base,
        targets=arguments.targets,
        order=order,
        count=count,
        quiet=arguments.quiet,
        **options,
    )
    for failure in shown.failures:
        line = f"{show_name(failure.key)} ({failure.stage}): {failure.message}"
        print(f"dhr-refine show: left out: {line}", file=sys.stderr)
    print(shown)
    return 3 if shown.failures else 0


def _order(arguments: argparse.Namespace) -> tuple[Any, int]:
    """Which images are asked for, and how many."""
    for option, order, needed in (
        ("worst", "worst", "targets"),
        ("changed", "changed", "base"),
        ("first", "listed", "masks"),
    ):
        count = getattr(arguments, option)
        if count is not None:
            if getattr(arguments, needed) is None:
                raise UsageError(f"--{option} needs --{needed}: pass the folder")
            return order, count
    return None, _COUNT
