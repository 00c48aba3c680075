"""The images that a change made best and worst."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ..checks import check_count
from ..label_names import Names, check_several, name_of
from ..metrics.masks import Mask
from ..palettes import UNKNOWN, read_colours
from .canvas import signed
from .overlays import overlay_labels
from .reading import read_labels, read_pixels
from .tiles import draw_tiles, image_miou

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def show_extremes(
    images: Sequence[Tensor | np.ndarray],
    targets: Sequence[Mask],
    before: Sequence[Mask],
    after: Sequence[Mask],
    *,
    count: int = 3,
    names: Names = None,
    titles: Sequence[str] | None = None,
    ignore_index: int = 255,
    colours: np.ndarray | None = None,
) -> Figure:
    """Draw the images whose masks a change made best and worst, by the change in mIoU per image.

    Rows of image, ground truth, and the mask before and after, with the mean IoU over the classes of the
    image's ground truth, in percent.

    Parameters
    ----------
    images : sequence of Tensor or ndarray, (3, H, W) or (H, W, 3)
        As in :func:`overlay_mask`, of any sizes. Only those that are drawn are read.
    targets, before, after : sequences of Tensor or ndarray, (H, W), integer
        Ground truth, and the masks to compare with it.
    count : int
        Images at either end; fewer where there are not twice as many. 3 is our choice.
    names : sequence or dict, optional
        Name of each label: ``names[label]``. Default: the labels.
    titles : sequence of str, optional
        What the images are called. Default: their numbers.
    ignore_index, colours
        As in :func:`colour_mask`. ``ignore_index`` in the ground truth is left out of the mIoU.

    Returns
    -------
    matplotlib.figure.Figure
        1600 pixels wide.

    Raises
    ------
    ValueError, TypeError
        Sequences of different lengths, masks that are none or do not fit, fewer than two images with a
        labelled pixel, a label without a name, a ``count`` below 1.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine.viz import show_extremes
    >>> images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    >>> targets = torch.ones(2, 8, 8, dtype=torch.long)
    >>> before, after = targets.clone(), targets.clone()
    >>> before[0, :4] = 0
    >>> after[1, :2] = 0
    >>> figure = show_extremes(images, targets, before, after)
    >>> [axes.get_title() for axes in figure.axes[3::4]]
    ['After, mIoU 100.0 (+50.0)', 'After, mIoU 75.0 (−25.0)']
    """
    check_count(count, "count", 1)
    table = read_colours(colours)
    check_several(images, "images")
    called = range(len(images)) if titles is None else titles
    for name, given in (("targets", targets), ("before", before), ("after", after), ("titles", called)):
        entries = len(check_several(given, name))
        if entries != len(images):
            raise ValueError(f"{name} has {entries} entries but images has {len(images)}: pass one per image")

    def read(i: int) -> list[np.ndarray]:
        truth = read_labels(targets[i], f"targets[{i}]", ignore_index)
        masks = {f"before[{i}]": before[i], f"after[{i}]": after[i]}
        return [truth, *(read_labels(mask, name, ignore_index, truth.shape) for name, mask in masks.items())]

    scores = np.full((len(images), 2), np.nan)
    for i in range(len(images)):
        truth, *masks = read(i)
        scores[i] = [image_miou(mask, truth) for mask in masks]
    change = scores[:, 1] - scores[:, 0]
    order = np.argsort(-change, kind="stable")[: int(np.isfinite(change).sum())].tolist()  # NaN comes last
    if len(order) < 2:
        raise ValueError(
            f"images must hold at least 2 with labelled pixels in targets, got {len(order)}: pass more"
        )
    count = min(count, len(order) // 2)

    rows = []
    labels: set[int] = set()
    for i in order[:count] + order[: -count - 1 : -1]:
        masks = read(i)
        labels.update(*(np.unique(mask).tolist() for mask in masks))
        pixels = read_pixels(images[i], masks[0].shape)
        first, second = 100 * scores[i]
        heads = (
            "Ground truth",
            f"Before, mIoU {first:.1f}",
            f"After, mIoU {second:.1f} ({signed(second - first, '+.1f')})",
        )
        tiles = [(head, overlay_labels(pixels, mask, table)) for head, mask in zip(heads, masks)]
        rows.append([(f"Image {i}" if titles is None else str(titles[i]), pixels), *tiles])
    legend = [(table[label], name_of(names, label)) for label in sorted(labels - {UNKNOWN})]
    headings = {0: "Best by change in mIoU", count: "Worst by change in mIoU"}
    figure, _ = draw_tiles(rows, legend, "ignored" * (UNKNOWN in labels), 0.75, headings)
    return figure
