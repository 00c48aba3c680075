"""Rows of titled pictures over a legend: the form of the figures with photos."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ..extras import import_optional
from ..metrics import image_counts, image_scores
from ..palettes import UNKNOWN
from .canvas import LETTER, import_matplotlib, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Tile = tuple[str, np.ndarray]  # title and picture (H, W, 3)

_WIDTH = 16.0  # inches of figures with photos: 1600 pixels, readable when shown at half of that
_GAP = 0.1  # inches between tiles
_HEAD = 0.32  # inches for a tile's title


def draw_tiles(
    rows: list[list[Tile]],
    entries: list[tuple[np.ndarray, str]],
    unknown: str,
    ratio: float,
    headings: Mapping[int, str],
    note: str = "",
) -> tuple[Figure, Any]:
    """Draw rows of titled pictures over a legend; also return the last axes.

    ``ratio`` is height / width of a tile, ``headings`` holds the lines above rows, by number of the row.
    """
    handles = _legend_handles(entries, unknown)
    columns = max(len(row) for row in rows)
    widest = 0.8 + 0.12 * max(len(handle.get_label()) for handle in handles)  # inches, generous
    legend_columns = max(1, min(len(handles), int(_WIDTH / widest)))
    legend_rows = -(-len(handles) // legend_columns)
    tile = (_WIDTH - _GAP * (columns + 1)) / columns
    tall = tile * ratio
    foot = 0.12 + 0.27 * legend_rows + (0.27 if note else 0)
    heads = [0.45 if i in headings else _GAP if i == 0 else 0.0 for i in range(len(rows))]
    total = sum(heads) + len(rows) * (_HEAD + tall + _GAP) + foot
    figure = new_figure(_WIDTH, total)
    axes: Any = None
    top = total
    for i, row in enumerate(rows):
        if i in headings:
            y = (top - 0.25) / total
            figure.text(_GAP / _WIDTH, y, headings[i], fontsize=15, fontweight="bold", va="center")
        top -= heads[i] + _HEAD + tall
        for j, (name, picture) in enumerate(row):
            left = _GAP + j * (tile + _GAP)
            place = (left / _WIDTH, top / total, tile / _WIDTH, tall / total)
            axes = figure.add_axes(place, xticks=[], yticks=[])
            axes.imshow(picture)
            axes.set_title(name, fontsize=_fitting_size(name, tile), pad=5)
        top -= _GAP
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(_GAP / _WIDTH, (foot - 0.02) / total),
        bbox_transform=figure.transFigure,
        borderaxespad=0,
        ncols=legend_columns,
        fontsize=13,
        frameon=False,
        borderpad=0.1,
        columnspacing=1.6,
        labelspacing=0.3,
    )
    if note:
        figure.text(_GAP / _WIDTH, 0.18 / total, note, fontsize=11, color="0.3", va="center")
    return figure, axes


def _legend_handles(entries: list[tuple[np.ndarray, str]], unknown: str) -> list[Any]:
    patch = import_matplotlib("matplotlib.patches").Patch
    handles = [patch(facecolor=colour / 255, edgecolor="0.3", label=name) for colour, name in entries]
    if unknown:
        handles.append(patch(facecolor="white", edgecolor="0.6", hatch="///", label=unknown))
    return handles


def _fitting_size(text: str, width: float, largest: float = 13) -> float:
    """Font size in points at which a text fits into a width in inches."""
    return min(largest, 72 * width / (LETTER * len(text)))


def break_rows(tiles: list[Any], longest: int) -> list[list[Any]]:
    """Break tiles into as few rows as fit, all about equally long."""
    length = math.ceil(len(tiles) / math.ceil(len(tiles) / longest))
    return [tiles[at : at + length] for at in range(0, len(tiles), length)]


def mark_region(axes: Any, region: np.ndarray, name: str) -> None:
    """Put a star and a name on the innermost pixel of a region, if it has any."""
    if not region.any():
        return
    stroke = import_matplotlib("matplotlib.patheffects").withStroke(linewidth=3, foreground="black")
    depth = np.asarray(
        import_optional("scipy.ndimage", by="a mark in a figure").distance_transform_edt(np.pad(region, 1))
    )[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), region.shape)
    right = x > 0.6 * region.shape[1]
    axes.annotate(
        f"{name} ★" if right else f"★ {name}",
        (x, y),
        ha="right" if right else "left",
        va="center",
        color="white",
        fontsize=13,
        fontweight="bold",
        path_effects=[stroke],
    )


def image_miou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Mean IoU over the classes of the ground truth, NaN where it has no labelled pixel."""
    counts = image_counts(mask, truth, num_classes=UNKNOWN, ignore_index=UNKNOWN)
    return float(image_scores(counts).miou[0])
