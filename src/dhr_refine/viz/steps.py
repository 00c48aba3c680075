"""What each step of the refinement did to one image."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from torch import Tensor

from ..checks import check_range, describe
from ..label_names import Names, name_of
from ..metrics.masks import Mask
from ..palettes import UNKNOWN, read_colours
from ..steps import RefineSteps
from .idle import SEED, USS, WSS, idle_steps
from .marks import mark_regions
from .overlays import overlay_heat, overlay_labels, overlay_scores
from .reading import check_text, read_label_set, read_labels, read_pixels, read_steps
from .tiles import Tile, break_rows, draw_tiles, image_miou

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLUMNS = 4  # of the small panels: more could not be told apart on a phone


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
    tau: float | None = None,
) -> Figure:
    """Draw what the refinement did to one image, step by step, with a legend of its classes.

    Large and first the base mask and the refined one, and the ground truth; below them the image, the CAMs,
    OT seed and M_init, and the scores after the USS and the WSS step (colours mixed by score). Steps that did
    nothing have no panel: a line below says which these are, and why. Base mask, ground truth and CAMs are
    drawn where they are given.

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
        Labels that the legend and, beside them, the refined mask mark with a star. Default: those of
        ``steps.recovered``.
    ignore_index, colours
        As in :func:`colour_mask`.
    title, note : str
        Lines above and below the panels.
    tau : float, optional
        What :func:`dhr_refine.refine_steps` was given, for the line on a WSS step that did nothing.

    Returns
    -------
    matplotlib.figure.Figure
        1600 pixels wide.

    Raises
    ------
    ValueError, TypeError
        Steps of several images without ``index``; maps that do not fit them; a label without a
        colour or a name; ``tau`` outside [-1, 1].
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
    ['Base mask', 'Final mask', 'Image', 'OT seed', 'M_init', 'After USS']
    >>> figure.texts[0].get_text()
    'WSS step: no two classes are alike above tau (closest: background and dog, 0.77).'
    """
    one = read_steps(steps, index)
    check_text(title, "title")
    check_text(note, "note")
    if tau is not None:
        check_range(tau, "tau", -1.0, 1.0)
    if cams is not None and not isinstance(cams, Mapping):
        raise TypeError(
            f"cams must be a dict of label to map, got {describe(cams)}: pass "
            "{t + 1: cams[t] for t in tags}"
        )
    size = tuple(one.mask.shape)
    pixels = read_pixels(image, size)
    table = read_colours(colours)
    maps = _read_maps(one, base, ignore_index)
    truth = None if target is None else read_labels(target, "target", ignore_index, size)
    idle = idle_steps(one, maps.get("Base mask"), maps["M_init"], names, tau)
    panels = _Panels(pixels, table, maps, truth)
    small = [*panels.inputs({} if cams is None else cams, names), *panels.steps(one, idle)]

    classes = one.classes.tolist()
    final = maps["Final mask"]
    if recovered is None:
        recovered = [label for label, back in zip(classes, one.recovered.tolist()) if back]
    if lost is None:
        lost = set(classes) - set(np.unique(final).tolist())
    lost, recovered = read_label_set(lost, "lost"), read_label_set(recovered, "recovered")
    marks = dict.fromkeys(lost, " (lost)") | dict.fromkeys(recovered, " ★ recovered")
    labels = panels.labels(idle).union(classes)
    called = {label: name_of(names, label) for label in sorted(labels - {UNKNOWN})}
    entries = [(table[label], name + marks.get(label, "")) for label, name in called.items()]
    unknown = ("unassigned" if truth is None else "unassigned or ignored") * (UNKNOWN in labels)

    notes = [*(f"{step}: {reason}." for step, reason in idle.items()), note]
    rows = [panels.main(), *break_rows(small, _COLUMNS)]
    figure, axes = draw_tiles(rows, entries, unknown, size[0] / size[1], {0: title} if title else {}, notes)
    stars = [(final == label, name_of(names, label), table[label]) for label in recovered]
    mark_regions(axes[1], stars, (final > 0) & (final != UNKNOWN))
    return figure


def _read_maps(one: RefineSteps, base: Mask | None, ignore_index: int) -> dict[str, np.ndarray]:
    """The masks by title."""
    masks = {"Base mask": base, "OT seed": one.seed, "M_init": one.init_mask, "Final mask": one.mask}
    return {
        name: read_labels(mask, "base" if mask is base else f"steps ({name})", ignore_index, one.mask.shape)
        for name, mask in masks.items()
        if mask is not None
    }


class _Panels(NamedTuple):
    """One image and the masks that were read of it, as titled pictures."""

    pixels: np.ndarray  # (H, W, 3) uint8
    table: np.ndarray  # colours of the labels
    maps: dict[str, np.ndarray]  # masks (H, W) by title
    truth: np.ndarray | None

    def main(self) -> list[Tile]:
        """What came of what: base mask, or else the image, and refined mask; the ground truth."""
        before = self.mask("Base mask") if "Base mask" in self.maps else ("Image", self.pixels)
        truths = [("Ground truth", overlay_labels(self.pixels, one, self.table)) for one in self.truths()]
        return [before, self.mask("Final mask"), *truths]

    def labels(self, idle: Mapping[str, str]) -> set[int]:
        """Every label that a panel shows."""
        shown = [labels for name, labels in self.maps.items() if name != "OT seed" or SEED not in idle]
        return set().union(*(np.unique(labels).tolist() for labels in [*shown, *self.truths()]))

    def truths(self) -> list[np.ndarray]:
        """The ground truth, or nothing."""
        return [] if self.truth is None else [self.truth]

    def inputs(self, cams: Mapping[int, Tensor], names: Names) -> list[Tile]:
        """What the refinement started from, less what :meth:`main` shows."""
        image = [("Image", self.pixels)] if "Base mask" in self.maps else []
        heat = [
            (f"CAM: {name_of(names, label)}", overlay_heat(self.pixels, cam)) for label, cam in cams.items()
        ]
        return [*image, *heat]

    def steps(self, one: RefineSteps, idle: Mapping[str, str]) -> list[Tile]:
        """What each step made of it, less those that did nothing."""
        tiles = [] if SEED in idle else [self.mask("OT seed"), self.mask("M_init")]
        for step, name, scores in ((USS, "After USS", one.uss), (WSS, "After WSS", one.wss)):
            if step not in idle:
                mixed = overlay_scores(self.pixels, scores.cpu(), one.classes.cpu(), self.table)
                tiles.append((name, mixed))
        return tiles

    def mask(self, name: str) -> Tile:
        """A mask, with its score where there is ground truth."""
        labels = self.maps[name]
        score = ""
        # The seed is no mask of the image: it leaves pixels open on purpose.
        if self.truth is not None and name != "OT seed" and (self.truth != UNKNOWN).any():
            score = f", mIoU {100 * image_miou(labels, self.truth):.1f}"
        return name + score, overlay_labels(self.pixels, labels, self.table)
