"""CAMs and tags without a mask yet: a batch, one image, or lists, in the forms that refine_mask takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..checks import (
    check_data,
    check_filled,
    check_finite,
    check_same,
    check_tensor,
    raise_magnitude,
    read_ints,
    unbound,
)
from ..edges import names_of_tools
from .batch import gather_cams
from .boxes import Box, BoxFormat, mark_inside, read_boxes
from .images import read_images
from .labels import check_ignored
from .names import Names, check_entries
from .tags import read_entries, read_tags


class CamCall(NamedTuple):
    """A call as it came."""

    cams: Any
    labels: Any
    images: Any
    size: Any
    boxes: Any


class CamForm(NamedTuple):
    """How the caller writes it, and whether images are needed."""

    box_format: BoxFormat | None
    ignore_index: int
    mean: Sequence[float] | None
    std: Sequence[float] | None
    needs_images: bool


class CamGroup(NamedTuple):
    """Images of one size, checked."""

    names: Names
    cams: Tensor  # (B, T, h, w) float32, CAMs of the tags; padded with zeros
    labels: list[list[int]]  # mask labels of the tags of each image, background 0
    images: Tensor | None  # (B, 3, H, W) uint8
    boxes: list[Box]
    inside: Tensor | None  # (B, H, W) bool; None = every pixel
    blank: Tensor  # (B, H, W) int64, all ignore_index
    ignore_index: int


def read_cam_groups(call: CamCall, form: CamForm) -> Iterator[CamGroup]:
    """Check a batch or one image, which gives one group, or lists, which come image by image."""
    call = CamCall(*map(unbound, call))
    cams = call.cams
    if not isinstance(cams, Sequence) or isinstance(cams, (str, bytes)):
        lists = "" if isinstance(cams, Tensor) else ", or a list of (C, h, w)"
        cams = check_tensor(cams, "cams", "(B, C, h, w) or (C, h, w)" + lists, ndim=(3, 4), floating=True)
        if cams.ndim == 4:
            yield _read(call, Names("batch", list(range(cams.shape[0]))), form)
        else:
            boxes = None if call.boxes is None else [call.boxes]
            yield _read(call._replace(boxes=boxes), Names("single", [0]), form)
        return
    count = len(cams)
    if count == 0:
        raise TypeError("cams must hold at least one image, got an empty list: pass a list of (C, h, w)")
    beside = {"labels": call.labels, "images": call.images, "size": call.size, "boxes": call.boxes}
    for argument, value in beside.items():
        if argument != "labels":
            check_entries(argument, value, count, beside="cams")
    read_entries(
        call.labels, Names("list", list(range(count))), beside="cams"
    )  # forms that do not go together
    for i in range(count):
        one = CamCall(cams[i], *(None if value is None else value[i] for value in beside.values()))
        labels = None if call.labels is None else [one.labels]
        boxes = None if call.boxes is None else [one.boxes]
        yield _read(one._replace(labels=labels, boxes=boxes), Names("list", [i]), form)


def _read(call: CamCall, names: Names, form: CamForm) -> CamGroup:
    batched = names.structure == "batch"
    name = names.of("cams")
    cams = check_tensor(call.cams, name, names.shape("C", "h", "w"), ndim=3 + batched, floating=True)
    if 0 in cams.shape[-2:]:  # CAMs of the tags alone have no channel where there is no tag
        check_filled(cams, name, batched=batched)
    check_data(cams, name)
    images, size = _read_images(call, cams, names, form)
    cams = cams if batched else cams[None]
    entries = read_entries(call.labels, names, beside="cams")
    if entries is None:
        raise TypeError(
            "labels must be the tags of each image, got None: pass multi-hot tags, or lists of tag indices"
        )
    tags = read_tags(entries, cams.shape[1:], "first", names)
    check_ignored(tags, "first", form.ignore_index)
    blank = torch.full((len(cams), *size), form.ignore_index, dtype=torch.long, device=cams.device)
    boxes = read_boxes(call.boxes, form.box_format, blank, names).boxes
    own = gather_cams(cams, tags.channels)
    if not bool(own.isfinite().all()):
        check_finite(cams, name)
        raise_magnitude(cams, name)
    inside = mark_inside(boxes, blank)
    return CamGroup(names, own, tags.labels("first"), images, boxes, inside, blank, form.ignore_index)


def _read_images(
    call: CamCall, cams: Tensor, names: Names, form: CamForm
) -> tuple[Tensor | None, tuple[int, ...]]:
    """Images with a batch axis as uint8; the size of the mask: theirs, the one asked for, or the CAMs'."""
    batched = names.structure == "batch"
    size: Any = None
    if call.size is not None:
        size = read_ints(call.size, names.of("size"), "(H, W)", 1)
    if call.images is None:
        if form.needs_images:
            raise ValueError(
                f"{names.of('images')} must be given for refine={names_of_tools()}: pass the images, or "
                "refine=None"
            )
        return None, size or tuple(cams.shape[-2:])
    name = names.of("images")
    images = check_tensor(call.images, name, names.shape(3, "H", "W"), ndim=3 + batched)
    check_filled(images, name, batched=batched)
    check_same(images, name, cams, names.of("cams"), batched=batched)
    check_data(images, name)
    images = images if batched else images[None]
    last = images.dtype == torch.uint8 and images.shape[1] != 3 and images.shape[-1] == 3
    own = tuple(images.shape[1:3] if last else images.shape[2:])
    if size is not None and size != own:
        raise ValueError(
            f"size is {size} but {name} has {own}: leave size out, the masks get the size of the images"
        )
    return read_images(images, own, form.mean, form.std, names, size_of="images").pixels, own
