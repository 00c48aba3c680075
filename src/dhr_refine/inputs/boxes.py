"""Crop boxes in either order, as tensors, arrays, lists or None."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..checks import describe

BoxFormat = Literal["xyxy", "yyxx"]
Box = tuple[int, int, int, int]  # x0, y0, x1, y1, ends exclusive


def read_boxes(boxes: Any, box_format: BoxFormat | None, masks: Tensor) -> list[Box]:
    """Crop boxes as host integers x0, y0, x1, y1."""
    height, width = masks.shape[1:]
    whole = (0, 0, width, height)
    if boxes is None:
        return [whole] * masks.shape[0]
    if box_format not in ("xyxy", "yyxx"):
        raise ValueError(
            f"box_format must be 'xyxy' or 'yyxx' where boxes are given, got {box_format!r}: "
            "'xyxy' is x0, y0, x1, y1; 'yyxx' is y0, y1, x0, x1"
        )
    if isinstance(boxes, Tensor):
        boxes = boxes.detach().cpu().double().numpy()
    if not isinstance(boxes, (np.ndarray, Sequence)) or isinstance(boxes, str):
        raise TypeError(
            f"boxes must be a tensor, array or list (B, 4), got {describe(boxes)}: pass one of them"
        )
    if len(boxes) != masks.shape[0]:
        raise ValueError(
            f"boxes must have one entry per image, got {len(boxes)} for {masks.shape[0]} images: pass (B, 4)"
        )
    result = []
    for position, box in enumerate(boxes):
        if box is None:
            result.append(whole)
            continue
        if isinstance(box, Tensor):
            box = box.detach().cpu().double().numpy()
        try:
            values = np.asarray(box, dtype=np.float64).reshape(-1)
        except (TypeError, ValueError):
            values = np.zeros(0)
        if values.size != 4 or not np.isfinite(values).all() or not np.array_equal(values, values.round()):
            raise ValueError(
                f"boxes[{position}] must be four whole numbers, got {box!r}: pass {box_format} in pixels"
            )
        a, b, c, d = (int(v) for v in values)
        x0, y0, x1, y1 = (a, b, c, d) if box_format == "xyxy" else (c, a, d, b)
        if not (0 <= x0 <= x1 <= width and 0 <= y0 <= y1 <= height):
            raise ValueError(
                f"boxes[{position}] is x {x0}..{x1}, y {y0}..{y1} read as {box_format}, outside the image of "
                f"height {height} and width {width}: check box_format, or clip the box"
            )
        result.append((x0, y0, x1, y1))
    return result


def mark_inside(boxes: list[Box], masks: Tensor) -> Tensor | None:
    """(B, H, W) bool; None when every box is the whole image."""
    height, width = masks.shape[1:]
    if all(box == (0, 0, width, height) for box in boxes):
        return None
    x0, y0, x1, y1 = torch.tensor(boxes, dtype=torch.long, device=masks.device).T[:, :, None]
    rows = torch.arange(height, device=masks.device)
    columns = torch.arange(width, device=masks.device)
    return ((rows >= y0) & (rows < y1))[:, :, None] & ((columns >= x0) & (columns < x1))[:, None, :]
