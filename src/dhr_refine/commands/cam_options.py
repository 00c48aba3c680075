"""Arguments of the verbs that read CAMs and make base masks of them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .arguments import number

BOUNDARIES = ("crf", "par", "pamr", "none")


def add_cams(parser: argparse._ActionsContainer, *, required: bool) -> None:
    """The folder of CAMs."""
    parser.add_argument(
        "--cams",
        type=Path,
        required=required,
        metavar="DIR",
        help="folder of CAM files of IRN, SEAM, AdvCAM, MCTformer, WeakTr, CLIP-ES, RSEPM, ...: .npy, .npz, "
        ".pt or .pkl",
    )


def add_reading(parser: argparse._ActionsContainer) -> None:
    """How CAMs are read, and base masks made of them."""
    parser.add_argument(
        "--tags",
        type=Path,
        metavar="SOURCE",
        help="image tags: cls_labels.npy, or what `dhr-refine tags` reads and writes (the keys of CAM files)",
    )
    parser.add_argument(
        "--cam-background",
        choices=("first", "none"),
        help="what number 0 means in CAM files: the background or the first class (found out)",
    )
    parser.add_argument(
        "--base-score",
        type=_score,
        metavar="S",
        help='score of the background beside CAMs: 0 to 1, or "power" for (1 - max) ** alpha (0.2)',
    )
    parser.add_argument("--alpha", type=number(0, above=True), metavar="A", help="exponent of power (1)")


def base_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the functions of ``folders`` are told of base masks; what was not given is left to them."""
    given = {"base_score": arguments.base_score, "alpha": arguments.alpha}
    return {name: value for name, value in given.items() if value is not None}


def _score(text: str) -> float | str:
    return text if text == "power" else number(0, 1)(text)
