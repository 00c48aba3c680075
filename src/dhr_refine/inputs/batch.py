"""Images of one size, checked once, in the uniform form that the steps compute on."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import (
    check_filled,
    check_levels,
    check_same,
    check_tensor,
    describe,
    float32_norm,
    raise_magnitude,
)
from .boxes import Box, mark_inside, read_boxes
from .images import read_images
from .labels import check_ignored, check_labels, choose_classes, pad, read_labels, width_of
from .options import Options
from .request import Request
from .tags import label_entries, read_tags

# Mask labels are counted in a table of this size, one more pass than none: 8-bit masks always fit.
_LABELS = 256


class Batch(NamedTuple):
    """Images of one size, with the classes of each image brought to the front and nothing else kept."""

    cams: Tensor  # (B, T, h, w) float32, CAMs of the tags; padded with zeros
    tags: list[int]  # number of tags of each image, on the host
    labels: Tensor  # (B, H, W) base mask in local class numbers, K = takes no part
    classes: Tensor  # (B, K) int64 mask label of each local class, -1 = padding
    counts: list[int]  # number of classes of each image, on the host
    base_pixels: Tensor  # (B, K) pixels of each class in the base mask
    background: int | None  # local number of the background
    base: Tensor  # (B, H, W) int64 base mask, ignore outside the boxes
    inside: Tensor | None  # (B, H, W) bool; None = every pixel
    boxes: list[Box]
    uss: Tensor  # (B, D, u, v)
    wss: list[Tensor]
    images: Tensor | None  # (B, 3, H, W) uint8

    @property
    def absent(self) -> int:
        """K, in local class numbers: takes part in nothing."""
        return self.classes.shape[1]


def read_batch(request: Request, options: Options) -> Batch:
    """Check one group of images and bring it to :class:`Batch` (waits for the device three times)."""
    masks, cams, uss, wss = _check_maps(request)
    images = read_images(request.images, masks, options.mean, options.std, options.needs_images)
    boxes = read_boxes(request.boxes, options.box_format, masks)
    inside = mark_inside(boxes, masks)
    base = masks.long()
    if inside is not None:
        base = torch.where(inside, base, options.ignore_index)

    background, ignore_index = options.background, options.ignore_index
    entries = label_entries(request.labels, masks.shape[0])
    labels = read_labels(base, _table_size(cams.shape[1], entries), ignore_index)
    tags = read_tags(entries, labels.counts, cams.shape[1], background)
    check_labels(labels.counts, tags, background, ignore_index)
    check_ignored(tags, background, ignore_index)
    ids = choose_classes(tags, labels, background, all_labels=options.all_labels)
    return Batch(
        cams=_gather(cams, tags.channels),
        tags=[len(own) for own in tags.chosen],
        labels=labels.localise(ids),
        classes=pad(ids, masks.device, width=width_of(ids)),
        counts=[len(own) for own in ids],
        base_pixels=labels.of_classes(ids),
        background=None if background == "none" else 0,
        base=base,
        inside=inside,
        boxes=boxes,
        uss=uss,
        wss=wss,
        images=images,
    )


def _check_maps(request: Request) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Masks, CAMs, USS features and levels of WSS features, of one batch size and device, without NaN."""
    masks = check_tensor(request.masks, "masks", "(B, H, W)", ndim=3)
    cams = check_tensor(request.cams, "cams", "(B, C, h, w)", ndim=4, floating=True)
    uss = check_tensor(request.uss, "uss_features", "(B, D, h, w)", ndim=4, floating=True)
    levels = check_levels(request.wss, "wss_features")
    for value, name in ((masks, "masks"), (cams, "cams"), (uss, "uss_features")):
        check_filled(value, name)
    check_same(cams, "cams", masks, "masks")
    check_same(uss, "uss_features", masks, "masks")
    for position, level in enumerate(levels):
        check_same(level, f"wss_features[{position}]", masks, "masks")
    if masks.dtype == torch.bool or masks.is_complex():
        raise TypeError(f"masks must hold labels, got {describe(masks)}: pass integers")
    _check_values([cams, uss, *levels], ["cams", "uss_features", *_level_names(levels)], masks)
    return masks, cams, uss, levels


def _level_names(levels: list[Tensor]) -> list[str]:
    return [f"wss_features[{i}]" if len(levels) > 1 else "wss_features" for i in range(len(levels))]


def _check_values(tensors: list[Tensor], names: list[str], masks: Tensor) -> None:
    """Refuse NaN, infinity and fractional labels with a single wait for the device."""
    # Only features are squared (for their cosines); CAMs may be as large as float32 goes.
    checks = [float32_norm(t, math.inf if name == "cams" else 2) for t, name in zip(tensors, names)]
    if masks.is_floating_point():
        checks.append(torch.where(masks - masks.round() == 0, 0.0, math.inf).sum())
        names, tensors = [*names, "masks"], [*tensors, masks]
    for name, tensor, total in zip(names, tensors, torch.stack(checks).tolist()):
        if math.isfinite(total):
            continue
        if name == "masks":
            raise ValueError("masks holds values that are no whole numbers: pass labels, not probabilities")
        raise_magnitude(tensor, name)


def _gather(cams: Tensor, channels: list[list[int]]) -> Tensor:
    """(B, T, h, w) float32 CAMs of the given channels of each image, zeros where an image has fewer."""
    index = pad(channels, cams.device)
    picked = torch.take_along_dim(cams.detach(), index.clamp_min(0)[:, :, None, None], dim=1).float()
    return picked.masked_fill(index[:, :, None, None] < 0, 0.0)


def _table_size(channels: int, entries: list[list[int] | np.ndarray] | None) -> int:
    """Labels that a class may have, at least."""
    size = max(_LABELS, channels + 2)
    if entries is not None:
        # Tags that name the channels of compact CAMs may lie beyond both.
        size = max(size, *(max(e, default=0) + 3 if isinstance(e, list) else len(e) + 2 for e in entries), 0)
    return size
