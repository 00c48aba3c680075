"""One figure for one image: what each step of the refinement did."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from .models import require

if TYPE_CHECKING:
    from matplotlib.figure import Figure

IGNORE_INDEX = 255
WIDTH_PX = 1600
DPI = 100
_COLUMNS = 7
_GAP = 0.1  # inches between tiles
_HEAD = 0.32  # inches for a tile's title


class Steps(Protocol):
    """The fields of ``RefineSteps`` that the figure shows, for one image (no batch axis)."""

    @property
    def mask(self) -> Tensor: ...  # noqa: D102
    @property
    def classes(self) -> Tensor: ...  # noqa: D102
    @property
    def seed(self) -> Tensor: ...  # noqa: D102
    @property
    def init_mask(self) -> Tensor: ...  # noqa: D102
    @property
    def uss(self) -> Tensor: ...  # noqa: D102
    @property
    def wss(self) -> Tensor: ...  # noqa: D102


def voc_palette() -> np.ndarray:
    """The PASCAL VOC colours, (256, 3) uint8: the bits of the label, spread over the channels."""
    labels = np.arange(256)
    channels = np.zeros((256, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            channels[:, channel] |= ((labels >> (3 * bit + channel)) & 1) << (7 - bit)
    return channels.astype(np.uint8)


def color_mask(mask: Tensor | np.ndarray, image: np.ndarray) -> np.ndarray:
    """Lay the VOC colours of a mask (H, W) over the grey image, with white outlines; 255 is hatched.

    Returns
    -------
    (H, W, 3) uint8
    """
    labels = np.asarray(mask).astype(np.int64)
    present = np.unique(labels)
    colors = _blend((labels == present[:, None, None]).astype(np.float64), present, image)
    unit = max(1, round(max(labels.shape) / 300))  # about one pixel of the figure
    rows, columns = np.indices(labels.shape)
    stripes = np.where((rows + columns) % (6 * unit) < 2 * unit, 190.0, 250.0)
    colors[labels == IGNORE_INDEX] = stripes[labels == IGNORE_INDEX, None]
    edge = ndimage.grey_dilation(labels, size=unit + 1) != labels
    colors[edge] = 255
    return colors.round().clip(0, 255).astype(np.uint8)


def color_scores(scores: Tensor, classes: Tensor, image: np.ndarray) -> np.ndarray:
    """Mix the VOC colours of the classes by their share of the scores (K, h, w) at each pixel."""
    kept = classes >= 0
    maps = F.interpolate(scores[kept][None].float(), image.shape[:2], mode="bilinear")[0].clamp_min(0)
    share = (maps / maps.sum(0).clamp_min(1e-12)).double().numpy()
    return _blend(share, classes[kept].numpy(), image).round().clip(0, 255).astype(np.uint8)


def _blend(share: np.ndarray, labels: np.ndarray, image: np.ndarray) -> np.ndarray:
    """Lay the VOC colours, mixed by share (K, H, W), over the grey image; the background more thinly."""
    opacity = np.where(labels == 0, 0.55, 0.7)
    colors = np.einsum("khw,kc->hwc", share, voc_palette()[labels] * opacity[:, None])
    return colors + (1 - np.einsum("khw,k->hw", share, opacity))[..., None] * _grey(image)


def _grey(image: np.ndarray) -> np.ndarray:
    return (image.astype(np.float64) @ (0.299, 0.587, 0.114))[..., None]


def refinement_panel(
    image: Tensor,
    cams: Tensor,
    base_mask: Tensor,
    steps: Steps,
    names: Sequence[str],
    *,
    lost: Collection[int] = (),
    recovered: Collection[int] = (),
    title: str = "",
    note: str = "",
) -> Figure:
    """Draw image, CAMs, base mask, OT seed, M_init, USS, WSS and final mask of one image.

    Parameters
    ----------
    image : (3, H, W) uint8
    cams : (C, h, w), one per foreground class
    base_mask : (H, W), labels 0 (background) to C
    steps : what ``refine_steps`` returned for this image, without a batch axis
    names : C + 1 names, background first
    lost, recovered : labels to mark: missing in the base mask; missing there and back in the final mask
    title, note : line above and below the tiles

    Returns
    -------
    Figure
        1600 pixels wide; not registered with pyplot.
    """
    figures, patches = require("matplotlib.figure"), require("matplotlib.patches")
    photo = image.permute(1, 2, 0).cpu().numpy()
    height, width = photo.shape[:2]
    peak = cams.amax((1, 2), keepdim=True).clamp_min(1e-12)
    heat = F.interpolate((cams / peak)[None].float(), (height, width), mode="bilinear")[0].cpu().numpy()

    inputs = [("Image", photo)]
    inputs += [(f"CAM: {name}", _heat(one, photo)) for name, one in zip(names[1:], heat, strict=True)]
    inputs += [("Base mask", color_mask(base_mask.cpu(), photo))]
    outputs = [
        ("OT seed", color_mask(steps.seed.cpu(), photo)),
        ("M_init", color_mask(steps.init_mask.cpu(), photo)),
        ("After USS", color_scores(steps.uss.cpu(), steps.classes.cpu(), photo)),
        ("After WSS", color_scores(steps.wss.cpu(), steps.classes.cpu(), photo)),
        ("Final mask", color_mask(steps.mask.cpu(), photo)),
    ]
    rows = [*_rows(inputs), *_rows(outputs)]
    columns = max(len(row) for row in rows)

    marks = [" ★ recovered" if i in recovered else " (lost)" if i in lost else "" for i in range(len(names))]
    handles = [
        patches.Patch(facecolor=color / 255, edgecolor="0.3", label=name + mark)
        for color, name, mark in zip(voc_palette(), names, marks, strict=False)
    ]
    if bool((steps.seed == IGNORE_INDEX).any()):
        handles.append(patches.Patch(facecolor="white", edgecolor="0.6", hatch="///", label="unassigned"))

    full = WIDTH_PX / DPI
    widest = 0.8 + 0.12 * max(len(handle.get_label()) for handle in handles)  # inches, generous
    legend_columns = max(1, min(len(handles), int(full / widest)))
    legend_rows = -(-len(handles) // legend_columns)
    tile = (full - _GAP * (columns + 1)) / columns
    tall = tile * height / width
    head = 0.45 if title else _GAP
    foot = 0.12 + 0.27 * legend_rows + (0.27 if note else 0)
    total = head + len(rows) * (_HEAD + tall + _GAP) + foot
    figure = figures.Figure(figsize=(full, total), dpi=DPI, facecolor="white")
    if title:
        figure.text(_GAP / full, 1 - 0.25 / total, title, fontsize=15, fontweight="bold", va="center")

    axes: Any = None
    for i, row in enumerate(rows):
        top = total - head - i * (_HEAD + tall + _GAP)
        for j, (name, picture) in enumerate(row):
            left = _GAP + j * (tile + _GAP)
            axes = figure.add_axes(
                (left / full, (top - _HEAD - tall) / total, tile / full, tall / total), xticks=[], yticks=[]
            )
            axes.imshow(picture, aspect="auto")
            # Smaller where a name is longer than its tile: 0.6 is the usual width of a letter.
            axes.set_title(name, fontsize=min(13, 72 * tile / (0.6 * len(name))), pad=5)
    for label in recovered:  # axes is the final mask, the last one drawn
        _mark(axes, steps.mask.cpu().numpy() == label, names[label])

    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(_GAP / full, (foot - 0.02) / total),
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
        figure.text(_GAP / full, 0.18 / total, note, fontsize=11, color="0.3", va="center")
    return figure


def _rows(tiles: list[Any]) -> list[list[Any]]:
    """Break tiles into as few rows as fit, all about equally long."""
    length = math.ceil(len(tiles) / math.ceil(len(tiles) / _COLUMNS))
    return [tiles[at : at + length] for at in range(0, len(tiles), length)]


def _heat(cam: np.ndarray, photo: np.ndarray) -> np.ndarray:
    """A CAM in 0..1 as a heat map over the grey photo."""
    colors = require("matplotlib").colormaps["turbo"](cam.clip(0, 1))[..., :3] * 255
    return (0.65 * colors + 0.35 * _grey(photo)).round().astype(np.uint8)


def _mark(axes: Any, region: np.ndarray, name: str) -> None:
    """Put a star and a name on the innermost pixel of a region, if it has any."""
    if not region.any():
        return
    stroke = require("matplotlib.patheffects").withStroke(linewidth=3, foreground="black")
    depth = np.asarray(ndimage.distance_transform_edt(np.pad(region, 1)))[1:-1, 1:-1]
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


def figure_png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()


def index_png(mask: Tensor | np.ndarray) -> bytes:
    """A mask (H, W) as an 8-bit index PNG with the VOC palette, the format of the field's label files."""
    picture = require("PIL.Image").fromarray(np.asarray(mask).astype(np.uint8))
    picture.putpalette(voc_palette().tobytes())
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file in one piece: a reader sees the old file or the whole new one, never a part."""
    # Not tempfile: its files are readable by the owner only.
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
