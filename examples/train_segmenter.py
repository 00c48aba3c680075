"""The second stage: train a segmenter on a folder of refined masks, and score it.

What ``dhr-refine masks`` has written goes in; the masks of several methods are compared by what they teach::

    dhr-refine masks VOC2012 --cams cams --uss dino --list train_aug.txt --out refined
    python examples/train_segmenter.py train --images VOC2012 --masks refined --list train_aug.txt \
        --network nvidia/mit-b2 --steps 40000 --batch 16 --crop 512 --device cuda --amp --workers 8 --out run
    python examples/train_segmenter.py evaluate run --images VOC2012 --targets VOC2012 --list val.txt \
        --scales 0.5,0.75,1,1.25,1.5,1.75 --flip --crf --device cuda --json run.json
    python examples/train_segmenter.py table base=base.json refined=run.json truth=truth.json

On several processes: ``torchrun --nproc-per-node 4 examples/train_segmenter.py train ...``.

Nothing depends on how often the run was stopped: what a step draws, crops and dropped units, follows from the
seed and the position in the run. docs/second_stage.md goes through it and has results; the folder
``second_stage`` holds the data, the networks and the evaluation, ``wss`` the loop's surroundings.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from early_stop import end_at_ctrl_c

if __name__ == "__main__":
    hear_again = end_at_ctrl_c("train_segmenter")

import numpy as np
import torch
from second_stage.data import Crops, collate, find_pairs
from second_stage.evaluation import evaluate
from second_stage.networks import NAMES, build
from second_stage.table import arm, table
from torch.nn.parallel import DistributedDataParallel
from wss.arguments import add_run, device
from wss.loop import autocast, descend, diverged, first_positions, grad_scaler, load_batches
from wss.networks import parameter_groups
from wss.run import Run

from dhr_refine.commands.arguments import Parser, number, whole
from dhr_refine.errors import UserError, run_command
from dhr_refine.training import has_labels


def train(options: argparse.Namespace, run: Run) -> None:
    """Train; keep checkpoints and a log."""
    firsts = first_positions(options, run)
    pairs, skipped = find_pairs(options.images, options.masks, options.list, options.classes)
    run.say(f"{len(pairs)} images to train on; {skipped} have no mask and are left out")
    with seeded(run.device, options.seed):
        model = build(options.network, options.classes, untrained=options.untrained)
    if run.many and run.device.type == "cuda":  # gloo has no such norm: there each process has its own
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)
    model.train().to(run.device)
    groups = parameter_groups(model, options.lr, *model.slow)
    optimiser = torch.optim.AdamW(groups, weight_decay=options.weight_decay)
    parts = {"model": model, "optimiser": optimiser, "scaler": grad_scaler(options, run.device)}
    start = run.resume(**parts)
    network = model
    if run.many:
        network = DistributedDataParallel(model, find_unused_parameters=not model.all_used)
    crops = Crops(pairs, crop=options.crop, longer=options.longer, seed=options.seed)
    batches = load_batches(crops, firsts[start:], options, run, collate)
    for step in run.track(range(start, options.steps), "training", done=start):
        clock = time.perf_counter()
        batch = next(batches).to(run.device)
        with seeded(run.device, options.seed, step, run.rank), autocast(options, run.device):
            loss = network(batch.images, batch.masks)
        values = run.mean(loss, has_labels(batch.masks).float().mean())
        if not all(map(math.isfinite, values)):
            raise UserError(diverged(step))
        decay = descend(loss, optimiser, parts["scaler"], step / options.steps)
        row = {"step": step, "loss": values[0], "labelled_crops": values[1], "lr": options.lr * decay}
        run.log("log", {**row, "seconds": time.perf_counter() - clock})
        if (step + 1) % options.save_every == 0 or step + 1 == options.steps:
            run.save(step + 1, **parts)
            run.say(f"step {step + 1:6d}  loss {values[0]:.4f}")


@contextmanager
def seeded(device: torch.device, *seeds: int) -> Iterator[None]:
    """The global generators as these numbers have them, and afterwards as they were: networks drop units."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(int(np.random.SeedSequence(seeds).generate_state(1, np.uint64)[0]))
        yield


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = Parser("train_segmenter", description=(__doc__ or "").split("\n")[0])
    verbs = result.add_subparsers(dest="verb", required=True, metavar="train | evaluate | table")
    _add_train(verbs.add_parser("train", help="train on a folder of masks"))
    _add_evaluate(verbs.add_parser("evaluate", help="score a run against ground truth"))
    p = verbs.add_parser("table", help="runs on several kinds of masks side by side")
    p.add_argument(
        "arms", type=arm, nargs="+", metavar="NAME=JSON[,JSON]", help="three or more: base first, truth last"
    )
    p.add_argument("--labels", type=numbers(int), help="labels that mIoU averages over (all)")
    p.add_argument("--draws", type=whole(1, 10**7), default=1000, help="resamples of the bootstrap (1000)")
    return result


def _add_train(p: argparse.ArgumentParser) -> None:
    p.add_argument("--images", type=Path, required=True, help="folder of images, or a data set's")
    p.add_argument(
        "--masks", type=Path, required=True, help="folder of masks: PNG, .npy or .npz, 255 ignored"
    )
    p.add_argument("--list", type=Path, help="images in a text file, one a line (all that have a mask)")
    p.add_argument("--classes", type=whole(2, 65536), default=21, help="labels with the background (21)")
    p.add_argument(
        "--out", type=Path, default=Path("second-stage"), help="logs and checkpoints (%(default)s)"
    )
    p.add_argument("--network", default="lite0", help=f"{NAMES} (lite0)")
    p.add_argument("--untrained", action="store_true", help="start from random weights")
    rate = number(0, above=True)
    p.add_argument(
        "--lr", type=rate, default=1e-3, help="rate of the head, a tenth for the rest (%(default)s)"
    )
    p.add_argument("--weight-decay", type=number(0), default=0.01, help="of AdamW (%(default)s)")
    p.add_argument(
        "--longer", type=numbers(float), default=(0.5, 2.0), help="range of the longer side, in crops (0.5,2)"
    )
    add_run(p)


def _add_evaluate(p: argparse.ArgumentParser) -> None:
    p.add_argument("run", type=Path, metavar="RUN", help="the --out of a training run")
    p.add_argument("--images", type=Path, required=True, help="folder of images, or a data set's")
    p.add_argument("--targets", type=Path, required=True, help="folder of ground truth, or a data set's")
    p.add_argument("--list", type=Path, help="images in a text file, one a line (all that have a target)")
    p.add_argument("--limit", type=whole(1), help="only the first images")
    p.add_argument("--size", type=whole(1), help="longer side of an image at scale 1 (its own)")
    p.add_argument("--scales", type=numbers(float), default=(1.0,), help="scales to average over (1)")
    p.add_argument("--flip", action="store_true", help="average over mirrored images")
    p.add_argument("--crf", action="store_true", help="a dense CRF before the argmax")
    p.add_argument("--tags", type=Path, help="image tags that restrict the classes")
    p.add_argument("--labels", type=numbers(int), help="labels that mIoU averages over (all)")
    p.add_argument("--trained-on", action="store_true", help="also score the masks that it was trained on")
    p.add_argument("--save-masks", type=Path, metavar="DIR", help="write the last masks of each image there")
    p.add_argument("--json", type=Path, metavar="FILE", help="file for all numbers")
    p.add_argument("--device", type=device, default="cpu", help="cpu, cuda or cuda:N (%(default)s)")


def numbers(kind: type):
    """Type of an argument: numbers with commas, labels or factors above 0."""

    def parse(text: str) -> tuple:
        one = whole(0, 65535) if kind is int else number(0, 100, above=True)
        return tuple(one(part) for part in text.split(","))

    return parse


def main(argv: Sequence[str] | None = None) -> int:
    """Train, evaluate, or compare; an error that the user can mend is one line."""
    options = parser().parse_args(argv)
    if options.verb == "train" and (len(options.longer) != 2 or options.longer[0] > options.longer[1]):
        parser().error(f"--longer must be a smaller and a larger number, got {options.longer}")

    def job() -> None:
        if options.verb == "evaluate":
            evaluate(options)
        elif options.verb == "table":
            print(table(options.arms, options.labels, options.draws))
        else:
            with Run(options) as run:
                train(options, run)

    again = ""
    if options.verb == "train":
        again = f"; with --resume it goes on from the last checkpoint in {options.out}"
    return run_command("train_segmenter", job, stopped=f"stopped{again}")


if __name__ == "__main__":
    hear_again()
    sys.exit(main())
