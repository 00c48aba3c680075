"""What the command lines of both training scripts share."""

from __future__ import annotations

import argparse
import re

import torch

from dhr_refine.commands.arguments import whole


def add_run(p: argparse.ArgumentParser) -> None:
    """How long a run is, where it runs, and what it keeps."""
    p.add_argument("--steps", type=whole(1), default=200, help="batches to train on (%(default)s)")
    p.add_argument(
        "--batch", type=whole(1), default=8, help="crops of a step, over all processes (%(default)s)"
    )
    p.add_argument(
        "--crop", type=multiple_of_32, default=256, help="side in pixels, a multiple of 32 (%(default)s)"
    )
    p.add_argument("--seed", type=whole(0, 2**63 - 1), default=0, help="of all that is drawn (%(default)s)")
    p.add_argument("--amp", action="store_true", help="mixed precision: bfloat16 on a CPU, float16 on a GPU")
    p.add_argument("--device", type=device, default="cpu", help="cpu, cuda or cuda:N (%(default)s)")
    p.add_argument(
        "--workers", type=whole(0, 1024), default=0, help="processes that load images (%(default)s)"
    )
    p.add_argument("--save-every", type=whole(1), default=50, help="steps between checkpoints (%(default)s)")
    p.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    p.add_argument("--tensorboard", action="store_true", help="log there too")


def multiple_of_32(text: str) -> int:
    """Type of an argument: pixels of a crop."""
    value = whole(32)(text)
    if value % 32:
        raise argparse.ArgumentTypeError(f"must be a multiple of 32, got {value}")
    return value


def device(text: str) -> str:
    """Type of an argument: a device that is there."""
    if not re.fullmatch(r"cpu|cuda(:\d{1,3})?", text):
        raise argparse.ArgumentTypeError(f"must be cpu, cuda or cuda:N, got {text!r}")
    if text != "cpu" and int(text[5:] or 0) >= torch.cuda.device_count():
        raise argparse.ArgumentTypeError(
            f"{text} is not among the {torch.cuda.device_count()} GPUs that this torch sees: leave it out to "
            "train on the CPU"
        )
    return text
