"""Labels of the base mask: which of them classes can have, how many pixels each has, local class numbers."""

from __future__ import annotations

from bisect import bisect_left
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..pooling import count_labels
from .names import Names
from .tags import Background, Tags

# Different labels beyond those of the table that masks may carry; more are no classes.
_MOST_LABELS = 2**16


class MaskLabels(NamedTuple):
    """A base mask looked up in a table: labels below ``near`` at their own slot, those of ``far`` behind."""

    slots: Tensor  # (B, H, W) where each pixel is counted and looked up: in the table, or from its end on
    pixels: Tensor  # (B, near + len(far)) pixels of each label, 0 for ignore_index
    counts: np.ndarray  # the same on the host
    far: list[int]  # ascending labels, whatever their size

    @property
    def near(self) -> int:
        """Labels that are their own slot."""
        return self.pixels.shape[1] - len(self.far)

    def slots_of(self, ids: list[list[int]]) -> list[list[int]]:
        """Slots of the labels of each image."""
        near = self.near
        return [[i if i < near else near + bisect_left(self.far, i) for i in own] for own in ids]

    def found(self, image: int) -> list[int]:
        """Labels that an image's mask carries, ascending."""
        near = self.near
        return [s if s < near else self.far[s - near] for s in np.flatnonzero(self.counts[image]).tolist()]

    def of_classes(self, ids: list[list[int]]) -> Tensor:
        """(B, K) pixels of the classes of each image."""
        index = pad(self.slots_of(ids), self.pixels.device, width=width_of(ids))
        return torch.take_along_dim(self.pixels, index.clamp_min(0), dim=1).masked_fill(index < 0, 0.0)

    def localise(self, ids: list[list[int]]) -> Tensor:
        """(B, H, W) base mask in local class numbers; labels that are no class of their image become K."""
        classes = width_of(ids)
        lookup = np.full((len(ids), self.pixels.shape[1] + 2), classes, dtype=np.int64)
        for image, own in enumerate(self.slots_of(ids)):
            lookup[image, own] = np.arange(len(own))
        table = torch.from_numpy(lookup).to(self.slots.device)
        return table.gather(1, self.slots.flatten(1)).view(self.slots.shape)


def read_labels(
    base: Tensor, near: int, ignore_index: int, names: Names, *, far: list[int], open_ended: bool
) -> MaskLabels:
    """Count the labels of base masks (B, H, W); raise on one that no class can have (waits once).

    ``near``: labels below it are in the table; ``far``: those of classes beyond. ``open_ended``: nobody knows
    the number of classes, so that every label may be one.
    """
    limit = near + len(far)
    # Slot ``limit`` is for labels that no class can have, the next for an ignore_index that is none either.
    slots = base.clamp(-1, near)
    slots.masked_fill_((slots < 0) | (slots >= near), limit) if far else slots.masked_fill_(slots < 0, limit)
    if far:
        wanted = torch.tensor(far, dtype=torch.long, device=base.device)
        place = torch.searchsorted(wanted, base).clamp_max(len(far) - 1)
        slots = torch.where(wanted[place] == base, place + near, slots)
    if not 0 <= ignore_index < near:
        slots.masked_fill_(base == ignore_index, limit + 1)
    table = count_labels(slots.flatten(1), limit + 2)
    if 0 <= ignore_index < near:
        table[:, ignore_index] = 0.0
    counts = table[:, : limit + 1].cpu().numpy()
    strange = np.flatnonzero(counts[:, -1])
    if strange.size:
        row = int(strange[0])
        values = base[slots == limit].unique()
        if open_ended and int(values[0]) >= 0 and len(values) <= _MOST_LABELS:
            every = sorted({*far, *values.tolist()})
            return read_labels(base, near, ignore_index, names, far=every, open_ended=False)
        own = base[row][slots[row] == limit]
        raise ValueError(
            f"{names.of('masks', row)} holds the label {int(own[0])}, which no class has and is not "
            f"ignore_index {ignore_index}: set ignore_index, or renumber the classes"
        )
    return MaskLabels(slots, table[:, :limit], counts[:, :limit], far)


def check_labels(
    counts: np.ndarray, tags: Tags, background: Background, ignore_index: int, names: Names
) -> None:
    """Raise if a mask carries a label beyond the classes of the data set, where their number is known."""
    if tags.foreground is None:
        return
    allowed = tags.foreground + (0 if background == "none" else 1)
    rows, wrong = counts[:, allowed:].nonzero()
    if wrong.size:
        raise ValueError(
            f"{names.of('masks', int(rows[0]))} holds the label {allowed + int(wrong[0])} but there are "
            f"{tags.foreground} foreground classes with background {background!r} (labels 0..{allowed - 1}, "
            f"ignore {ignore_index}): check background and ignore_index, or pass the CAMs of all classes"
        )


def check_ignored(tags: Tags, background: Background, ignore_index: int) -> None:
    """Raise if ``ignore_index`` is the label of a class that takes part."""
    used = {label for own in tags.labels(background) for label in own}
    if background == "first":
        used.add(0)
    elif background == "last" and tags.foreground is not None:
        used.add(tags.foreground)
    if ignore_index in used:
        raise ValueError(
            f"ignore_index {ignore_index} is the label of a class (background {background!r}, tags start at "
            f"{tags.offset(background)}): pass a label that no class has, -1 say"
        )


def choose_classes(tags: Tags, found: list[list[int]] | None, background: Background) -> list[list[int]]:
    """Mask labels of each image's classes: the background, the tags, and those of ``found`` if given."""
    background_id = {"first": 0, "last": tags.foreground, "none": None}[background]
    ids = []
    for image, own in enumerate(tags.labels(background)):
        if background_id is not None:
            own = [background_id, *own]
        if found is not None:
            own += [label for label in found[image] if label not in own]
        ids.append(own)
    return ids


def width_of(ids: list[list[int]]) -> int:
    """K: at least one class, so that images without any need no case of their own."""
    return max((len(own) for own in ids), default=1) or 1


def pad(rows: list[list[int]], device: torch.device, *, width: int | None = None) -> Tensor:
    """Lists of numbers as rows of one tensor, int64, behind them -1."""
    if width is None:
        width = max((len(row) for row in rows), default=0)
    padded = [row + [-1] * (width - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.long, device=device).reshape(len(rows), width)
