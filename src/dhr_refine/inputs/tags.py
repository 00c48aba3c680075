"""Image tags in all their forms: multi-hot of any type, index lists, keys, or none at all.

A 1-D vector stands for the tags of one image. Of a whole number type, it lists the tags (*keys*) unless an
entry repeats, which only the zeros and ones of multi-hot tags do; so one of 0 and 1 without a repetition,
``[0]``, ``[1]`` or ``[0, 1]``, lists tags as well. Floating point and bool vectors are multi-hot.
"""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..checks import describe
from .names import Names

Background = Literal["first", "last", "none"]
ImageTags = Tensor | NDArray[Any] | Collection[int | np.integer[Any] | Tensor]
"""Tags of one image as callers pass them: multi-hot, indices, or CAMs by class, whose keys they are."""
Labels = ImageTags | Sequence[ImageTags]
"""Tags of a batch, one image or a list of images as callers pass them."""
Entry = list[int] | np.ndarray
"""Tags of one image: 0-based indices, or a multi-hot vector."""

# Mask labels are int64, and the label of a tag may be one more than the tag.
_LARGEST_TAG = 2**63 - 2


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


def read_entries(labels: Any, names: Names, beside: str = "masks") -> list[Entry] | None:
    """One :data:`Entry` per image from what the caller passed for a batch, one image or a list of images.

    ``beside``: the argument whose images the tags belong to.
    """
    if labels is None:
        return None
    if isinstance(labels, Tensor):
        labels = _to_array(labels, "labels")
    if names.structure == "single":
        return [_read_entry(labels, "labels")]
    count = len(names.where)
    if isinstance(labels, np.ndarray) and labels.dtype == object and labels.ndim == 1:
        labels = labels.tolist()
    if isinstance(labels, np.ndarray) and labels.ndim != 2:
        fix = "pass multi-hot tags, or index lists"
        if labels.ndim == 1 and len(labels) == count:
            fix = "pass labels[:, None] where each image has one tag, or multi-hot tags"
        raise ValueError(f"labels must have shape (B, C), got {labels.shape}: {fix}")
    if not isinstance(labels, (np.ndarray, Sequence)) or isinstance(labels, (str, bytes)):
        fix = "pass a list with an entry for each image"
        if isinstance(labels, Mapping) and len(labels) == count:
            fix = f"pass list(labels.values()), in the order of {beside}"
        raise TypeError(
            "labels must be a multi-hot tensor (B, C) or a list of index lists, got "
            f"{describe(labels)}: {fix}"
        )
    if len(labels) != count:
        raise ValueError(
            f"labels has {len(labels)} entries but {beside} has {count} images: pass the tags of every image"
        )
    if isinstance(labels, np.ndarray):
        return _read_rows(labels)
    _refuse_flat(labels)
    return _check_alike([_read_entry(entry, f"labels[{i}]") for i, entry in enumerate(labels)], labels)


def _to_array(labels: Tensor, name: str) -> np.ndarray:
    labels = labels.detach()
    if labels.is_complex() or labels.is_sparse or labels.is_quantized or labels.is_meta:
        raise TypeError(
            f"{name} must hold tags, got {describe(labels)} ({labels.layout}): pass plain numbers"
        )
    # NumPy knows no bfloat16.
    return (labels.float() if labels.is_floating_point() else labels).cpu().numpy()


def _refuse_flat(labels: Sequence[Any]) -> None:
    """Raise where single numbers stand for the tags of images."""
    if labels and all(_as_int(entry) is not None for entry in labels):
        numbers = [_as_int(entry) for entry in labels]
        raise TypeError(
            f"labels must have a list of tags for each image, got {reprlib.repr(numbers)}: pass "
            f"{reprlib.repr([[number] for number in numbers])} where each image has one tag"
        )


def _as_int(value: Any) -> int | None:
    """A whole number of Python, NumPy or torch as int, None for anything else."""
    if isinstance(value, (np.generic, np.ndarray, Tensor)) and value.ndim == 0:
        value = value.item()
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _read_entry(entry: Any, name: str) -> Entry:
    """Read one image's tags."""
    if isinstance(entry, Tensor):
        entry = _to_array(entry, name)
    if isinstance(entry, np.ndarray) and entry.ndim == 1 and entry.dtype != object:
        return _read_vector(entry, name)
    if isinstance(entry, Mapping):
        # CAMs by class name their tags by the keys; flags by class do not.
        if not all(isinstance(value, (Tensor, np.ndarray)) and value.ndim for value in entry.values()):
            raise TypeError(
                f"{name} must be 1-D tags or a list of indices, got {describe(entry)}: pass list({name}) if "
                f"its keys are the tags, or [k for k, on in {name}.items() if on] if its values say so"
            )
        entry = list(entry)
    if isinstance(entry, np.ndarray) and entry.ndim == 1:
        entry = entry.tolist()
    if not isinstance(entry, (Sequence, AbstractSet)) or isinstance(entry, (str, bytes)):
        fix = "pass a list, [] for no tags"
        if _as_int(entry) is not None:
            fix = f"pass [{_as_int(entry)}] where an image has one tag"
        elif isinstance(entry, np.ndarray) and entry.ndim == 2 and len(entry) == 1:
            fix = f"pass {name}[0]"
        raise TypeError(f"{name} must be 1-D tags or a list of indices, got {describe(entry)}: {fix}")
    values = [_read_tag(value, name) for value in entry]
    if len(set(values)) != len(values):
        fix = "pass each once"
        if max(values) <= 1:
            fix = f"pass torch.tensor({reprlib.repr(values)}) for multi-hot tags"
        raise ValueError(f"{name} names a tag twice, got {reprlib.repr(values)}: {fix}")
    return sorted(values) if isinstance(entry, AbstractSet) else values


def _read_tag(value: Any, name: str) -> int:
    """Read one tag of a list."""
    tag = _as_int(value)
    if tag is None:
        if isinstance(value, (list, tuple)):
            fix = "pass one list for each image of masks, [2, 14] for a single one"
            raise TypeError(f"{name} must list tag indices, got the list {reprlib.repr(value)} in it: {fix}")
        fix = "pass a tensor for multi-hot tags"
        if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
            fix = f"pass {int(value)} for that index, or a tensor for multi-hot tags"
        raise TypeError(f"{name} must list tag indices 0, 1, ..., got {_short(value)}: {fix}")
    if not 0 <= tag <= _LARGEST_TAG:
        fix = "leave out what is no class" if tag < 0 else "number the classes from 0"
        raise ValueError(f"{name} must list tag indices 0, 1, ..., got {tag}: {fix}")
    return tag


def _short(value: Any) -> str:
    return describe(value) if isinstance(value, (Tensor, np.ndarray)) else reprlib.repr(value)


def _read_vector(vector: np.ndarray, name: str) -> Entry:
    """Read a 1-D array: multi-hot of any type, or distinct indices of a whole number type."""
    if vector.size == 0:
        return []
    if vector.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold numbers, got {describe(vector)}: pass the indices of the tags")
    shown = reprlib.repr(vector.tolist())
    hot = bool(((vector == 0) | (vector == 1)).all())
    if vector.dtype.kind in "bf":
        if hot:
            return vector
        whole = bool(np.isfinite(vector).all()) and np.array_equal(vector, vector.round())
        fix = (
            "call .long() on it if these are indices"
            if whole and vector.min() >= 0
            else "threshold scores first"
        )
        raise ValueError(f"{name} must hold 0 and 1, got {shown} in floating point: {fix}")
    if np.unique(vector).size == vector.size:
        return [_read_tag(int(value), name) for value in vector]
    if not hot:
        raise ValueError(
            f"{name} must hold 0 and 1 (multi-hot) or distinct indices, got {shown}: pass (labels > 0) or "
            "each index once"
        )
    return vector


def _read_rows(labels: np.ndarray) -> list[Entry]:
    """Read a (B, C) array: multi-hot, unless it is of a whole number type and holds more than 0 and 1."""
    rows = list(labels)
    if labels.dtype.kind == "b" or (labels.dtype.kind in "iuf" and ((labels == 0) | (labels == 1)).all()):
        return rows
    # Where one row lists indices, all do, [0, 1] among them.
    return _check_alike([_read_vector(row, f"labels[{i}]") for i, row in enumerate(rows)], rows)


def _check_alike(entries: list[Entry], labels: Sequence[Any]) -> list[Entry]:
    """Raise where some images have multi-hot tags and others lists; an empty list is both."""
    hot = [i for i, entry in enumerate(entries) if isinstance(entry, np.ndarray)]
    if not hot:
        return entries
    length = len(entries[hot[0]])
    for i, entry in enumerate(entries):
        if isinstance(entry, np.ndarray) and len(entry) != length:
            raise ValueError(
                f"labels mixes multi-hot tags of several lengths, {length} in labels[{hot[0]}] and "
                f"{len(entry)} in labels[{i}]: pass one row of all classes per image"
            )
        if isinstance(entry, list) and entry:
            fix = "use one form for all images"
            if isinstance(labels[i], (Tensor, np.ndarray)):  # of 0 and 1, distinct
                fix = "pass multi-hot tags in floating point, or all tags as lists"
            raise ValueError(
                f"labels mixes multi-hot tags (labels[{hot[0]}]) with index lists (labels[{i}] is "
                f"{reprlib.repr(entry)}): {fix}"
            )
    return [np.zeros(length) if isinstance(entry, list) else entry for entry in entries]


def tags_of_masks(counts: np.ndarray, channels: int, background: Background) -> Tags:
    """Where nobody gives tags: the classes that masks carry."""
    first = Tags.offset(background)
    present = counts[:, first : first + channels] > 0
    tags = [np.flatnonzero(row).tolist() for row in present]
    return Tags(tags, tags, channels)


def tags_of_classes(entries: list[Entry], foreground: int, names: Names) -> Tags:
    """Tags of each image from their :func:`read_entries`, where the number of foreground classes is known."""
    tags = []
    for row, entry in enumerate(entries):
        name = names.entry("labels", row)
        if isinstance(entry, np.ndarray) and len(entry) != foreground:
            raise ValueError(
                f"{name} has {len(entry)} multi-hot tags but there are {foreground} foreground classes: pass "
                "one entry per class without the background"
            )
        own = np.flatnonzero(entry).tolist() if isinstance(entry, np.ndarray) else list(entry)
        if own and max(own) >= foreground:
            raise ValueError(
                f"{name} holds the tag {max(own)} but there are {foreground} foreground classes: tags count "
                f"from 0 to {foreground - 1}"
            )
        tags.append(own)
    return Tags(tags, tags, foreground)


def read_tags(entries: list[Entry], cam_shape: Sequence[int], background: Background, names: Names) -> Tags:
    """Tags of each image from their :func:`read_entries`, and the channel of each in CAMs (C, h, w)."""
    channels = cam_shape[0]
    vectors = [entry for entry in entries if isinstance(entry, np.ndarray)]
    if not vectors:
        return _read_indices([list(entry) for entry in entries], channels, background, names)
    foreground = len(vectors[0])
    tags = [np.flatnonzero(entry).tolist() for entry in vectors]
    if channels == foreground:
        return Tags(tags, tags, foreground)
    if channels == foreground + 1 and background != "none":
        shift = Tags.offset(background)
        return Tags(tags, [[t + shift for t in own] for own in tags], foreground)
    if all(len(own) == channels for own in tags):
        return Tags(tags, [list(range(channels)) for _ in tags], foreground)
    if all(entry.dtype.kind in "iu" and np.unique(entry).size == entry.size for entry in vectors):
        # (B, 1) or (B, 2) of 0 and 1 for CAMs of more classes than that.
        return _read_indices([entry.tolist() for entry in vectors], channels, background, names)
    cams, labels = names.of("cams"), names.of("labels")
    fix = f"pass foreground-only labels of shape {names.shape(channels)}, or CAMs with a background channel"
    if cam_shape[2] in (foreground, foreground + 1):
        fix = f"pass {cams}.movedim(-1, -3) if its last axis has the classes"
    raise ValueError(f"{cams} has {channels} channels but {labels} has {foreground}: {fix}")


def _read_indices(tags: list[list[int]], channels: int, background: Background, names: Names) -> Tags:
    """Tags given as indices, with CAMs of all classes or of these tags alone."""
    full = all(tag < channels for own in tags for tag in own)
    compact = all(len(own) == channels for own in tags)
    cams, labels = names.of("cams"), names.of("labels")
    if full and compact and any(own != list(range(channels)) for own in tags):
        raise ValueError(
            f"{labels} lists {channels} tags for {channels} CAM channels, in another order: the channels may "
            f"belong to classes 0, 1, ... or to the listed tags; sort the tags, and the channels of {cams} "
            "if they are in the order of the tags"
        )
    # Tags 0 .. K - 1 with K channels: there may be classes without a tag beyond them, as with other tags.
    if full and (not compact or (background == "last" and channels)):
        return Tags(tags, tags, channels)
    if not compact:
        row, worst = max(((b, tag) for b, own in enumerate(tags) for tag in own), key=lambda found: found[1])
        raise ValueError(
            f"{names.entry('labels', row)} holds the tag {worst} but {names.of('cams', row)} has {channels} "
            "channels, neither one per class nor one per tag: pass the CAMs of all classes, or of just the "
            "tags"
        )
    if background == "last":
        raise ValueError(
            "background='last' needs the number of classes, which CAMs of just the tags do not tell: "
            f"pass multi-hot labels {names.shape('C')}"
        )
    return Tags(tags, [list(range(channels)) for _ in tags], None)
