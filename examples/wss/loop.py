"""What a training loop needs around its step: the share of a batch, the loss, precision, the descent."""

from __future__ import annotations

import argparse
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dhr_refine.errors import UserError
from wss.run import Run

IGNORE = 255


def first_positions(options: argparse.Namespace, run: Run) -> range:
    """Where this process begins in every step: it takes an equal part of each batch."""
    if options.batch % run.world:
        raise UserError(
            f"--batch {options.batch} cannot be split over {run.world} processes: pass a multiple"
        )
    return range(run.rank * options.batch // run.world, options.steps * options.batch, options.batch)


def load_batches(
    crops: Dataset[Any],
    firsts: Sequence[int],
    options: argparse.Namespace,
    run: Run,
    collate: Callable[..., Any],
) -> Iterator[Any]:
    """The batches of this process, from those first positions on."""
    share = options.batch // run.world
    loader = DataLoader(
        crops,
        batch_sampler=(range(first, first + share) for first in firsts),  # type: ignore[arg-type]
        collate_fn=collate,
        num_workers=options.workers,
        multiprocessing_context="spawn" if options.workers else None,
        generator=torch.Generator(),  # unused, but without it the global one is drawn from
    )
    with deaf(options.workers > 0):
        return iter(loader)


def pixel_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy of logits (B, C, h, w) with masks (B, H, W), 255 ignored.

    It is the mean over crops of the mean over a crop's labelled pixels. So a crop that is all ignore
    counts 0 where the usual mean over all pixels may be NaN, and the mean over processes, which
    DistributedDataParallel takes of the gradients, is the mean over all crops, as in a single process.
    """
    logits = F.interpolate(logits.float(), masks.shape[-2:], mode="bilinear")
    pixels = F.cross_entropy(logits, masks, ignore_index=IGNORE, reduction="none").flatten(1).sum(1)
    labelled = (masks != IGNORE).flatten(1).sum(1)
    return (pixels / labelled.clamp_min(1)).mean()


def autocast(options: argparse.Namespace, device: torch.device) -> torch.autocast:
    """bfloat16 on a CPU, float16 on a GPU, with ``--amp``. refine_mask is float32 in any case."""
    dtype = torch.bfloat16 if device.type == "cpu" else torch.float16
    return torch.autocast(device.type, dtype=dtype, enabled=options.amp)


def grad_scaler(options: argparse.Namespace, device: torch.device) -> torch.amp.GradScaler:
    """Scales the loss where ``--amp`` means float16, else does nothing."""
    return torch.amp.GradScaler(device.type, enabled=options.amp and device.type == "cuda")


def descend(
    loss: Tensor, optimiser: torch.optim.Optimizer, scaler: torch.amp.GradScaler, done: float
) -> float:
    """One step down the gradients, at rates that fall with the share of the run that is done; the factor."""
    decay = (1 - done) ** 0.9
    for group in optimiser.param_groups:
        group["lr"] = group["initial_lr"] * decay
    optimiser.zero_grad()
    scaler.scale(loss).backward()
    scaler.step(optimiser)
    scaler.update()
    return decay


def diverged(step: int) -> str:
    """What to say when numbers are NaN or infinite."""
    return f"the network or the loss is not finite at step {step}: lower --lr, and leave out --amp"


@contextmanager
def deaf(wanted: bool) -> Iterator[None]:
    """Child processes started inside do not hear Ctrl-C: this one ends them, and speaks alone."""
    if not wanted or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
