"""Which images of folders of masks are worth a look: the worst, or those that changed most."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from typing import Literal

from torch import Tensor

from ...metrics import ImageCounts, image_scores
from ...metrics.counts import count_pixels
from ..runs.outcomes import Outcome
from ..runs.progress import Progress
from .selection import ImageFailed, MaskFolders

Order = Literal["worst", "changed", "listed"]

_NEEDED = {"worst": ("masks", "targets"), "changed": ("masks", "base")}


def rank(
    folders: MaskFolders, keys: Sequence[str], order: Order, count: int, *, quiet: bool
) -> tuple[list[str], list[Outcome]]:
    """The first images in an order, and those that could not be read.

    Parameters
    ----------
    folders : masks and, for "worst", targets; for "changed", base
    keys : ids of all images
    order : "worst": by the mean IoU over the classes of the image's ground truth, images without a labelled
        pixel last; "changed": by the share of pixels whose label is another than in the base; "listed": as
        they are. Equals stay in their order.
    count : how many
    quiet : do not tell how far it is

    Returns
    -------
    ids, and the outcomes of images that failed; only as many images as are returned are remembered
    """
    if order == "listed":
        return list(keys[:count]), []
    failures: list[Outcome] = []
    with Progress(len(keys), "choosing", quiet=quiet) as progress:
        ranks = _ranks(folders, keys, order, failures, progress)
        best = heapq.nsmallest(count, ranks)
    return [keys[number] for _, number in best], failures


def _ranks(
    folders: MaskFolders, keys: Sequence[str], order: Order, failures: list[Outcome], progress: Progress
) -> Iterator[tuple[float, int]]:
    for number, key in enumerate(keys):
        try:
            mask, other = folders.read(key, _NEEDED[order]).values()
        except ImageFailed as error:
            failures.append(error.outcome)
            progress.advance("failed")
            continue
        progress.advance("done")
        yield (_miou(folders, mask, other) if order == "worst" else -changed_share(mask, other)), number


def _miou(folders: MaskFolders, mask: Tensor, target: Tensor) -> float:
    miou = float(image_scores(counts_of(folders, mask, target)).miou[0])
    return miou if math.isfinite(miou) else math.inf


def counts_of(folders: MaskFolders, mask: Tensor, target: Tensor) -> ImageCounts:
    """Pixels of each class of one image."""
    options = {"num_classes": folders.classes.num_classes, "ignore_index": folders.ignore_index}
    return count_pixels(mask, target, "mask", **options)


def changed_share(mask: Tensor, base: Tensor) -> float:
    """Share of the pixels that have another label than in the base."""
    return float((mask != base).double().mean())
