"""Names beside regions of a picture, where they hide as little as possible."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..extras import import_optional
from .canvas import LETTER, import_matplotlib, plain

_SIZE = 24.0  # points
_PLACES = 25  # places of a name that are looked at, along either side


def mark_regions(axes: Any, regions: Sequence[tuple[np.ndarray, str, np.ndarray]], taken: np.ndarray) -> None:
    """Write a starred name beside each region, in a box that a line joins to the region's innermost pixel.

    Parameters
    ----------
    axes : those of a picture (H, W)
    regions : for each its pixels (H, W) bool, its name and its colour; regions without a pixel are left out
    taken : (H, W) bool, pixels that names should leave free as well if they can
    """
    regions = [region for region in regions if region[0].any()]
    # Weights: a mark that hid what it marks would be worse than one on another class; two marks never meet.
    cost = taken + 4.0 * sum(pixels for pixels, _, _ in regions)
    for pixels, name, colour in regions:
        text = f"★ {name}"
        size, box = _measure(axes, text, pixels.shape)
        inmost = _inmost(pixels)
        y, x = _free_place(cost, box, inmost)
        cost[slice(*_span(y, box[0])), slice(*_span(x, box[1]))] += 50
        axes.annotate(
            plain(text),
            inmost[::-1],
            (x, y),
            ha="center",
            va="center",
            color="black",
            fontsize=size,
            bbox={"boxstyle": "square,pad=0.15", "fc": "white", "ec": colour / 255, "lw": 4},
            arrowprops={
                "arrowstyle": "-",
                "color": "white",
                "lw": 2.5,
                "path_effects": [
                    import_matplotlib("matplotlib.patheffects").withStroke(linewidth=5, foreground="black")
                ],
            },
        )


def _measure(axes: Any, text: str, shape: tuple[int, ...]) -> tuple[float, tuple[float, float]]:
    """Font size, and height and width of the box in pixels of the picture."""
    place, figure = axes.get_position(), axes.figure
    per_inch = shape[1] / (place.width * figure.get_figwidth())
    letters = LETTER * len(text) + 0.9  # and padding and frame
    size = min(_SIZE, 72 * 0.9 * shape[1] / per_inch / letters)
    return size, (1.8 * size / 72 * per_inch, letters * size / 72 * per_inch)


def _inmost(region: np.ndarray) -> tuple[int, int]:
    ndimage = import_optional("scipy.ndimage", by="a mark in a figure")
    depth = np.asarray(ndimage.distance_transform_edt(np.pad(region, 1)))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), region.shape)
    return int(y), int(x)


def _span(centre: float, length: float) -> tuple[int, int]:
    """First and last pixel, exclusive, of a box along one axis."""
    return max(0, int(centre - length / 2)), int(np.ceil(centre + length / 2))


def _free_place(cost: np.ndarray, box: tuple[float, float], near: tuple[int, int]) -> tuple[float, float]:
    """Centre of the box inside the picture that covers least, and of those the one nearest to a pixel."""
    sums = np.pad(cost.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    ways = []
    for side, length in zip(cost.shape, box):
        half = min(length, side) / 2
        ways.append(np.linspace(half, side - half, _PLACES))
    best = (np.inf, 0.0, 0.0)
    for y in ways[0]:
        top, bottom = (min(edge, cost.shape[0]) for edge in _span(y, box[0]))
        for x in ways[1]:
            left, right = (min(edge, cost.shape[1]) for edge in _span(x, box[1]))
            covered = sums[bottom, right] - sums[top, right] - sums[bottom, left] + sums[top, left]
            share = covered / ((bottom - top) * (right - left))
            distance = np.hypot(y - near[0], x - near[1]) / np.hypot(*cost.shape)
            best = min(best, (float(share + distance), float(y), float(x)))
    return best[1:]
