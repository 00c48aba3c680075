"""What a trained segmenter makes of an image: at one scale, over scales and flips, after the dense CRF."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from dhr_refine import dense_crf
from dhr_refine.pretrained.preparing import to_multiple
from second_stage.networks import Network

SINGLE, SCALES, CRF = KINDS = ("single scale", "scales and flip", "after the CRF")


@torch.no_grad()
def predict(
    network: Network, image: Tensor, options: argparse.Namespace, tags: Iterable[int] | None = None
) -> dict[str, Tensor]:
    """Masks (H, W) int64 of an image (3, H, W) uint8, for each of ``KINDS`` that the options ask for.

    With the tags of the image (foreground classes from 0) all other classes are left out before each argmax
    and before the CRF.
    """
    allowed = None if tags is None else torch.tensor([0, *sorted(tag + 1 for tag in tags)])
    maps = {SINGLE: average(network, image, (1.0,), flip=False, size=options.size)}
    if options.flip or tuple(options.scales) != (1.0,):
        maps[SCALES] = average(network, image, options.scales, flip=options.flip, size=options.size)
    if options.crf:
        maps[CRF] = [*maps.values()][-1]
    return {kind: decide(image, probs, allowed, crf=kind == CRF) for kind, probs in maps.items()}


def average(
    network: Network, image: Tensor, scales: Sequence[float], *, flip: bool, size: int | None
) -> Tensor:
    """Mean probabilities (C, H, W) over scales of the image, and over both flips.

    ``size`` is the longer side in pixels that scale 1 means, by default the image's own.
    """
    longest = size or max(image.shape[-2:])
    total, height, width = 0, *image.shape[-2:]
    for scale in scales:
        images = to_multiple(image[None], network.multiple, longest=round(scale * longest))
        total = total + network.probabilities(images, (height, width))[0]
        if flip:
            total = total + network.probabilities(images.flip(-1), (height, width))[0].flip(-1)
    return total / (len(scales) * (1 + flip))


def decide(image: Tensor, probs: Tensor, allowed: Tensor | None, *, crf: bool) -> Tensor:
    """The mask (H, W), of the allowed labels, with or without a dense CRF before the argmax."""
    labels = torch.arange(len(probs)) if allowed is None else allowed
    labels = labels.to(probs.device)
    chosen = probs[labels]
    if crf and len(labels) > 1:
        chosen = chosen / chosen.sum(0).clamp_min(1e-12)
        chosen = dense_crf(image, chosen, min_prob=1e-3)  # of many classes few occur in an image
    return labels[chosen.argmax(0)]
