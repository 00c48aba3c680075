"""Masks of a folder on a page to look at: :func:`show_folder`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..checks import check_choice, check_count, check_range
from ..datasets.classes import Background, ClassSet, class_set
from ..datasets.layouts import find_images
from ..errors import usage, writing
from ..files.regular import show_name
from ..files.writing import write_atomic
from ..version import __version__
from .review.cards import MOST_CLASSES, Card, Colours, make_card
from .review.page import Page, render
from .review.ranking import Order, rank
from .review.selection import Folder, Ids, ImageFailed, MaskFolders, as_folder, choose
from .runs.outcomes import Outcome
from .runs.progress import Progress

MOST_CARDS = 500
"""So many images make a page of about 60 MB."""
_ORDERS = ("worst", "changed", "listed")
_SAID = {"worst": "the worst by mean IoU", "changed": "those that changed most", "listed": "the first"}
_STAGES = {"masks": "masks", "base": "base", "targets": "ground truth"}
_FAILURES = 20  # that the page lists


@dataclass(frozen=True)
class ShownFolder:
    """What :func:`show_folder` wrote."""

    path: Path
    """The page."""
    size: int
    """Its bytes."""
    ids: tuple[str, ...]
    """The images on it, in their order."""
    images: int
    """How many there were to choose from."""
    failures: tuple[Outcome, ...]
    """Images that were left out because a file is missing or damaged."""

    def __str__(self) -> str:
        """One line."""
        failed = f", {len(self.failures)} left out" if self.failures else ""
        return (
            f"{show_name(self.path)}: {len(self.ids)} of {self.images:,} images{failed}, "
            f"{self.size / 1e6:.1f} MB"
        )


def show_folder(
    images: Folder,
    masks: Folder,
    out: Folder,
    *,
    base: Folder | None = None,
    targets: Folder | None = None,
    order: Order | None = None,
    count: int = 24,
    classes: str | int | ClassSet = "voc",
    background: Background | None = None,
    ignore_index: int = 255,
    ids: Ids = None,
    limit: int | None = None,
    quiet: bool = True,
) -> ShownFolder:
    """Write a page with the masks of some images laid over them: one HTML file that needs nothing else.

    Each image has a card with the image, the mask it was refined from, its mask and the ground truth, as far
    as these are given; which classes were recovered and lost; and how the IoU of each class changed. All
    masks are read to choose the images, without keeping them, and then those of the page.

    Parameters
    ----------
    images, masks : str or path
        Folders of the images and of their masks.
    out : str or path
        The file to write.
    base, targets : str or path, optional
        Folders of the masks that ``masks`` were refined from, and of the ground truth.
    order : {"worst", "changed", "listed"}, optional
        Which images: those of the least mean IoU over the classes of their ground truth, those with most
        pixels of another label than in the base, or the first. Default: ``"changed"`` with a base, else
        ``"worst"`` with ground truth, else ``"listed"``.
    count : int
        How many images, from 1 to 500. 24 make a page of about 3 MB.
    classes, background, ignore_index, ids, limit, quiet
        As for :func:`evaluate_folder`; without ``ids`` the images are those that ``images`` and ``masks``
        share. Up to 254 labels, for want of colours.

    Returns
    -------
    ShownFolder

    Raises
    ------
    ValueError, TypeError
        An option out of range, an order without the masks that it needs, more labels than colours.
    UserError
        A folder that cannot be read, no image that the folders share, a file that cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> from PIL import Image
    >>> from dhr_refine.folders import show_folder
    >>> with tempfile.TemporaryDirectory() as root:
    ...     for name in ("images", "masks"):
    ...         Path(root, name).mkdir()
    ...     Image.new("RGB", (40, 30)).save(Path(root, "images", "photo.jpg"))
    ...     np.save(Path(root, "masks", "photo.npy"), np.ones((30, 40), int))
    ...     shown = show_folder(Path(root, "images"), Path(root, "masks"), Path(root, "page.html"))
    >>> shown.ids, shown.path.name
    (('photo',), 'page.html')
    """
    check_count(count, "count", 1)
    check_range(count, "count", 1, MOST_CARDS)
    labels = class_set(classes, background=background)
    if labels.num_classes > MOST_CLASSES:
        raise ValueError(
            f"classes has {labels.num_classes} labels, but there are colours for {MOST_CLASSES}: map several "
            "to one"
        )
    given = {"masks": masks, "base": base, "targets": targets}
    paths = {stage: as_folder(path, stage) for stage, path in given.items() if path is not None}
    chosen_order = _read_order(order, paths)
    place, pictures = as_folder(out, "out"), as_folder(images, "images")
    folders = MaskFolders(paths, labels, ignore_index)
    with usage():
        photos = find_images(pictures)
    keys = choose((folders.files["masks"], photos), ids, limit)
    ranked, failures = rank(folders, keys, chosen_order, int(count), quiet=quiet)
    colours = Colours(labels.num_classes, labels.background, ignore_index)
    cards: list[Card] = []
    with Progress(len(ranked), "drawing", quiet=quiet) as progress:
        for key in ranked:
            try:
                cards.append(make_card(folders, photos, key, colours))
                progress.advance("done")
            except ImageFailed as error:
                failures.append(error.outcome)
                progress.advance("failed")
    page = Page(
        title=f"Masks of {paths['masks'].name or paths['masks']}",
        about=f"{len(cards)} of {len(keys):,} images, {_SAID[chosen_order]}.",
        facts=_facts({"images": pictures, **paths}, labels),
        remarks=[_legend_remark(cards, ignore_index), *_left_out(failures)],
        names=labels.names,
    )
    data = render(page, cards, colours).encode()
    with writing(place, "out"):
        write_atomic(place, data)
    return ShownFolder(place, len(data), tuple(card.key for card in cards), len(keys), tuple(failures))


def _read_order(order: Order | None, paths: dict[str, Path]) -> Order:
    if order is None:
        return "changed" if "base" in paths else "worst" if "targets" in paths else "listed"
    check_choice(order, "order", _ORDERS)
    for name, stage in (("worst", "targets"), ("changed", "base")):
        if order == name and stage not in paths:
            raise ValueError(f"order {name!r} needs {stage}: pass its folder, or another order")
    return order


def _facts(paths: dict[str, Path], labels: ClassSet) -> dict[str, str]:
    return {
        **{_STAGES.get(stage, stage): str(path) for stage, path in paths.items()},
        "classes": f"{labels.name}, {labels.num_classes} labels",
        "made by": f"dhr_refine {__version__}, PyTorch {torch.__version__}, NumPy {np.__version__}",
    }


def _legend_remark(cards: list[Card], ignore_index: int) -> str:
    text = "Pixels are shares of the image."
    if any(math.isfinite(card.changed) for card in cards):
        text += " Recovered: in the refined mask, not in the base; lost: the other way round."
    if any(math.isfinite(card.miou) for card in cards):
        text += (
            " IoU is of the one image, its mean over the classes of the image's ground truth; "
            f"{ignore_index} in the ground truth is left out, in a mask it is a miss."
        )
    return text


def _left_out(failures: list[Outcome]) -> list[str]:
    lines = [f"Left out: {failure.key} ({failure.stage}): {failure.message}" for failure in failures]
    more = len(lines) - _FAILURES
    return lines[:_FAILURES] + ([f"Left out: {more} more."] if more > 0 else [])
