"""What callers of this part hold: masks or refine_steps' result, one image, a batch or lists, tags, boxes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import (
    check_choice,
    check_data,
    check_filled,
    check_finite,
    check_ignore_index,
    check_plain,
    check_same,
    check_tensor,
    describe,
    exact_labels,
)
from ..inputs import ArgumentNames as Names
from ..inputs import Background, BoxFormat
from ..inputs.boxes import mark_inside, read_boxes
from ..inputs.names import check_entries
from ..inputs.tags import Entry, Tags, read_entries
from ..steps import RefineSteps, split

# Labels of one mask that can be classes.
_MOST_CLASSES = 2**16


class Form(NamedTuple):
    """Options that all calls on masks share."""

    background: Background
    ignore_index: int
    box_format: BoxFormat | None


class Masked(NamedTuple):
    """One image of a call."""

    mask: Tensor  # (H, W) int64 labels
    local: Tensor  # (H, W) int64 numbers of the classes; K = takes no part
    classes: list[int]  # K mask labels
    background: int | None  # local number of the background
    inside: Tensor  # (H, W) bool, pixels that may get another label
    probs: Tensor | None  # (K, H, W) float32
    foreign: Tensor  # (H, W) int64 labels of pixels that no class gets
    names: Names

    def labelled(self, local: Tensor) -> Tensor:
        """Local classes (H, W) as mask labels."""
        table = torch.tensor([*self.classes, 0], device=local.device)
        return torch.where(local < len(self.classes), table[local], self.foreign)


def read_masks(
    masks: Any, *, probs: Any = None, classes: Any = None, labels: Any, boxes: Any, form: Form
) -> Iterator[Masked]:
    """The images of a call, checked, one after the other.

    Without ``classes`` those of an image are the background and its tags, or without ``labels`` what its mask
    has. Pixels of other labels, of ``ignore_index`` and outside the boxes take no part.
    """
    check_ignore_index(form.ignore_index)
    check_choice(form.background, "background", ("first", "last", "none"))
    if isinstance(masks, RefineSteps):
        if probs is not None or classes is not None:
            raise ValueError("probs and classes come with the result of refine_steps: leave both out")
        steps = split(masks)
        single = len(steps) == 1 and steps[0] is masks
        probs = [one.probs for one in steps]
        classes = [one.classes for one in steps]
        structure = "single" if single else "list" if isinstance(masks.mask, list) else "batch"
        parts = [one.mask for one in steps]
    else:
        structure, parts = _split(masks)
    count = len(parts)
    names = Names(structure, list(range(count)))
    entries = read_entries(labels, names)
    if structure == "single" and not isinstance(masks, RefineSteps):
        probs, classes = (None if value is None else [value] for value in (probs, classes))
    if structure == "single":
        boxes = None if boxes is None else [boxes]
    elif classes is not None and isinstance(classes, Sequence) and all(type(c) is int for c in classes):
        classes = [classes] * count
    for argument, value in (("probs", probs), ("classes", classes), ("boxes", boxes)):
        check_entries(argument, value, count)
    for number, mask in enumerate(parts):
        own = None if entries is None else entries[number]
        box = None if boxes is None else [boxes[number]]
        given = None if classes is None else classes[number]
        scores = None if probs is None else probs[number]
        yield _read(mask, scores, given, own, box, form, Names(structure, [number]))


def gather(masks: Any, results: list[Tensor]) -> Any:
    """The results of a call in its structure."""
    given = masks.mask if isinstance(masks, RefineSteps) else masks
    if not isinstance(given, Tensor):
        return results
    if given.ndim == 2:
        return results[0]
    return torch.stack(results) if results else given.long()


def is_single(masks: Any) -> bool:
    """Whether a call is on a single image."""
    given = masks.mask if isinstance(masks, RefineSteps) else masks
    return isinstance(given, Tensor) and given.ndim == 2


def _split(masks: Any) -> tuple[Any, list[Any]]:
    if isinstance(masks, Sequence) and not isinstance(masks, (str, bytes)):
        if not masks:
            raise TypeError("masks must hold at least one mask, got an empty list: pass a list of (H, W)")
        return "list", [*masks]
    form = "(B, H, W) or (H, W), a list of (H, W), or the result of refine_steps"
    tensor = check_tensor(masks, "masks", form, ndim=(2, 3))
    return ("single", [tensor]) if tensor.ndim == 2 else ("batch", [*tensor])


def _read(
    mask: Any, probs: Any, classes: Any, tags: Entry | None, box: Any, form: Form, names: Names
) -> Masked:
    name = names.entry("masks", 0)
    mask = check_tensor(mask, name, "(H, W)", ndim=2)
    check_filled(mask, name, batched=False)
    check_data(mask, name)
    check_plain(mask, name)
    if mask.dtype == torch.bool or mask.is_complex():
        raise TypeError(f"{name} must hold labels, got {describe(mask)}: call .long() on it")
    if mask.is_floating_point() and not bool((mask == mask.round()).all()):
        raise ValueError(f"{name} holds values that are no whole numbers: pass labels, not probabilities")
    mask = exact_labels(mask).long()
    inside = mark_inside(read_boxes(box, form.box_format, mask[None], Names("single", [0])).boxes, mask[None])
    inside = torch.ones_like(mask, dtype=torch.bool) if inside is None else inside[0]
    if box is not None:
        mask = torch.where(inside, mask, form.ignore_index)
    inside = inside & (mask != form.ignore_index)
    own, empty = _choose(mask[inside], classes, tags, form, names)
    if probs is not None:
        probs = _read_probs(probs, mask, len(own), names)
    local = torch.full_like(mask, len(own))
    for number, label in enumerate(own):
        local[mask == label] = number
    local = torch.where(inside, local, len(own))
    background = own.index(empty) if empty in own else None
    # Labels beside the tags are none; beside the classes of scores they may be, and stay.
    foreign = mask if tags is None else torch.full_like(mask, form.ignore_index)
    return Masked(mask, local, own, background, inside, probs, foreign, names)


def _choose(
    found: Tensor, classes: Any, tags: Entry | None, form: Form, names: Names
) -> tuple[list[int], int | None]:
    """Mask labels of the classes that take part, and the background's."""
    empty: int | None = {"first": 0, "last": None, "none": None}[form.background]
    if form.background == "last" and isinstance(tags, np.ndarray):
        empty = len(tags)
    elif form.background == "last":
        raise ValueError(
            f"background='last' needs the number of classes: pass multi-hot {names.entry('labels', 0)}"
        )
    allowed = None
    if tags is not None:
        offset = Tags.offset(form.background)
        own = np.flatnonzero(tags).tolist() if isinstance(tags, np.ndarray) else tags
        allowed = [*([] if empty is None else [empty]), *(tag + offset for tag in own)]
    if classes is not None:
        channels = _read_classes(classes, names)
        if allowed is not None and set(channels) - set(allowed):
            raise ValueError(
                f"{names.entry('classes', 0)} has {sorted(set(channels) - set(allowed))[:5]}, which the tags "
                "do not name: pass labels that name all, or none"
            )
        return channels, empty
    if allowed is None:
        labels: set[int] = {*found.unique().tolist()}
        allowed = sorted(labels if empty is None else labels | {empty})
        if len(allowed) > _MOST_CLASSES or (allowed and allowed[0] < 0):
            raise ValueError(
                f"{names.entry('masks', 0)} holds the label {allowed[0]}, which no class has and is not "
                f"ignore_index {form.ignore_index}: set ignore_index, or renumber the classes"
            )
    if form.ignore_index in allowed:
        raise ValueError(
            f"ignore_index {form.ignore_index} is the label of a class: pass a label that no class has"
        )
    return allowed, empty


def _read_classes(classes: Any, names: Names) -> list[int]:
    name = names.entry("classes", 0)
    values = classes.tolist() if isinstance(classes, (Tensor, np.ndarray)) else classes
    if not isinstance(values, (list, tuple)) or not all(type(value) is int for value in values):
        raise TypeError(f"{name} must list the mask labels of probs' channels, got {describe(classes)}")
    if len(set(values)) < len(values):
        raise ValueError(f"{name} names a label twice, got {values}: pass each once")
    return [*values]


def _read_probs(probs: Any, mask: Tensor, count: int, names: Names) -> Tensor:
    name, size = names.entry("probs", 0), tuple(mask.shape)
    probs = check_tensor(probs, name, "(K, H, W)", ndim=3, floating=True)
    check_data(probs, name)
    check_same(probs, name, mask, names.entry("masks", 0), batched=False)
    if tuple(probs.shape) != (count, *size):
        raise ValueError(
            f"{name} must be ({count}, {size[0]}, {size[1]}), a map for each class and the size of the mask, "
            f"got {describe(probs)}: pass the classes of its channels, and resize it to the mask"
        )
    check_finite(probs, name)
    if probs.numel() and float(probs.min()) < 0:
        raise ValueError(f"{name} must not be negative: pass probs.softmax(dim=0) for logits")
    return probs.detach().float()
