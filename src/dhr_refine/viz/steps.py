"""What each step of the refinement did to one image."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from ..checks import describe
from ..label_names import Names, name_of
from ..metrics.masks import Mask
from ..palettes import UNKNOWN, read_colours
from ..steps import RefineSteps
from .overlays import overlay_heat, overlay_labels, overlay_scores
from .reading import check_text, read_label_set, read_labels, read_pixels, read_steps
from .tiles import Tile, break_rows, draw_tiles, image_miou, mark_region

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 7


def show_steps(
    steps: RefineSteps | RefineSteps[list[Tensor]],
    image: Tensor | np.ndarray,
    *,
    cams: Mapping[int, Tensor] | None = None,
    base: Mask | None = None,
    target: Mask | None = None,
    names: Names = None,
    index: int | None = None,
    lost: Collection[int] | None = None,
    recovered: Collection[int] | None = None,
    ignore_index: int = 255,
    colours: np.ndarray | None = None,
    title: str = "",
    note: str = "",
) -> Figure:
    """Draw what each step of the refinement did to one image, with a legend of its classes.

    Image, ground truth, CAMs and base mask where they are given, OT seed, M_init, the scores after the USS
    and the WSS step (colours mixed by score), and the refined mask.

    Parameters
    ----------
    steps : RefineSteps
        What :func:`dhr_refine.refine_steps` returned.
    image : Tensor or ndarray, (3, H, W) or (H, W, 3)
        As in :func:`overlay_mask`.
    cams : dict of label to Tensor (h, w), optional
        The CAMs to show: ``{t + 1: cams[t] for t in tags}``.
    base : Tensor or ndarray, (H, W), integer, optional
        The base mask that was refined.
    target : Tensor or ndarray, (H, W), integer, optional
        Ground truth. Titles of masks then carry the mean IoU over the image's classes, in percent.
    names : sequence or dict, optional
        Name of each label, the background's included: ``names[label]``. Default: the labels.
    index : int, optional
        Which image of ``steps``, where these hold several.
    lost : collection of int, optional
        Labels that the legend marks as lost. Default: the classes without a pixel in the refined mask.
    recovered : collection of int, optional
        Labels that the legend and the refined mask mark with a star. Default: those of ``steps.recovered``.
    ignore_index, colours
        As in :func:`colour_mask`.
    title, note : str
        Lines above and below the panels.

    Returns
    -------
    matplotlib.figure.Figure
        1600 pixels wide.

    Raises
    ------
    ValueError, TypeError
        Steps of several images without ``index``; maps that do not fit them; a label without a
        colour or a name.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine import refine_steps
    >>> from dhr_refine.viz import show_steps
    >>> cams = torch.zeros(2, 4, 4)
    >>> cams[1, :, 2:] = 1.0
    >>> base = torch.zeros(8, 8, dtype=torch.long)
    >>> image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    >>> steps = refine_steps(cams, base, cams + 0.1, cams + 0.1, labels=[1], boundary=None)
    >>> figure = show_steps(steps, image, base=base, names=["background", "cat", "dog"])
    >>> [axes.get_title() for axes in figure.axes]
    ['Image', 'Base mask', 'OT seed', 'M_init', 'After USS', 'After WSS', 'Final mask']
    """
    one = read_steps(steps, index)
    check_text(title, "title")
    check_text(note, "note")
    if cams is not None and not isinstance(cams, Mapping):
        raise TypeError(
            f"cams must be a dict of label to map, got {describe(cams)}: pass "
            "{t + 1: cams[t] for t in tags}"
        )
    size = tuple(one.mask.shape)
    pixels = read_pixels(image, size)
    table = read_colours(colours)
    masks = {"Base mask": base, "OT seed": one.seed, "M_init": one.init_mask, "Final mask": one.mask}
    maps = {
        name: read_labels(mask, "base" if mask is base else f"steps ({name})", ignore_index, size)
        for name, mask in masks.items()
        if mask is not None
    }
    truth = None if target is None else read_labels(target, "target", ignore_index, size)
    panels = _Panels(pixels, table, maps, truth)
    inputs = panels.inputs({} if cams is None else cams, names)
    outputs = panels.outputs(one)

    classes = one.classes.tolist()
    kept = set(np.unique(maps["Final mask"]).tolist())
    if recovered is None:
        recovered = [label for label, back in zip(classes, one.recovered.tolist()) if back]
    if lost is None:
        lost = set(classes) - kept
    lost, recovered = read_label_set(lost, "lost"), read_label_set(recovered, "recovered")
    shown = [*maps.values()] if truth is None else [*maps.values(), truth]
    labels = set(classes).union(*(np.unique(mask).tolist() for mask in shown))
    marks = dict.fromkeys(lost, " (lost)") | dict.fromkeys(recovered, " ★ recovered")
    entries = [
        (table[label], name_of(names, label) + marks.get(label, "")) for label in sorted(labels - {UNKNOWN})
    ]
    unknown = "unassigned" if truth is None else "unassigned or ignored"

    ratio = pixels.shape[0] / pixels.shape[1]
    headings = {0: title} if title else {}
    rows = _arrange(inputs, outputs)
    figure, axes = draw_tiles(rows, entries, unknown * (UNKNOWN in labels), ratio, headings, note)
    for label in recovered:
        mark_region(axes, maps["Final mask"] == label, name_of(names, label))
    return figure


class _Panels(NamedTuple):
    """One image and the masks that were read of it, as titled pictures."""

    pixels: np.ndarray  # (H, W, 3) uint8
    table: np.ndarray  # colours of the labels
    maps: dict[str, np.ndarray]  # masks (H, W) by title
    truth: np.ndarray | None

    def inputs(self, cams: Mapping[int, Tensor], names: Names) -> list[Tile]:
        """What the refinement started from."""
        tiles = [("Image", self.pixels)]
        if self.truth is not None:
            tiles.append(("Ground truth", overlay_labels(self.pixels, self.truth, self.table)))
        for label, cam in cams.items():
            tiles.append((f"CAM: {name_of(names, label)}", overlay_heat(self.pixels, cam)))
        if "Base mask" in self.maps:
            tiles.append(self.mask("Base mask"))
        return tiles

    def outputs(self, one: RefineSteps) -> list[Tile]:
        """What each step made of it."""
        tiles = [self.mask("OT seed"), self.mask("M_init")]
        for name, scores in (("After USS", one.uss), ("After WSS", one.wss)):
            tiles.append((name, overlay_scores(self.pixels, scores.cpu(), one.classes.cpu(), self.table)))
        return [*tiles, self.mask("Final mask")]

    def mask(self, name: str) -> Tile:
        """A mask, with its score where there is ground truth."""
        labels = self.maps[name]
        score = ""
        # The seed is no mask of the image: it leaves pixels open on purpose.
        if self.truth is not None and name != "OT seed":
            score = f", mIoU {100 * image_miou(labels, self.truth):.1f}"
        return name + score, overlay_labels(self.pixels, labels, self.table)


def _arrange(inputs: list[Tile], outputs: list[Tile]) -> list[list[Tile]]:
    """Few panels fill two rows; else the inputs stand above what was made of them."""
    if len(inputs + outputs) <= 8:
        return break_rows(inputs + outputs, 4)
    return [*break_rows(inputs, _COLUMNS), *break_rows(outputs, _COLUMNS)]
