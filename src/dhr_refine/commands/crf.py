"""``dhr-refine crf``: the boundary step alone, on a folder of CAMs, masks or probabilities."""

from __future__ import annotations

import argparse
from pathlib import Path

from .arguments import number
from .cam_options import add_cams, add_reading, base_options
from .choosing import add_choice, add_files, add_labels, add_run, read_labels, run_options, tell

HELP = "refine the edges of CAMs, masks or probabilities with a dense CRF, PAR or PAMR"
DESCRIPTION = (
    "Refine the edges of a folder of CAMs, masks or probabilities: the dense CRF with the constants of a "
    "codebase, PAR or PAMR. Writes 8-bit index PNGs; what is finished is skipped, and images that fail are "
    "listed in OUT (exit code 3)."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Tell a parser the options."""
    parser.add_argument("images", type=Path, metavar="IMAGES", help="folder of images, or a data set's")
    what = parser.add_mutually_exclusive_group(required=True)
    add_cams(what, required=False)
    what.add_argument("--masks", type=Path, metavar="DIR", help="folder of masks: index PNGs or arrays")
    what.add_argument(
        "--probs",
        type=Path,
        metavar="DIR",
        help="folder of arrays (K, H, W), or of {keys, prob}: --save-probs",
    )
    parser.add_argument(
        "--preset",
        choices=("seam", "irn", "dhr", "toco", "weaktr"),
        help="constants of the CRF in these codebases (dhr)",
    )
    parser.add_argument(
        "--method", choices=("crf", "par", "pamr"), default="crf", help="boundary tool (%(default)s)"
    )
    parser.add_argument("--gt-prob", type=number(0, 1), metavar="P", help="trust in --masks (0.7)")
    add_reading(parser)
    add_labels(parser)
    add_choice(parser)
    add_files(parser)
    add_run(parser)


def run(arguments: argparse.Namespace) -> int:
    """Refine the edges; 3 if some images failed."""
    from ..folders import crf_folder

    report = crf_folder(
        arguments.images,
        out=arguments.out,
        cams=arguments.cams,
        masks=arguments.masks,
        probs=arguments.probs,
        preset=arguments.preset,
        method=arguments.method,
        tags=arguments.tags,
        classes=read_labels(arguments),
        background=arguments.background,
        ignore_index=arguments.ignore_index,
        cam_background=arguments.cam_background,
        gt_prob=arguments.gt_prob,
        palette=arguments.palette,
        save_probs=arguments.save_probs,
        allow_pickle=arguments.allow_pickle,
        device=arguments.device,
        run=run_options(arguments),
        **base_options(arguments),
    )
    return tell(report)
