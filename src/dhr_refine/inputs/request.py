"""A call as it came (a batch, one image, or lists): its shapes are checked, images of one size grouped."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import (
    check_data,
    check_filled,
    check_levels,
    check_same,
    check_tensor,
    describe,
    unbound,
)
from ..edges import names_of_tools
from .names import Names, check_entries
from .tags import Entry, read_entries


class Request(NamedTuple):
    """A call as it came."""

    cams: Any
    masks: Any
    uss: Any
    wss: Any
    images: Any
    labels: Any
    boxes: Any


class Group(NamedTuple):
    """Images of one size, each tensor with a batch axis: kinds, shapes and devices are checked."""

    cams: Tensor  # (B, C, h, w)
    masks: Tensor  # (B, H, W)
    uss: Tensor  # (B, D, u, v)
    wss: list[Tensor]
    images: Tensor | None  # (B, 3, H, W) or (B, H, W, 3), as it came
    labels: list[Entry] | None
    boxes: Any  # one entry per image, or None
    names: Names


def read_groups(request: Request, *, needs_images: bool) -> list[Group]:
    """Check the shapes of a call and split it into groups of images of one size."""
    request = Request(*map(unbound, request))
    masks = request.masks
    if isinstance(masks, Sequence) and len(masks) == 0:
        raise TypeError("masks must hold at least one mask, got an empty list: pass a list of (H, W)")
    if not isinstance(masks, Sequence):
        lists = "" if isinstance(masks, Tensor) else ", or a list of (H, W)"
        check_tensor(masks, "masks", "(B, H, W) or (H, W)" + lists, ndim=(2, 3))
        if masks.ndim == 3:
            names = Names("batch", list(range(masks.shape[0])))
            return [_check(request, read_entries(request.labels, names), names, needs_images)]
        names = Names("single", [0])
        one = request._replace(boxes=None if request.boxes is None else [request.boxes])
        return [_check(one, read_entries(request.labels, names), names, needs_images)]
    items = _split_items(request, needs_images)
    groups: dict[tuple, list[Group]] = {}
    for item in items:
        groups.setdefault(_shape_key(item), []).append(item)
    return [_stack(members) for members in groups.values()]


def _check(request: Request, labels: list[Entry] | None, names: Names, needs_images: bool) -> Group:
    """Check the tensors of a batch or one image, in the caller's words, and give one image a batch axis."""
    batched = names.structure == "batch"
    mask_name = names.of("masks")
    beside = "" if batched else f" as {mask_name} is (H, W)"

    def check(value: Any, argument: str, *axes: str, floating: bool) -> Tensor:
        name = names.of(argument)
        tensor = check_tensor(
            value, name, names.shape(*axes) + beside, ndim=len(axes) + batched, floating=floating
        )
        # CAMs of the tags alone have no channel where there is no tag.
        if argument != "cams" or 0 in tensor.shape[-2:]:
            check_filled(tensor, name, batched=batched)
        check_same(tensor, name, masks, mask_name, batched=batched)
        return tensor if batched else tensor[None]

    masks = check_tensor(request.masks, mask_name, names.shape("H", "W"), ndim=2 + batched)
    check_filled(masks, mask_name, batched=batched)
    check_data(masks, mask_name)
    if masks.dtype == torch.bool or masks.is_complex():
        raise TypeError(f"{mask_name} must hold labels, got {describe(masks)}: call .long() on it")
    cams = check(request.cams, "cams", "C", "h", "w", floating=True)
    uss = check(request.uss, "uss_features", "D", "h", "w", floating=True)
    wss_name = names.of("wss_features")
    levels = check_levels(request.wss, wss_name, names.shape("D", "h", "w") + beside, batched=batched)
    for position, level in enumerate(levels):
        name = wss_name if isinstance(request.wss, Tensor) else f"{wss_name}[{position}]"
        check_same(level, name, masks, mask_name, batched=batched)
    images = request.images
    if images is not None:
        images = check(images, "images", "3", "H", "W", floating=False)
    elif needs_images:
        raise ValueError(
            f"{names.of('images')} must be given for boundary={names_of_tools()}: pass the images, or "
            "boundary=None"
        )
    if not batched:
        masks, levels = masks[None], [level[None] for level in levels]
    return Group(cams, masks, uss, levels, images, labels, request.boxes, names)


def _split_items(request: Request, needs_images: bool) -> list[Group]:
    """A call on lists, image by image, each with a batch axis of one."""
    count = len(request.masks)

    def entry(argument: str, value: Any, position: int) -> Any:
        check_entries(argument, value, count)
        return None if value is None else value[position]

    labels = read_entries(request.labels, Names("list", list(range(count))))
    items = []
    for i in range(count):
        one = Request(
            entry("cams", request.cams, i),
            request.masks[i],
            entry("uss_features", request.uss, i),
            entry("wss_features", request.wss, i),
            entry("images", request.images, i),
            None,
            None if request.boxes is None else [entry("boxes", request.boxes, i)],
        )
        own = None if labels is None else [labels[i]]
        items.append(_check(one, own, Names("list", [i]), needs_images))
    return items


def _shape_key(item: Group) -> tuple:
    tensors = (item.cams, item.masks, item.uss, *item.wss, item.images)
    return tuple(None if t is None else (tuple(t.shape), t.dtype, t.device) for t in tensors)


def _stack(items: list[Group]) -> Group:
    """Images of one size and kind as one group."""
    images = [item.images for item in items if item.images is not None]
    labels = [item.labels[0] for item in items if item.labels is not None]
    return Group(
        cams=torch.cat([item.cams for item in items]),
        masks=torch.cat([item.masks for item in items]),
        uss=torch.cat([item.uss for item in items]),
        wss=[torch.cat(level) for level in zip(*(item.wss for item in items), strict=True)],
        images=torch.cat(images) if images else None,
        labels=labels or None,
        boxes=None if items[0].boxes is None else [item.boxes[0] for item in items],
        names=Names("list", [item.names.where[0] for item in items]),
    )
