"""``dhr-refine eval``: masks against ground truth, and against the masks that they were refined from."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import whole
from .choosing import add_choice, add_labels, check_place, chosen

HELP = "score masks against ground truth, and against the masks that they were refined from"
DESCRIPTION = (
    "Score a folder of masks against ground truth: IoU of each class, mIoU, mean error rates, vanishing "
    "classes; with --base also what refining changed, with standard errors. A missing or damaged file is "
    "named and its image left out (exit code 3)."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell a parser the options."""
    parser.add_argument(
        "masks", type=Path, metavar="MASKS", help="folder of masks: .png, .npy, .npz, .pt, .pth or .pkl"
    )
    parser.add_argument(
        "--targets",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of the ground truth, or a data set's",
    )
    parser.add_argument("--base", type=Path, metavar="DIR", help="folder of the masks before refining")
    add_labels(parser)
    parser.add_argument(
        "--absent",
        choices=("skip", "zero"),
        default="skip",
        help="what a class is worth that is predicted but not in the ground truth: left out, or IoU 0 "
        "(%(default)s)",
    )
    add_choice(parser)
    parser.add_argument(
        "--draws",
        type=whole(0, 10**6),
        default=1000,
        metavar="N",
        help="resamples behind the standard errors, 0 for none (%(default)s)",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write everything to a file")
    parser.add_argument("--quiet", action="store_true", help="do not tell how far it is")


def run(arguments: argparse.Namespace) -> int:
    """Score the masks; 3 if some images were left out."""
    import json

    from ..errors import require, writing
    from ..files.writing import without_nan, write_atomic
    from ..folders import evaluate_folder

    if arguments.json is not None:
        check_place(arguments.json, "--json")
    console = require("rich.console", by="dhr-refine eval").Console()
    report = evaluate_folder(
        arguments.masks,
        arguments.targets,
        base=arguments.base,
        absent=arguments.absent,
        draws=arguments.draws,
        quiet=arguments.quiet,
        **chosen(arguments),
    )
    for table in report.tables:
        console.print(table.rich())
    for note in report.notes:
        console.print(note, markup=False, highlight=False, soft_wrap=True)
    if arguments.json is not None:
        text = json.dumps(without_nan(report.as_dict()), indent=1, allow_nan=False)
        with writing(arguments.json, "--json"):
            write_atomic(arguments.json, text.encode())
    return 3 if report.failures else 0
