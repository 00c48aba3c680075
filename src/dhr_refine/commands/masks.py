"""``dhr-refine masks``: refined masks of a data set."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from .arguments import number, whole
from .cam_options import BOUNDARIES, add_cams, add_reading, base_options
from .choosing import add_choice, add_files, add_labels, add_run, read_labels, run_options, tell

HELP = "refine the base masks of a data set"
DESCRIPTION = (
    "Refine the base masks of a data set by DHR: from folders of images, CAMs and features to a folder of "
    "8-bit index PNGs. Files belong together by their names. What is finished is skipped, so that the same "
    "command goes on where a stopped one was; images that fail are listed in OUT (exit code 3)."
)


def add_arguments(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """Tell a parser the options; ``dhr-refine check`` has the same, and may do without ``--out``."""
    _add_inputs(parser)
    add_choice(parser)
    add_files(parser, required=required)
    add_run(parser).add_argument(
        "--wait",
        type=number(0),
        default=0.0,
        metavar="S",
        help="seconds to wait for the memories of other parts, with --part and --memory auto (0)",
    )


def _add_inputs(parser: argparse.ArgumentParser) -> None:
    """What is refined, and how."""
    parser.add_argument("images", type=Path, metavar="IMAGES", help="folder of images, or a data set's")
    add_cams(parser, required=True)
    parser.add_argument(
        "--masks", type=Path, metavar="DIR", help="folder of base masks (made of the CAMs, in OUT/base)"
    )
    uss = parser.add_mutually_exclusive_group()
    uss.add_argument("--uss", type=Path, metavar="DIR", help="folder of unsupervised features (D, h, w)")
    uss.add_argument("--uss-model", metavar="NAME", help="a network for them: facebook/dinov2-small, ...")
    wss = parser.add_mutually_exclusive_group()
    wss.add_argument(
        "--wss", type=Path, nargs="+", default=(), metavar="DIR", help="folders of the classifier's features"
    )
    wss.add_argument("--wss-model", metavar="NAME", help="a network for them (else the features of --uss)")
    add_reading(parser)
    add_labels(parser)
    step = parser.add_argument_group("the step")
    step.add_argument(
        "--recipe",
        choices=("default", "paper", "released"),
        default="default",
        help="variant of the algorithm (%(default)s)",
    )
    step.add_argument(
        "--tau", type=number(-1, 1), default=0.8, help="cosine above which classes are alike (0.8)"
    )
    step.add_argument(
        "--boundary",
        type=_boundary,
        default="crf",
        metavar="TOOL",
        help=f"boundary tool: {', '.join(BOUNDARIES)}, or sam:DIR for crf and then votes of the segments of "
        "each image in a folder (%(default)s)",
    )
    step.add_argument(
        "--memory",
        metavar="auto|FILE",
        help="class memory: learned from these images first, or one that there is",
    )
    step.add_argument(
        "--rounds",
        type=whole(0, 1000),
        default=6,
        metavar="N",
        help="rounds of learning of --memory auto (%(default)s)",
    )
    step.add_argument(
        "--save-memory",
        type=Path,
        metavar="FILE",
        help="where to keep another copy of the memory that --memory auto learns",
    )


def _boundary(text: str) -> str:
    if text in BOUNDARIES or text.startswith("sam:"):
        return text
    raise argparse.ArgumentTypeError(f"must be {', '.join(BOUNDARIES)} or sam:DIR, got {text[:50]!r}")


def run(arguments: argparse.Namespace) -> int:
    """Refine the masks; 3 if some images failed."""
    from ..folders import refine_folder

    return tell(refine_folder(arguments.images, out=arguments.out, **options_of(arguments)))


def options_of(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the functions of ``folders`` are told, but for images and the folder of the results."""
    return dict(
        cams=arguments.cams,
        masks=arguments.masks,
        uss=arguments.uss,
        uss_model=arguments.uss_model,
        wss=arguments.wss,
        wss_model=arguments.wss_model,
        tags=arguments.tags,
        classes=read_labels(arguments),
        background=arguments.background,
        ignore_index=arguments.ignore_index,
        cam_background=arguments.cam_background,
        boundary=None if arguments.boundary == "none" else arguments.boundary,
        recipe=arguments.recipe,
        tau=arguments.tau,
        memory=arguments.memory,
        rounds=arguments.rounds,
        save_memory=arguments.save_memory,
        palette=arguments.palette,
        save_probs=arguments.save_probs,
        allow_pickle=arguments.allow_pickle,
        device=arguments.device,
        run=run_options(arguments),
        **base_options(arguments),
    )
