"""Reads what callers of refine_mask hold (tags, boxes, images, masks in many forms) into uniform batches."""

from __future__ import annotations

import math
import reprlib
import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..checks import (
    check_choice,
    check_filled,
    check_same,
    check_tensor,
    describe,
    float32_norm,
    raise_magnitude,
)
from ..pooling import count_labels
from ..rebalance import check_levels

Background = Literal["first", "last", "none"]
BoxFormat = Literal["xyxy", "yyxx"]
Structure = Literal["single", "batch", "list"]
Box = tuple[int, int, int, int]  # x0, y0, x1, y1, ends exclusive

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# Mask labels are counted in a table of this size, one more pass than none: 8-bit masks always fit.
_TABLE = 256


class Batch(NamedTuple):
    """Images of one size, with the classes of each image brought to the front and nothing else kept."""

    cams: Tensor  # (B, T, h, w) float32, CAMs of the tags; padded with zeros
    tags: list[int]  # number of tags of each image, on the host
    labels: Tensor  # (B, H, W) base mask in local class numbers, K = takes no part
    classes: Tensor  # (B, K) int64 mask label of each local class, -1 = padding
    counts: list[int]  # number of classes of each image, on the host
    base_pixels: Tensor  # (B, K) pixels of each class in the base mask
    background: int | None  # local number of the background
    base: Tensor  # (B, H, W) int64 base mask, ignore outside the boxes
    inside: Tensor | None  # (B, H, W) bool; None = every pixel
    boxes: list[Box]
    uss: Tensor  # (B, D, u, v)
    wss: list[Tensor]
    images: Tensor | None  # (B, 3, H, W) uint8


class Request(NamedTuple):
    """A call as it came, one entry per field and image group (see :func:`read_groups`)."""

    cams: Any
    masks: Any
    uss: Any
    wss: Any
    images: Any
    labels: Any
    boxes: Any


def read_groups(request: Request) -> tuple[list[tuple[list[int], Request]], Structure]:
    """Split a call into groups of images of one size, each in batched form, and tell how the call came."""
    if isinstance(request.masks, Tensor):
        check_tensor(request.masks, "masks", "(B, H, W) or (H, W)", ndim=(2, 3))
        if request.masks.ndim == 3:
            return [(list(range(request.masks.shape[0])), request)], "batch"
        return [([0], _add_batch_axis(request))], "single"
    if not isinstance(request.masks, Sequence) or len(request.masks) == 0:
        raise TypeError(
            "masks must be a tensor (B, H, W) or (H, W), or a list of (H, W), got "
            f"{describe(request.masks)}: convert arrays with torch.as_tensor"
        )
    items = _split_items(request)
    groups: dict[tuple, list[int]] = {}
    for position, item in enumerate(items):
        groups.setdefault(_shape_key(item), []).append(position)
    return [(where, _stack([items[i] for i in where])) for where in groups.values()], "list"


def _add_batch_axis(request: Request) -> Request:
    def expand(value: Any, name: str, shape: str, ndim: int) -> Tensor:
        return check_tensor(value, name, f"{shape} as masks is (H, W)", ndim=ndim)[None]

    wss = request.wss
    if isinstance(wss, Sequence):
        wss = [expand(level, f"wss_features[{i}]", "(D, h, w)", 3) for i, level in enumerate(wss)]
    else:
        wss = expand(wss, "wss_features", "(D, h, w)", 3)
    return Request(
        expand(request.cams, "cams", "(C, h, w)", 3),
        request.masks[None],
        expand(request.uss, "uss_features", "(D, h, w)", 3),
        wss,
        None if request.images is None else expand(request.images, "images", "(3, H, W) or (H, W, 3)", 3),
        None if request.labels is None else [request.labels],
        None if request.boxes is None else [request.boxes],
    )


def _split_items(request: Request) -> list[Request]:
    """A call on lists, image by image, each with a batch axis of one."""
    count = len(request.masks)
    labels = _ragged_keys(request.labels)

    def entry(value: Any, name: str, position: int) -> Any:
        if value is None:
            return None
        if not isinstance(value, (Tensor, np.ndarray, Sequence)) or len(value) != count:
            came = f"{len(value)} entries" if hasattr(value, "__len__") else describe(value)
            raise ValueError(
                f"{name} must have one entry for each of the {count} masks, got {came}: "
                f"pass a list of {count}"
            )
        if value[position] is None and name == "labels":
            raise TypeError(f"labels[{position}] is None: pass an entry for every image, [] for no tags")
        return value[position]

    items = []
    for i in range(count):
        mask = check_tensor(request.masks[i], f"masks[{i}]", "(H, W)", ndim=2)
        items.append(
            _add_batch_axis(
                Request(
                    entry(request.cams, "cams", i),
                    mask,
                    entry(request.uss, "uss_features", i),
                    entry(request.wss, "wss_features", i),
                    entry(request.images, "images", i),
                    entry(labels, "labels", i),
                    entry(request.boxes, "boxes", i),
                )
            )
        )
    return items


def _shape_key(item: Request) -> tuple:
    levels = item.wss if isinstance(item.wss, list) else [item.wss]
    tensors = (item.cams, item.masks, item.uss, *levels, item.images)
    return tuple(None if t is None else (tuple(t.shape), t.dtype, t.device) for t in tensors)


def _stack(items: list[Request]) -> Request:
    first = items[0]

    def cat(name: str) -> Tensor | None:
        values = [getattr(item, name) for item in items]
        return None if values[0] is None else torch.cat(values)

    if isinstance(first.wss, list):
        wss = [torch.cat([item.wss[level] for item in items]) for level in range(len(first.wss))]
    else:
        wss = cat("wss")
    labels = None if first.labels is None else [item.labels[0] for item in items]
    boxes = (
        None
        if all(item.boxes is None for item in items)
        else [None if item.boxes is None else item.boxes[0] for item in items]
    )
    return Request(cat("cams"), cat("masks"), cat("uss"), wss, cat("images"), labels, boxes)


def read_batch(
    request: Request,
    *,
    box_format: BoxFormat | None,
    background: Background,
    ignore_index: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    all_labels: bool,
    need_images: bool,
) -> Batch:
    """Check one group of images and bring it to :class:`Batch` (waits for the device three times).

    ``all_labels`` lets every label of the base mask take part besides the tags and the background.
    """
    check_choice(background, "background", ("first", "last", "none"))
    masks = check_tensor(request.masks, "masks", "(B, H, W)", ndim=3)
    cams = check_tensor(request.cams, "cams", "(B, C, h, w)", ndim=4, floating=True)
    uss = check_tensor(request.uss, "uss_features", "(B, D, h, w)", ndim=4, floating=True)
    levels = check_levels(request.wss, "wss_features")
    for value, name in ((masks, "masks"), (cams, "cams"), (uss, "uss_features")):
        check_filled(value, name)
    check_same(cams, "cams", masks, "masks")
    check_same(uss, "uss_features", masks, "masks")
    for position, level in enumerate(levels):
        check_same(level, f"wss_features[{position}]", masks, "masks")
    if masks.dtype == torch.bool or masks.is_complex():
        raise TypeError(f"masks must hold labels, got {describe(masks)}: pass integers")
    _check_values([cams, uss, *levels], ["cams", "uss_features", *_level_names(levels)], masks)
    images = read_images(request.images, masks, mean, std, need_images)
    boxes = _read_boxes(request.boxes, box_format, masks)
    inside = _inside(boxes, masks)
    base = masks.long()
    if inside is not None:
        base = torch.where(inside, base, ignore_index)

    entries = _label_entries(request.labels, masks.shape[0])
    limit = max(_TABLE, cams.shape[1] + 2)
    if entries is not None:
        # Tags that name the channels of compact CAMs may lie beyond both.
        limit = max(
            limit, *(max(e, default=0) + 3 if isinstance(e, list) else len(e) + 2 for e in entries), 0
        )
    slots = _label_slots(base, limit, ignore_index)
    table = _count_slots(slots, limit, ignore_index)
    counts = table.cpu().numpy()
    if bool(counts[:, -1].any()):
        strange = base[(base != ignore_index) & ((base < 0) | (base >= limit))][0]
        raise ValueError(
            f"masks holds the label {int(strange)}, which no class has and is not ignore_index "
            f"{ignore_index}: set ignore_index, or renumber the classes"
        )
    tags, channels, foreground = _read_tags(entries, counts, cams.shape[1], background)
    offset = 1 if background == "first" else 0
    _check_labels(counts, foreground, background, ignore_index)
    _check_ignored(tags, foreground, background, ignore_index)
    background_id = {"first": 0, "last": foreground, "none": None}[background]
    ids = []
    for image, chosen in enumerate(tags):
        own = [t + offset for t in chosen]
        if background_id is not None:
            own = [background_id, *own]
        if all_labels:
            own += [label for label in np.flatnonzero(counts[image, :limit]).tolist() if label not in own]
        ids.append(own)
    return Batch(
        cams=_gather(cams, channels),
        tags=[len(chosen) for chosen in tags],
        labels=_local_labels(slots, ids, limit),
        classes=_pad(ids, masks.device, width=_width(ids)),
        counts=[len(own) for own in ids],
        base_pixels=_take(table, ids),
        background=None if background == "none" else 0,
        base=base,
        inside=inside,
        boxes=boxes,
        uss=uss,
        wss=levels,
        images=images,
    )


def _level_names(levels: list[Tensor]) -> list[str]:
    return [f"wss_features[{i}]" if len(levels) > 1 else "wss_features" for i in range(len(levels))]


def _check_values(tensors: list[Tensor], names: list[str], masks: Tensor) -> None:
    """Refuse NaN, infinity and fractional labels with a single wait for the device."""
    # Only features are squared (for their cosines); CAMs may be as large as float32 goes.
    checks = [float32_norm(t, math.inf if name == "cams" else 2) for t, name in zip(tensors, names)]
    if masks.is_floating_point():
        checks.append(torch.where(masks - masks.round() == 0, 0.0, math.inf).sum())
        names, tensors = [*names, "masks"], [*tensors, masks]
    for name, tensor, total in zip(names, tensors, torch.stack(checks).tolist()):
        if math.isfinite(total):
            continue
        if name == "masks":
            raise ValueError("masks holds values that are no whole numbers: pass labels, not probabilities")
        raise_magnitude(tensor, name)


def read_images(
    images: Any, masks: Tensor, mean: Sequence[float] | None, std: Sequence[float] | None, needed: bool
) -> Tensor | None:
    """Bring normalised, [0, 1] or uint8 images to (B, 3, H, W) uint8."""
    if images is None:
        if needed:
            raise ValueError(
                "images must be given for boundary='crf' or 'pamr': pass the images, or boundary=None"
            )
        return None
    check_tensor(images, "images", "(B, 3, H, W)", ndim=4)
    _check_normalisation(mean, std)
    if images.dtype == torch.uint8 and images.shape[1] != 3 and images.shape[-1] == 3:
        images = images.movedim(-1, 1)
    check_same(images, "images", masks, "masks")
    if images.shape[1] != 3 or images.shape[2:] != masks.shape[1:]:
        raise ValueError(
            f"images must have shape (B, 3, H, W) with the size of masks {tuple(masks.shape[1:])}, got "
            f"{describe(images)}: resize the images or the masks"
        )
    if images.dtype == torch.uint8:
        return images
    if not images.is_floating_point():
        raise TypeError(f"images must be uint8 or floating point, got {describe(images)}: call .byte() on it")
    images = images.detach().float()
    lows, highs = [0.0], [0.0]
    if images.numel():
        lows, highs = torch.stack((images.amin((0, 2, 3)), images.amax((0, 2, 3)))).tolist()
    low, high = min(lows), max(highs)
    if not all(map(math.isfinite, (*lows, *highs))):
        raise ValueError("images hold NaN or infinity: check the augmentation")
    # Resizing overshoots a little; a normalised image that stays this close to [0, 1] would be all grey.
    unit = low >= -0.1 and high <= 1.1
    if mean is not None and std is not None and not unit:
        shape = (1, 3, 1, 1)
        images = images * images.new_tensor(list(std)).view(shape) + images.new_tensor(list(mean)).view(shape)
        low = min(value * s + m for value, s, m in zip(lows, std, mean))
        high = max(value * s + m for value, s, m in zip(highs, std, mean))
    if low < -0.5 or high > 1.5:
        raise ValueError(
            f"images span [{low:.3g}, {high:.3g}] after undoing mean and std, not [0, 1]: pass the mean and "
            "std that they were normalised with, or uint8 images"
        )
    return (images * 255.0).round_().clamp_(0, 255).byte()


def _check_normalisation(mean: Sequence[float] | None, std: Sequence[float] | None) -> None:
    """Raise unless mean and std are three finite numbers each, std above 0, or None."""
    if mean is None and std is None:
        return
    if mean is None or std is None:
        raise ValueError("mean and std must be given together: pass both, or None for both")
    for name, values in (("mean", mean), ("std", std)):
        try:
            numbers = [float(value) for value in values]
        except (TypeError, ValueError):
            numbers = []
        good = len(numbers) == 3 and all(math.isfinite(v) and (name == "mean" or v > 0) for v in numbers)
        if not good:
            raise ValueError(
                f"{name} must have 3 entries, finite{', above 0' if name == 'std' else ''}, got {values!r}: "
                "one per channel"
            )


def _read_boxes(boxes: Any, box_format: BoxFormat | None, masks: Tensor) -> list[Box]:
    """Crop boxes as host integers x0, y0, x1, y1."""
    height, width = masks.shape[1:]
    whole = (0, 0, width, height)
    if boxes is None:
        return [whole] * masks.shape[0]
    if box_format not in ("xyxy", "yyxx"):
        raise ValueError(
            f"box_format must be 'xyxy' or 'yyxx' where boxes are given, got {box_format!r}: "
            "'xyxy' is x0, y0, x1, y1; 'yyxx' is y0, y1, x0, x1"
        )
    if isinstance(boxes, Tensor):
        boxes = boxes.detach().cpu().double().numpy()
    if not isinstance(boxes, (np.ndarray, Sequence)) or isinstance(boxes, str):
        raise TypeError(
            f"boxes must be a tensor, array or list (B, 4), got {describe(boxes)}: pass one of them"
        )
    if len(boxes) != masks.shape[0]:
        raise ValueError(
            f"boxes must have one entry per image, got {len(boxes)} for {masks.shape[0]} images: pass (B, 4)"
        )
    result = []
    for position, box in enumerate(boxes):
        if box is None:
            result.append(whole)
            continue
        if isinstance(box, Tensor):
            box = box.detach().cpu().double().numpy()
        try:
            values = np.asarray(box, dtype=np.float64).reshape(-1)
        except (TypeError, ValueError):
            values = np.zeros(0)
        if values.size != 4 or not np.isfinite(values).all() or not np.array_equal(values, values.round()):
            raise ValueError(
                f"boxes[{position}] must be four whole numbers, got {box!r}: pass {box_format} in pixels"
            )
        a, b, c, d = (int(v) for v in values)
        x0, y0, x1, y1 = (a, b, c, d) if box_format == "xyxy" else (c, a, d, b)
        if not (0 <= x0 <= x1 <= width and 0 <= y0 <= y1 <= height):
            raise ValueError(
                f"boxes[{position}] is x {x0}..{x1}, y {y0}..{y1} read as {box_format}, outside the image of "
                f"height {height} and width {width}: check box_format, or clip the box"
            )
        result.append((x0, y0, x1, y1))
    return result


def _inside(boxes: list[Box], masks: Tensor) -> Tensor | None:
    """(B, H, W) bool; None when every box is the whole image."""
    height, width = masks.shape[1:]
    if all(box == (0, 0, width, height) for box in boxes):
        return None
    x0, y0, x1, y1 = torch.tensor(boxes, device=masks.device).T[:, :, None]
    rows = torch.arange(height, device=masks.device)
    columns = torch.arange(width, device=masks.device)
    return ((rows >= y0) & (rows < y1))[:, :, None] & ((columns >= x0) & (columns < x1))[:, None, :]


def _label_entries(labels: Any, batch: int) -> list[list[int] | np.ndarray] | None:
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
    return [_label_entry(entry, position, sure=False) for position, entry in enumerate(_ragged_keys(labels))]


def _ragged_keys(labels: Any) -> Any:
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
            if isinstance(value, bool) or not isinstance(value, int) or value < 0:
                raise TypeError(
                    f"{name} must list tag indices 0, 1, ..., got {value!r}: pass a tensor for multi-hot tags"
                )
        return sorted(set(values)) if isinstance(entry, (set, frozenset)) else values
    if not isinstance(entry, np.ndarray) or entry.ndim != 1:
        raise TypeError(
            f"{name} must be 1-D tags or a list of indices, got {describe(entry)}: pass one of them"
        )
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


def _read_tags(
    entries: list[list[int] | np.ndarray] | None, counts: np.ndarray, channels: int, background: Background
) -> tuple[list[list[int]], list[list[int]], int | None]:
    """Tags of each image (0-based), the CAM channel of each, and the number of foreground classes."""
    if entries is None:
        warnings.warn(
            "refine_mask was called without labels: the classes present in masks stand in for the tags, so "
            "classes that vanished from a base mask cannot come back. Pass labels.",
            UserWarning,
            stacklevel=5,  # the line that calls refine_mask
        )
        first = 1 if background == "first" else 0
        present = counts[:, first : first + channels] > 0
        tags = [np.flatnonzero(row).tolist() for row in present]
        return tags, tags, channels
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
        return tags, tags, foreground
    if channels == foreground + 1 and background != "none":
        shift = 1 if background == "first" else 0
        return tags, [[t + shift for t in own] for own in tags], foreground
    if all(len(own) == channels for own in tags):
        return tags, [list(range(channels)) for _ in tags], foreground
    raise ValueError(
        f"cams has {channels} channels but labels has {foreground}: pass foreground-only labels of shape "
        f"(B, {channels}), or CAMs with a background channel"
    )


def _read_indices(
    tags: list[list[int]], channels: int, background: Background
) -> tuple[list[list[int]], list[list[int]], int | None]:
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
        return tags, tags, channels
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
    return tags, [list(range(channels)) for _ in tags], None


def _check_labels(
    counts: np.ndarray, foreground: int | None, background: Background, ignore_index: int
) -> None:
    if foreground is None:
        return
    allowed = foreground + (0 if background == "none" else 1)
    wrong = np.flatnonzero(counts[:, allowed:-1].sum(0))
    if wrong.size:
        raise ValueError(
            f"masks holds the label {allowed + int(wrong[0])} but there are {foreground} foreground classes "
            f"with background {background!r} (labels 0..{allowed - 1}, ignore {ignore_index}): check "
            "background and ignore_index, or pass the CAMs of all classes"
        )


def _check_ignored(
    tags: list[list[int]], foreground: int | None, background: Background, ignore_index: int
) -> None:
    """Raise if ``ignore_index`` is the label of a class that takes part."""
    offset = 1 if background == "first" else 0
    used = {tag + offset for own in tags for tag in own}
    if background == "first":
        used.add(0)
    elif background == "last" and foreground is not None:
        used.add(foreground)
    if ignore_index in used:
        raise ValueError(
            f"ignore_index {ignore_index} is the label of a class (background {background!r}, tags start at "
            f"{offset}): pass a label that no class has, -1 say"
        )


def _label_slots(base: Tensor, limit: int, ignore_index: int) -> Tensor:
    """(B, H, W) where each pixel is counted and looked up: at its label ``0 .. limit - 1``, else behind.

    ``limit`` is for labels that no class can have, ``limit + 1`` for an ignore_index that is none either.
    """
    slots = base.clamp(-1, limit)
    slots.masked_fill_(slots < 0, limit)
    if not 0 <= ignore_index < limit:
        slots.masked_fill_(base == ignore_index, limit + 1)
    return slots


def _count_slots(slots: Tensor, limit: int, ignore_index: int) -> Tensor:
    """(B, limit + 1) pixels of each label; the last column counts labels that no class can have."""
    table = count_labels(slots.flatten(1), limit + 2)
    if 0 <= ignore_index < limit:
        table[:, ignore_index] = 0.0
    return table[:, : limit + 1]


def _gather(cams: Tensor, channels: list[list[int]]) -> Tensor:
    """(B, T, h, w) float32 CAMs of the given channels of each image, zeros where an image has fewer."""
    index = _pad(channels, cams.device)
    picked = torch.take_along_dim(cams.detach(), index.clamp_min(0)[:, :, None, None], dim=1).float()
    return picked.masked_fill(index[:, :, None, None] < 0, 0.0)


def _width(ids: list[list[int]]) -> int:
    """K: at least one class, so that images without any need no case of their own."""
    return max((len(own) for own in ids), default=1) or 1


def _pad(rows: list[list[int]], device: torch.device, *, width: int | None = None) -> Tensor:
    if width is None:
        width = max((len(row) for row in rows), default=0)
    padded = [row + [-1] * (width - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.long, device=device).reshape(len(rows), width)


def _take(table: Tensor, ids: list[list[int]]) -> Tensor:
    index = _pad(ids, table.device, width=_width(ids))
    return torch.take_along_dim(table, index.clamp_min(0), dim=1).masked_fill(index < 0, 0.0)


def _local_labels(slots: Tensor, ids: list[list[int]], limit: int) -> Tensor:
    """Base mask in local class numbers; labels that are no class of their image become K."""
    classes = _width(ids)
    lookup = np.full((len(ids), limit + 2), classes, dtype=np.int64)
    for image, own in enumerate(ids):
        lookup[image, own] = np.arange(len(own))
    table = torch.from_numpy(lookup).to(slots.device)
    return table.gather(1, slots.flatten(1)).view(slots.shape)
