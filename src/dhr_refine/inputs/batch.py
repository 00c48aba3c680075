"""Images of one size, checked once, in the uniform form that the steps compute on."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import float32_norm, raise_magnitude, warn
from ..discriminant import ClassDiscriminant
from .boxes import Box, mark_inside, read_boxes
from .images import read_images
from .labels import MaskLabels, check_ignored, check_labels, choose_classes, pad, read_labels, width_of
from .options import Options
from .request import Group
from .slips import Evidence
from .tags import Tags, read_tags, tags_of_masks

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
    evidence: Evidence  # what may show a slip of the caller

    @property
    def absent(self) -> int:
        """K, in local class numbers: takes part in nothing."""
        return self.classes.shape[1]


def read_batch(group: Group, options: Options) -> Batch:
    """Check the values of one group and bring it to :class:`Batch` (waits for the device three times)."""
    masks, names, background, ignore_index = (
        group.masks,
        group.names,
        options.background,
        options.ignore_index,
    )
    _check_values(group)
    images = extent = None
    if group.images is not None:
        images, extent = read_images(group.images, masks.shape[1:], options.mean, options.std, names)
    boxes = read_boxes(group.boxes, options.box_format, masks, names)
    inside = mark_inside(boxes.boxes, masks)
    base = masks.long()
    if inside is not None:
        base = torch.where(inside, base, ignore_index)

    labels, tags = _read_classes(base, group, options)
    check_labels(labels.counts, tags, background, ignore_index, names)
    check_ignored(tags, background, ignore_index)
    found = [labels.found(image) for image in range(len(tags.chosen))]
    ids = choose_classes(tags, found if options.all_labels else None, background)
    if options.known is not None:
        _check_memory(group, ids, tags.foreground, options.known)
    evidence = Evidence(
        names=names,
        size=masks.shape[1:],
        maps=[(argument, level, tensor.shape[1:]) for argument, level, tensor in _maps(group)],
        found=found,
        tags=None if group.labels is None else tags.labels(background),
        foreground=tags.foreground,
        boxes=boxes,
        extent=extent,
        mean=options.mean,
    )
    return Batch(
        cams=gather_cams(group.cams, tags.channels),
        tags=[len(own) for own in tags.chosen],
        labels=labels.localise(ids),
        classes=pad(ids, masks.device, width=width_of(ids)),
        counts=[len(own) for own in ids],
        base_pixels=labels.of_classes(ids),
        background=None if background == "none" else 0,
        base=base,
        inside=inside,
        boxes=boxes.boxes,
        uss=group.uss,
        wss=group.wss,
        images=images,
        evidence=evidence,
    )


def _read_classes(base: Tensor, group: Group, options: Options) -> tuple[MaskLabels, Tags]:
    """The labels of the base masks and the tags of each image, which may tell of each other."""
    background, names, channels = options.background, group.names, group.cams.shape[1]
    near = max(_LABELS, channels + 2)
    if group.labels is None:
        labels = read_labels(base, near, options.ignore_index, names, far=[], open_ended=False)
        warn(
            "refine_mask was called without labels: the classes present in masks stand in for the tags, so "
            "classes that vanished from a base mask cannot come back. Pass labels."
        )
        return labels, tags_of_masks(labels.counts, channels, background)
    tags = read_tags(group.labels, group.cams.shape[1:], background, names)
    near = max(near, 0 if tags.foreground is None else tags.foreground + 2)
    # Tags that name the channels of CAMs of the tags alone may lie beyond any table.
    far = sorted({label for own in tags.labels(background) for label in own if label >= near})
    open_ended = tags.foreground is None
    return read_labels(base, near, options.ignore_index, names, far=far, open_ended=open_ended), tags


def _check_memory(
    group: Group, ids: list[list[int]], foreground: int | None, known: ClassDiscriminant
) -> None:
    """Raise where a memory is not of these features or classes."""
    dim = group.uss.shape[1]
    if dim != known.dim:
        raise ValueError(
            f"{group.names.of('uss_features')} has {dim} channels but memory has dim {known.dim}: pass the "
            "features that the memory was made of"
        )
    classes = known.num_classes - (0 if known.background == "none" else 1)
    highest = max((label for own in ids for label in own), default=0)
    if (foreground is not None and foreground != classes) or highest >= known.num_classes:
        came, count = f"a class has the label {highest}", highest + 1
        if foreground is not None:
            came, count = f"there are {foreground}", known.num_classes - classes + foreground
        raise ValueError(
            f"memory has {classes} foreground classes but {came}: pass the memory of this data set, "
            f"ClassMemory(num_classes={count}, ...)"
        )


def _check_values(group: Group) -> None:
    """Refuse NaN, infinity and fractional labels with a single wait for the device."""
    maps = _maps(group)
    if group.masks.is_floating_point():
        maps.append(("masks", "", group.masks))
    totals = torch.stack([_measure(argument, tensor) for argument, _, tensor in maps]).tolist()
    for (argument, level, tensor), total in zip(maps, totals):
        if math.isfinite(total):
            continue
        rows = [math.isfinite(float(_measure(argument, one))) for one in tensor]
        row = rows.index(False) if False in rows else 0
        name = group.names.of(argument, row) + level
        if argument == "masks":
            raise ValueError(f"{name} holds values that are no whole numbers: pass labels, not probabilities")
        raise_magnitude(tensor if group.names.structure == "batch" else tensor[row], name)


def _maps(group: Group) -> list[tuple[str, str, Tensor]]:
    """The floating point maps: argument, which level of it, tensor."""
    levels = [("wss_features", f"[{i}]" * (len(group.wss) > 1), level) for i, level in enumerate(group.wss)]
    return [("cams", "", group.cams), ("uss_features", "", group.uss), *levels]


def _measure(argument: str, tensor: Tensor) -> Tensor:
    """A number that is not finite where a tensor is not what its argument allows."""
    if argument == "masks":
        return torch.where(tensor - tensor.round() == 0, 0.0, math.inf).sum()
    # Only features are squared (for their cosines); CAMs may be as large as float32 goes.
    return float32_norm(tensor, math.inf if argument == "cams" else 2)


def gather_cams(cams: Tensor, channels: list[list[int]]) -> Tensor:
    """(B, T, h, w) float32 CAMs of the given channels of each image, zeros where an image has fewer."""
    index = pad(channels, cams.device)
    picked = torch.take_along_dim(cams.detach(), index.clamp_min(0)[:, :, None, None], dim=1).float()
    return picked.masked_fill(index[:, :, None, None] < 0, 0.0)
