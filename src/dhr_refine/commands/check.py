"""``dhr-refine check``: what would go wrong with ``dhr-refine masks``."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import masks
from .choosing import tell

HELP = "look at all that `masks` would read, and say what would go wrong"
DESCRIPTION = (
    "Takes the arguments of `dhr-refine masks`, reads every file and writes none: missing and damaged files, "
    "sizes, how CAM files count, tags against CAMs and base masks. Exit code 3 if an image would fail."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell a parser the options."""
    masks.add_arguments(parser, required=False)


def run(arguments: argparse.Namespace) -> int:
    """Look at the folders; 3 if an image would fail."""
    from ..folders import check_folder

    out = arguments.out or Path("dhr-refine-masks")
    return tell(check_folder(arguments.images, out=out, **masks.options_of(arguments)))
