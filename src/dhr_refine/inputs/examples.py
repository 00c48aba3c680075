"""Labelled features without CAMs: features, masks, tags and boxes in the forms that refine_mask takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import (
    check_data,
    check_filled,
    check_magnitude,
    check_same,
    check_tensor,
    unbound,
)
from ..pooling import check_mask, count_labels
from .boxes import BoxFormat, mark_inside, read_boxes
from .labels import check_ignored, choose_classes
from .names import Names, check_entries
from .tags import Background, Entry, Tags, read_entries, tags_of_classes, tags_of_masks


class Examples(NamedTuple):
    """Images of one size, checked."""

    features: Tensor  # (B, D, h, w)
    labels: Tensor  # (B, H, W) int64 mask, num_classes = takes no part
    ids: list[list[int]]  # mask labels of each image's classes, on the host


class Form(NamedTuple):
    """What the data set allows, and how the caller writes it."""

    num_classes: int  # mask labels, the background included
    dim: int  # channels of the features
    background: Background
    ignore_index: int
    box_format: BoxFormat | None


def read_examples(features: Any, masks: Any, labels: Any, boxes: Any, form: Form) -> Iterator[Examples]:
    """Check a batch, one image or lists of images; lists come image by image.

    ``labels`` None: the classes that the masks carry. Waits for the device twice for each result, three times
    without tags.
    """
    features, masks = unbound(features), unbound(masks)
    if isinstance(masks, Sequence) and not isinstance(masks, (str, bytes)):
        names = Names("list", list(range(len(masks))))
        entries = read_entries(labels, names)
        check_entries("uss_features", features, len(masks))
        check_entries("boxes", boxes, len(masks))
        for i, mask in enumerate(masks):
            own = None if entries is None else [entries[i]]
            box = None if boxes is None else [boxes[i]]
            feature = None if features is None else features[i]
            yield _read(feature, mask, own, box, Names("list", [i]), form)
        return
    name = "masks"
    masks = check_tensor(masks, name, "(B, H, W) or (H, W), or a list of (H, W)", ndim=(2, 3))
    single = masks.ndim == 2
    names = Names("single", [0]) if single else Names("batch", list(range(masks.shape[0])))
    entries = read_entries(labels, names)
    boxes = None if boxes is None else [boxes] if single else boxes
    yield _read(features, masks, entries, boxes, names, form)


def _read(
    features: Any, masks: Any, entries: list[Entry] | None, boxes: Any, names: Names, form: Form
) -> Examples:
    batched = names.structure == "batch"
    name, mask_name = names.of("uss_features"), names.of("masks")
    features = check_tensor(features, name, names.shape("D", "h", "w"), ndim=3 + batched, floating=True)
    masks = check_tensor(masks, mask_name, names.shape("H", "W"), ndim=2 + batched)
    for tensor, of in ((features, name), (masks, mask_name)):
        check_filled(tensor, of, batched=batched)
        check_data(tensor, of)
    check_same(masks, mask_name, features, name, batched=batched)
    features = features if batched else features[None]
    masks = masks if batched else masks[None]
    if features.shape[1] != form.dim:
        fix = f"that it was made of, or make one with ClassMemory({form.num_classes}, {features.shape[1]})"
        if features.shape[-1] == form.dim:
            fix = f"with the channels first, {name}.movedim(-1, -3)"
        raise ValueError(
            f"{name} has {features.shape[1]} channels but the memory has dim {form.dim}: pass the features "
            f"{fix}"
        )
    check_magnitude(features, name)
    masks = check_mask(masks, mask_name, num_classes=form.num_classes, ignore_index=form.ignore_index)
    taken = masks != form.ignore_index
    inside = mark_inside(read_boxes(boxes, form.box_format, masks, names).boxes, masks)
    if inside is not None:
        taken &= inside
    masks = torch.where(taken, masks, form.num_classes)
    tags = _read_tags(entries, masks, names, form)
    check_ignored(tags, form.background, form.ignore_index)
    ids = choose_classes(tags, None, form.background)
    return Examples(features, masks, ids)


def _read_tags(entries: list[Entry] | None, masks: Tensor, names: Names, form: Form) -> Tags:
    foreground = form.num_classes - (0 if form.background == "none" else 1)
    if entries is not None:
        return tags_of_classes(entries, foreground, names)
    counts = count_labels(masks.flatten(1), form.num_classes + 1).cpu().numpy()
    return tags_of_masks(counts, foreground, form.background)
