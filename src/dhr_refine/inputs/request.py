"""A call as it came (a batch, one image, or lists), split into groups of images of one size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import check_tensor, describe
from .tags import ragged_keys

Structure = Literal["single", "batch", "list"]


class Request(NamedTuple):
    """A call as it came, one entry per field and image group (see :func:`read_groups`)."""

    cams: Any
    masks: Any
    uss: Any
    wss: Any
    images: Any
    labels: Any
    boxes: Any


def read_groups(request: Request) -> tuple[list[tuple[list[int], Request]], Structure]:
    """Split a call into groups of images of one size, each in batched form, and tell how the call came."""
    if isinstance(request.masks, Tensor):
        check_tensor(request.masks, "masks", "(B, H, W) or (H, W)", ndim=(2, 3))
        if request.masks.ndim == 3:
            return [(list(range(request.masks.shape[0])), request)], "batch"
        return [([0], _add_batch_axis(request))], "single"
    if not isinstance(request.masks, Sequence) or len(request.masks) == 0:
        raise TypeError(
            "masks must be a tensor (B, H, W) or (H, W), or a list of (H, W), got "
            f"{describe(request.masks)}: convert arrays with torch.as_tensor"
        )
    items = _split_items(request)
    groups: dict[tuple, list[int]] = {}
    for position, item in enumerate(items):
        groups.setdefault(_shape_key(item), []).append(position)
    return [(where, _stack([items[i] for i in where])) for where in groups.values()], "list"


def _add_batch_axis(request: Request) -> Request:
    def expand(value: Any, name: str, shape: str, ndim: int) -> Tensor:
        return check_tensor(value, name, f"{shape} as masks is (H, W)", ndim=ndim)[None]

    wss = request.wss
    if isinstance(wss, Sequence):
        wss = [expand(level, f"wss_features[{i}]", "(D, h, w)", 3) for i, level in enumerate(wss)]
    else:
        wss = expand(wss, "wss_features", "(D, h, w)", 3)
    return Request(
        expand(request.cams, "cams", "(C, h, w)", 3),
        request.masks[None],
        expand(request.uss, "uss_features", "(D, h, w)", 3),
        wss,
        None if request.images is None else expand(request.images, "images", "(3, H, W) or (H, W, 3)", 3),
        None if request.labels is None else [request.labels],
        None if request.boxes is None else [request.boxes],
    )


def _split_items(request: Request) -> list[Request]:
    """A call on lists, image by image, each with a batch axis of one."""
    count = len(request.masks)
    labels = ragged_keys(request.labels)

    def entry(value: Any, name: str, position: int) -> Any:
        if value is None:
            return None
        if not isinstance(value, (Tensor, np.ndarray, Sequence)) or len(value) != count:
            came = f"{len(value)} entries" if hasattr(value, "__len__") else describe(value)
            raise ValueError(
                f"{name} must have one entry for each of the {count} masks, got {came}: "
                f"pass a list of {count}"
            )
        if value[position] is None and name == "labels":
            raise TypeError(f"labels[{position}] is None: pass an entry for every image, [] for no tags")
        return value[position]

    items = []
    for i in range(count):
        mask = check_tensor(request.masks[i], f"masks[{i}]", "(H, W)", ndim=2)
        items.append(
            _add_batch_axis(
                Request(
                    entry(request.cams, "cams", i),
                    mask,
                    entry(request.uss, "uss_features", i),
                    entry(request.wss, "wss_features", i),
                    entry(request.images, "images", i),
                    entry(labels, "labels", i),
                    entry(request.boxes, "boxes", i),
                )
            )
        )
    return items


def _shape_key(item: Request) -> tuple:
    levels = item.wss if isinstance(item.wss, list) else [item.wss]
    tensors = (item.cams, item.masks, item.uss, *levels, item.images)
    return tuple(None if t is None else (tuple(t.shape), t.dtype, t.device) for t in tensors)


def _stack(items: list[Request]) -> Request:
    first = items[0]

    def cat(name: str) -> Tensor | None:
        values = [getattr(item, name) for item in items]
        return None if values[0] is None else torch.cat(values)

    if isinstance(first.wss, list):
        wss = [torch.cat([item.wss[level] for item in items]) for level in range(len(first.wss))]
    else:
        wss = cat("wss")
    labels = None if first.labels is None else [item.labels[0] for item in items]
    boxes = (
        None
        if all(item.boxes is None for item in items)
        else [None if item.boxes is None else item.boxes[0] for item in items]
    )
    return Request(cat("cams"), cat("masks"), cat("uss"), wss, cat("images"), labels, boxes)
