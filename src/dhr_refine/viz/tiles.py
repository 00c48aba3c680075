"""Rows of titled pictures over a legend: the form of the figures with photos."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ..metrics import image_counts, image_scores
from ..palettes import UNKNOWN
from .canvas import LETTER, import_matplotlib, new_figure, plain

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Tile = tuple[str, np.ndarray]  # title and picture (H, W, 3)

_WIDTH = 16.0  # inches of figures with photos: 1600 pixels
_GAP = 0.12  # inches between tiles
# Height / width of a tile: taller pictures are narrower, for no canvas holds 100,000 rows of pixels.
_TALLEST = 3.0
# Points. Figures are looked at in half of their width beside text, in a quarter on a phone.
_HEADING, _TITLE, _LEGEND, _NOTE = 28, 26, 25, 23
_LINE = 1.35 / 72  # inches from line to line, per point


def draw_tiles(
    rows: list[list[Tile]],
    entries: list[tuple[np.ndarray, str]],
    unknown: str,
    ratio: float,
    headings: Mapping[int, str],
    notes: Sequence[str] = (),
) -> tuple[Figure, list[Any]]:
    """Draw rows of titled pictures, each as wide as the figure, over a legend and notes; return the axes too.

    ``ratio`` is height / width of a picture, ``headings`` holds the lines above rows, by number of the row.
    """
    ratio = min(ratio, _TALLEST)
    handles = _legend_handles(entries, unknown)
    widest = 1.3 + LETTER * _LEGEND / 72 * max(len(handle.get_label()) for handle in handles)  # inches
    legend_columns = max(1, min(len(handles), int(_WIDTH / widest)))
    lines = [line for note in notes for line in _wrapped(note)]
    below = _LINE * _NOTE * len(lines) + 0.1
    foot = below + 0.1 + _LINE * _LEGEND * -(-len(handles) // legend_columns)
    tiles = [(_WIDTH - _GAP * (len(row) + 1)) / len(row) for row in rows]
    sizes = [min(_fitting_size(name, tile) for name, _ in row) for row, tile in zip(rows, tiles)]
    above = [_LINE * _HEADING + 0.1 if i in headings else _GAP for i in range(len(rows))]
    above = [space + _LINE * size for space, size in zip(above, sizes)]
    total = sum(above) + sum(tile * ratio for tile in tiles) + foot
    figure = new_figure(_WIDTH, total)
    axes: list[Any] = []
    top = total
    for i, (row, tile, size) in enumerate(zip(rows, tiles, sizes)):
        if i in headings:
            place = (_GAP / _WIDTH, (top - _LINE * _HEADING / 2 - 0.05) / total)
            figure.text(*place, plain(headings[i]), fontsize=_HEADING, fontweight="bold", va="center")
        top -= above[i] + tile * ratio
        for j, (name, picture) in enumerate(row):
            left = _GAP + j * (tile + _GAP)
            place = (left / _WIDTH, top / total, tile / _WIDTH, tile * ratio / total)
            axes.append(figure.add_axes(place, xticks=[], yticks=[]))
            axes[-1].imshow(picture)
            axes[-1].apply_aspect()  # marks ask how large it is
            axes[-1].set_title(plain(name), fontsize=size, pad=6)
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(_GAP / _WIDTH, (foot - 0.08) / total),
        bbox_transform=figure.transFigure,
        borderaxespad=0,
        ncols=legend_columns,
        fontsize=_LEGEND,
        frameon=False,
        borderpad=0.0,
        handlelength=1.4,
        handletextpad=0.5,
        columnspacing=1.2,
        labelspacing=0.25,
    )
    for i, line in enumerate(lines):
        place = (_GAP / _WIDTH, (below - _LINE * _NOTE * (i + 0.5)) / total)
        figure.text(*place, plain(line), fontsize=_NOTE, color="0.2", va="center")
    return figure, axes


def _legend_handles(entries: list[tuple[np.ndarray, str]], unknown: str) -> list[Any]:
    patch = import_matplotlib("matplotlib.patches").Patch
    handles = [patch(facecolor=colour / 255, edgecolor="0.3", label=plain(name)) for colour, name in entries]
    if unknown:
        handles.append(patch(facecolor="white", edgecolor="0.6", hatch="///", label=unknown))
    return handles


def _wrapped(note: str) -> list[str]:
    """The lines of a note."""
    return textwrap.wrap(note, int(72 * _WIDTH / (LETTER * _NOTE)))


def _fitting_size(text: str, width: float) -> float:
    """Font size in points at which a title fits into a width in inches."""
    return min(_TITLE, 72 * width / (LETTER * max(len(text), 1)))


def break_rows(tiles: list[Any], longest: int) -> list[list[Any]]:
    """Break tiles into as few rows as fit, whose lengths differ by one at most, the longer ones first."""
    rows = math.ceil(len(tiles) / longest)
    ends = [math.ceil(len(tiles) * (i + 1) / rows) for i in range(rows)]
    return [tiles[start:end] for start, end in zip([0, *ends], ends)]


def image_miou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Mean IoU over the classes of the ground truth, NaN where it has no labelled pixel."""
    counts = image_counts(mask, truth, num_classes=UNKNOWN, ignore_index=UNKNOWN)
    return float(image_scores(counts).miou[0])
