"""Crop boxes in either order, as tensors, arrays, lists or None."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..checks import describe, read_numbers, show
from .names import Names

BoxFormat = Literal["xyxy", "yyxx"]
Box = tuple[int, int, int, int]  # x0, y0, x1, y1, ends exclusive
ImageBox = Tensor | NDArray[Any] | Sequence[float | np.number[Any]] | None
"""The box of one image as callers pass it."""
GivenBoxes = ImageBox | Sequence[ImageBox]
"""The boxes of a batch, one image or a list of images as callers pass them."""


class Boxes(NamedTuple):
    """The boxes of a group of images."""

    boxes: list[Box]
    given: list[Box | None]
    """The same, None where the caller gave none."""
    floating: bool
    """Whether the caller gave any in floating point."""


def read_boxes(boxes: Any, box_format: BoxFormat | None, masks: Tensor, names: Names) -> Boxes:
    """Crop boxes as host integers x0, y0, x1, y1."""
    height, width = masks.shape[1:]
    whole = (0, 0, width, height)
    count = masks.shape[0]
    empty = isinstance(boxes, list) and len(boxes) == count and all(box is None for box in boxes)
    if boxes is None or empty:
        return Boxes([whole] * count, [None] * count, False)
    if not isinstance(box_format, str) or box_format not in ("xyxy", "yyxx"):
        raise ValueError(
            f"box_format must be 'xyxy' or 'yyxx' where boxes are given, got {show(box_format)}: "
            "'xyxy' is x0, y0, x1, y1; 'yyxx' is y0, y1, x0, x1"
        )
    if isinstance(boxes, Tensor):
        boxes = read_numbers(boxes, "boxes", "a tensor, array or list (B, 4)")
    listed = isinstance(boxes, Sequence) and not isinstance(boxes, (str, bytes))
    if not listed and not (isinstance(boxes, np.ndarray) and boxes.ndim):
        raise TypeError(
            f"boxes must be a tensor, array or list (B, 4), got {describe(boxes)}: pass a list with a box or "
            "None for each image"
        )
    if len(boxes) != count:
        raise ValueError(
            f"boxes must have one entry per image, got {len(boxes)} for {count} images: pass (B, 4)"
        )
    given: list[Box | None] = []
    floating = False
    for position, box in enumerate(boxes):
        if box is None:
            given.append(None)
            continue
        name = names.entry("boxes", position)
        values, fractions = _read_box(box, name)
        floating |= fractions
        given.append(_place(values, box, box_format, (height, width), name))
    return Boxes([whole if box is None else box for box in given], given, floating)


def _read_box(box: Any, name: str) -> tuple[np.ndarray, bool]:
    """The numbers of one box, nothing if it is none, and whether they came in floating point."""
    try:
        numbers = read_numbers(box, name, "a box")
    except TypeError:
        return np.zeros(0), False
    return numbers.astype(np.float64).reshape(-1), numbers.dtype.kind == "f"


def _place(values: np.ndarray, box: Any, box_format: BoxFormat, size: tuple[int, int], name: str) -> Box:
    """One box as x0, y0, x1, y1 inside the image."""
    height, width = size
    if values.size != 4 or not np.isfinite(values).all() or not np.array_equal(values, values.round()):
        fix = f"pass {box_format} in pixels"
        if values.size == 4 and (values >= 0).all() and (values <= 1).all():
            fix = f"multiply shares of the image by its width {width} and height {height}, and round"
        elif values.size == 4 and np.isfinite(values).all():
            fix = f"round to whole pixels, [round(v) for v in {name}]"
        raise ValueError(f"{name} must be four whole numbers, got {show(box)}: {fix}")
    a, b, c, d = (int(v) for v in values)
    x0, y0, x1, y1 = (a, b, c, d) if box_format == "xyxy" else (c, a, d, b)
    if not (0 <= x0 <= x1 <= width and 0 <= y0 <= y1 <= height):
        raise ValueError(
            f"{name} is x {x0:.7g}..{x1:.7g}, y {y0:.7g}..{y1:.7g} read as {box_format}, outside the image "
            f"of height {height} and width {width}: check box_format, or clip the box"
        )
    return x0, y0, x1, y1


def mark_inside(boxes: list[Box], masks: Tensor) -> Tensor | None:
    """(B, H, W) bool; None when every box is the whole image."""
    height, width = masks.shape[1:]
    if all(box == (0, 0, width, height) for box in boxes):
        return None
    x0, y0, x1, y1 = torch.tensor(boxes, dtype=torch.long, device=masks.device).T[:, :, None]
    rows = torch.arange(height, device=masks.device)
    columns = torch.arange(width, device=masks.device)
    return ((rows >= y0) & (rows < y1))[:, :, None] & ((columns >= x0) & (columns < x1))[:, None, :]
