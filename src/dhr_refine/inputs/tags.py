"""Image tags in all their forms: multi-hot of any type, index lists, keys, or none at all."""

from __future__ import annotations

import reprlib
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from torch import Tensor

from ..checks import describe

Background = Literal["first", "last", "none"]


class Tags(NamedTuple):
    """The tags of a group of images."""

    chosen: list[list[int]]  # 0-based foreground classes of each image
    channels: list[list[int]]  # the CAM channel of each
    foreground: int | None  # number of foreground classes of the data set, None where nothing tells it

    @staticmethod
    def offset(background: Background) -> int:
        """Mask label of tag 0."""
        return 1 if background == "first" else 0

    def labels(self, background: Background) -> list[list[int]]:
        """Mask labels of the tags of each image."""
        offset = self.offset(background)
        return [[tag + offset for tag in own] for own in self.chosen]


def label_entries(labels: Any, batch: int) -> list[list[int] | np.ndarray] | None:
    """One entry per image: a list of tag indices, or a 1-D array (multi-hot or keys)."""
    if labels is None:
        return None
    if isinstance(labels, Tensor):
        labels = _to_array(labels)
    if isinstance(labels, np.ndarray) and labels.ndim != 2:
        raise ValueError(
            f"labels must have shape (B, C), got {labels.shape}: pass multi-hot tags, or index lists"
        )
    if not isinstance(labels, (np.ndarray, Sequence)) or isinstance(labels, str):
        raise TypeError(
            f"labels must be a multi-hot tensor (B, C) or a list of index lists, got {describe(labels)}: "
            "pass one of them"
        )
    if len(labels) != batch:
        raise ValueError(
            f"labels has {len(labels)} entries but masks has batch size {batch}: pass the tags of every image"
        )
    if isinstance(labels, np.ndarray):
        return [_label_entry(entry, position, sure=True) for position, entry in enumerate(labels)]
    return [_label_entry(entry, position, sure=False) for position, entry in enumerate(ragged_keys(labels))]


def ragged_keys(labels: Any) -> Any:
    """Integer arrays of different lengths name the tags of each image; multi-hot vectors have one length."""
    if not isinstance(labels, Sequence):
        return labels
    arrays = [_to_array(entry) if isinstance(entry, Tensor) else entry for entry in labels]
    lengths = {len(entry) for entry in arrays if isinstance(entry, np.ndarray) and entry.ndim == 1}
    if len(lengths) < 2:
        return arrays
    return [
        entry.tolist() if isinstance(entry, np.ndarray) and np.issubdtype(entry.dtype, np.integer) else entry
        for entry in arrays
    ]


def _to_array(labels: Tensor) -> np.ndarray:
    labels = labels.detach()
    # NumPy knows no bfloat16.
    return (labels.float() if labels.is_floating_point() else labels).cpu().numpy()


def _label_entry(entry: Any, position: int, *, sure: bool) -> list[int] | np.ndarray:
    """Read one image's tags; ``sure`` says that 0 and 1 mean multi-hot."""
    name = f"labels[{position}]"
    if isinstance(entry, (list, tuple, range, set, frozenset)):
        values: list[Any] = [v.item() if isinstance(v, (np.generic, Tensor)) else v for v in entry]
        for value in values:
            if isinstance(value, int) and value < 0:
                raise ValueError(
                    f"{name} must list tag indices 0, 1, ..., got {value}: leave out what is no class"
                )
            if isinstance(value, (list, tuple)):
                raise TypeError(
                    f"{name} must list tag indices, got the list {value!r} in it: pass one list for each "
                    "image of masks, [2, 14] for a single one"
                )
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(
                    f"{name} must list tag indices 0, 1, ..., got {value!r}: pass a tensor for multi-hot tags"
                )
        return sorted(set(values)) if isinstance(entry, (set, frozenset)) else values
    if not isinstance(entry, np.ndarray) or entry.ndim != 1:
        number = isinstance(entry, (int, np.integer)) and not isinstance(entry, bool)
        fix = f"pass [{entry}] where an image has one tag" if number else "pass one of them"
        raise TypeError(f"{name} must be 1-D tags or a list of indices, got {describe(entry)}: {fix}")
    whole = entry.astype(np.float64)
    if not np.array_equal(whole, whole.round()) or (whole < 0).any():
        raise ValueError(f"{name} must hold 0 and 1, or indices, got {entry!r}: threshold scores first")
    multi_hot = bool((whole <= 1).all())
    integer = np.issubdtype(entry.dtype, np.integer)
    if multi_hot and integer and not sure and np.unique(entry).size == entry.size:
        # [0], [1], [0, 1] and [1, 0]: as keys they name other classes than as a multi-hot vector.
        raise ValueError(
            f"{name} = {entry.tolist()} may be multi-hot or a list of keys: pass a Python list for keys, "
            "or a float or bool tensor for multi-hot tags"
        )
    if not multi_hot and np.unique(entry).size != entry.size:
        raise ValueError(
            f"{name} must hold 0 and 1 (multi-hot) or distinct indices, got {reprlib.repr(entry.tolist())}: "
            "threshold the tags first"
        )
    return entry if multi_hot else [int(v) for v in entry]


def read_tags(
    entries: list[list[int] | np.ndarray] | None, counts: np.ndarray, channels: int, background: Background
) -> Tags:
    """Tags of each image from their :func:`label_entries` and the labels that masks carry."""
    if entries is None:
        warnings.warn(
            "refine_mask was called without labels: the classes present in masks stand in for the tags, so "
            "classes that vanished from a base mask cannot come back. Pass labels.",
            UserWarning,
            stacklevel=5,  # the line that calls refine_mask
        )
        first = Tags.offset(background)
        present = counts[:, first : first + channels] > 0
        tags = [np.flatnonzero(row).tolist() for row in present]
        return Tags(tags, tags, channels)
    if all(isinstance(entry, list) for entry in entries):
        return _read_indices([list(entry) for entry in entries], channels, background)
    lengths = {len(entry) for entry in entries if isinstance(entry, np.ndarray)}
    if len(lengths) > 1 or any(isinstance(entry, list) for entry in entries):
        raise ValueError(
            "labels mixes multi-hot tags of several lengths or with index lists: use one form for all images"
        )
    foreground = lengths.pop()
    tags = [np.flatnonzero(np.asarray(entry)).tolist() for entry in entries]
    if channels == foreground:
        return Tags(tags, tags, foreground)
    if channels == foreground + 1 and background != "none":
        shift = Tags.offset(background)
        return Tags(tags, [[t + shift for t in own] for own in tags], foreground)
    if all(len(own) == channels for own in tags):
        return Tags(tags, [list(range(channels)) for _ in tags], foreground)
    raise ValueError(
        f"cams has {channels} channels but labels has {foreground}: pass foreground-only labels of shape "
        f"(B, {channels}), or CAMs with a background channel"
    )


def _read_indices(tags: list[list[int]], channels: int, background: Background) -> Tags:
    """Tags given as indices, with CAMs of all classes or of these tags alone."""
    for position, own in enumerate(tags):
        if len(set(own)) != len(own):
            raise ValueError(f"labels[{position}] names a tag twice, got {own}: pass each once")
    full = all(tag < channels for own in tags for tag in own)
    compact = all(len(own) == channels for own in tags)
    if full and compact and any(own != list(range(channels)) for own in tags):
        raise ValueError(
            f"labels lists {channels} tags for {channels} CAM channels, in another order: the channels may "
            "belong to classes 0, 1, ... or to the listed tags; sort the tags and channels alike"
        )
    if full:
        return Tags(tags, tags, channels)
    if not compact:
        worst = max(tag for own in tags for tag in own)
        raise ValueError(
            f"labels holds the tag {worst} but cams has {channels} channels, neither one per class nor one "
            "per tag: pass the CAMs of all classes, or of just the tags"
        )
    if background == "last":
        raise ValueError(
            "background='last' needs the number of classes, which CAMs of just the tags do not tell: "
            "pass multi-hot labels (B, C)"
        )
    return Tags(tags, [list(range(channels)) for _ in tags], None)
