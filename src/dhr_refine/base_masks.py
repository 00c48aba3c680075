"""Base masks, what refinement starts from, out of CAMs and image tags."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Unpack

from .checks import check_ignore_index, check_positive, check_range, describe, read_numbers, show
from .compiled import eager, ordinary
from .crops import first_best
from .edges import Boundary, Edges, Place, check_boundary, needs_images
from .inputs import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BoxFormat,
    CamCall,
    CamForm,
    CamGroup,
    GivenBoxes,
    Labels,
    read_cam_groups,
)
from .keywords import MaskKeywords
from .maps import resize

# Below this a CAM, or the sum of scores of a pixel, holds no signal.
_LEAST = 1e-12
# CAMs that were divided by their maximum in half precision.
_MOST = 1.001

Decide = Callable[[Tensor, Tensor | None, list[Place]], Tensor]
"""From CAMs in [0, 1] (b, k, h, w), images, and where in the call's these are, to (b, h, w).

0 is background, 1..k are tags, k + 1 is unknown.
"""


@overload
def base_mask(
    cams: Tensor,
    labels: Labels,
    images: Tensor | None = None,
    *,
    background: float | Literal["power"],
    alpha: float = 1.0,
    **options: Unpack[MaskKeywords],
) -> Tensor: ...
@overload
def base_mask(
    cams: Sequence[Tensor],
    labels: Labels,
    images: Tensor | Sequence[Tensor] | None = None,
    *,
    background: float | Literal["power"],
    alpha: float = 1.0,
    **options: Unpack[MaskKeywords],
) -> list[Tensor]: ...
@eager
def base_mask(
    cams: Tensor | Sequence[Tensor],
    labels: Labels,
    images: Tensor | Sequence[Tensor] | None = None,
    *,
    background: float | Literal["power"],
    alpha: float = 1.0,
    refine: Boundary = None,
    normalise: bool = True,
    size: Sequence[int] | Sequence[Sequence[int]] | None = None,
    boxes: GivenBoxes = None,
    box_format: BoxFormat | None = None,
    ignore_index: int = 255,
    mean: Sequence[float] | None = IMAGENET_MEAN,
    std: Sequence[float] | None = IMAGENET_STD,
) -> Tensor | list[Tensor]:
    """Make base masks of CAMs: a background score beside the CAMs of the tags, a boundary tool, argmax.

    Parameters
    ----------
    cams : Tensor, (B, C, h, w), floating point
        Class activation maps or logits at any resolution, enlarged to the mask. C foreground classes, C + 1
        with the background channel first (ignored), or only the K tags of each image. One image (C, h, w) and
        lists of them as well.
    labels : Tensor (B, C) or list of index lists
        Image tags without background, in all forms that :func:`refine_mask` takes.
    images : Tensor, (B, 3, H, W), optional
        The same crops: uint8, floating point in [0, 1], or normalised with ``mean`` and ``std``, as in
        :func:`refine_mask`; the masks get their size. Needed by a named ``refine``, and by callables that
        look at them.
    background : float in [0, 1], or "power"
        Score of the background: a constant, or ``(1 - max over the tags) ** alpha``. No default: the best
        constant depends on the CAMs and on the data set.
    alpha : float, default 1.0
        Exponent of "power", above 0: 1 in WeCLIP, 2 in RSEPM, 4 to 24 in SEAM, where a larger one means less
        background.
    refine : None, "crf", "pamr", "par" or callable
        Boundary tool before the argmax, as ``boundary`` of :func:`refine_mask`; it sees the background and
        the tags, in this order, within the box.
    normalise : bool, default True
        Whether CAMs are divided by their maximum inside the box, and the scores of a pixel brought to sum 1
        before the boundary tool. False: CAMs lie in [0, 1] already and are refined as they are.
    size : (H, W), optional
        Size of the masks where there are no images; default: that of the CAMs. For lists a list of pairs.
    boxes : Tensor (B, 4), array or list, optional
        Crop boxes as in :func:`refine_mask`: pixels outside take part in nothing and are ``ignore_index``.
    box_format : {"xyxy", "yyxx"}
        Order of ``boxes``, required with them.
    ignore_index : int, default 255
        Label of pixels outside the boxes.
    mean, std : three floats each, or None
        Normalisation of floating point images in units of [0, 1], as in :func:`refine_mask`; ImageNet's by
        default. None: images are in [0, 1].

    Returns
    -------
    LongTensor (B, H, W), (H, W) for one image, or a list
        0 is the background and tag t has the label t + 1. An image without tags is all background, and where
        a tag scores no more than the background, the background wins.

    Raises
    ------
    ValueError, TypeError
        Anything above violated; the message names the argument, what came and the fix.

    References
    ----------
    The power is that of J. Ahn and S. Kwak, "Learning Pixel-level Semantic Affinity with Image-level
    Supervision", CVPR 2018, equation 2; normalised CAMs beside a constant are the usual pseudo masks of the
    field.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine import base_mask
    >>> cams = torch.tensor([[[2.0, 1.0, 0.0, 0.0]], [[0.0, 6.0, 10.0, 3.0]]])
    >>> base_mask(cams, [0, 4], background=0.45)
    tensor([[1, 5, 5, 0]])
    >>> base_mask(cams, [0, 4], background="power", alpha=4)
    tensor([[1, 5, 5, 5]])
    """
    if isinstance(background, str) and background == "power":
        check_positive(alpha, "alpha")
    elif isinstance(background, str):
        raise ValueError(
            f"background must be a score in [0, 1] or 'power', got {show(background)}: pass 0.3, say"
        )
    else:
        check_range(background, "background", 0.0, 1.0)

    def decide(scores: Tensor, own: Tensor | None, places: list[Place]) -> Tensor:
        empty = scores.new_full((len(scores), 1, *scores.shape[2:]), 0.0)
        if isinstance(background, str):
            empty += (1.0 - scores.amax(dim=1, keepdim=True)).clamp_min(0.0) ** alpha
        else:
            empty += background
        probs = torch.cat((empty, scores), dim=1)
        if normalise:
            probs = probs / probs.sum(dim=1, keepdim=True).clamp_min(_LEAST)
        return first_best(Edges(refine, own, "refine", places)(probs))[1]

    form = _form(box_format, ignore_index, mean, std, refine)
    return _make(CamCall(cams, labels, images, size, boxes), form, decide, normalise=normalise, cut=True)


@overload
def two_threshold_mask(
    cams: Tensor,
    labels: Labels,
    images: Tensor | None = None,
    *,
    high: float | Sequence[float] | Tensor,
    low: float | Sequence[float] | Tensor,
    scale: float = 0.5,
    **options: Unpack[MaskKeywords],
) -> Tensor: ...
@overload
def two_threshold_mask(
    cams: Sequence[Tensor],
    labels: Labels,
    images: Tensor | Sequence[Tensor] | None = None,
    *,
    high: float | Sequence[float] | Tensor,
    low: float | Sequence[float] | Tensor,
    scale: float = 0.5,
    **options: Unpack[MaskKeywords],
) -> list[Tensor]: ...
@eager
def two_threshold_mask(
    cams: Tensor | Sequence[Tensor],
    labels: Labels,
    images: Tensor | Sequence[Tensor] | None = None,
    *,
    high: float | Sequence[float] | Tensor,
    low: float | Sequence[float] | Tensor,
    refine: Boundary = None,
    scale: float = 0.5,
    normalise: bool = True,
    size: Sequence[int] | Sequence[Sequence[int]] | None = None,
    boxes: GivenBoxes = None,
    box_format: BoxFormat | None = None,
    ignore_index: int = 255,
    mean: Sequence[float] | None = IMAGENET_MEAN,
    std: Sequence[float] | None = IMAGENET_STD,
) -> Tensor | list[Tensor]:
    """Make base masks of two background scores, unknown between them: those of AFA, ToCo, DuPL and SeCo.

    Two masks are made, with ``high`` and with ``low`` as the score of the background beside the CAMs of the
    tags: the softmax of these scores, the boundary tool, argmax. A pixel is background where both say so,
    unknown where only the one with ``high`` does, and otherwise the class of that one.

    Parameters
    ----------
    cams, labels, images
        As in :func:`base_mask`.
    high, low : float, or one for each image (B,)
        Background scores in [0, 1], ``low`` at most ``high``: 0.7 and 0.25 in ToCo (VOC), 0.55 and 0.35 in
        AFA. No defaults: the right ones depend on how the CAMs are spread and on the data set. DuPL lowers
        ``high`` class by class in training, and takes the highest of an image's tags.
    refine : None, "par", "pamr", "crf" or callable
        Boundary tool, "par" in these codebases. None: the plain thresholds, without softmax, in full
        resolution.
    scale : float, default 0.5
        Resolution at which the boundary tool works, in (0, 1]; half in these codebases (``down_scale=2``).
        CAMs and images are brought to it and the result back, bilinear with half-pixel centres. "par" gets
        the images unrounded, as there, a callable gets uint8.
    normalise : bool, default True
        Whether CAMs are divided by their maximum inside the box. False: they lie in [0, 1] already, as
        those of these codebases do, and are taken as they are.
    size, boxes, box_format, ignore_index, mean, std
        As in :func:`base_mask`; ``ignore_index`` marks unknown pixels as well. As in these codebases, what is
        outside a box takes part in the boundary tool's work, but not in the result.

    Returns
    -------
    LongTensor (B, H, W), (H, W) for one image, or a list
        0 is the background, tag t has the label t + 1, ``ignore_index`` stands for unknown pixels and for
        those outside the boxes. An image without tags is all background.

    Raises
    ------
    ValueError, TypeError
        Anything above violated; the message names the argument, what came and the fix.

    References
    ----------
    L. Ru et al., "Learning Affinity from Attention", CVPR 2022, section 3.4, and "Token Contrast for
    Weakly-Supervised Semantic Segmentation", CVPR 2023, whose code this does the same as.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine import two_threshold_mask
    >>> cams = torch.tensor([[[1.0, 0.5, 0.2, 0.0]]])
    >>> two_threshold_mask(cams, [14], high=0.7, low=0.25)
    tensor([[ 15, 255,   0,   0]])
    """
    highs, lows = _read_scores(high, "high", cams), _read_scores(low, "low", cams)
    for most, least in zip(highs, lows, strict=True):
        if least > most:
            raise ValueError(f"low must be at most high, got {show(least)} and {show(most)}: exchange them")
    check_range(scale, "scale", 1e-6, 1.0)

    def decide(scores: Tensor, own: Tensor | None, places: list[Place]) -> Tensor:
        full = scores.shape[-2:]
        if refine is not None:
            small = (max(1, int(full[0] * scale)), max(1, int(full[1] * scale)))
            scores = resize(scores, small, aligned=False)
            if own is not None and small != full:
                own = resize(own.float(), small, aligned=False)
                own = own if refine == "par" else own.round_().byte()
        edges = Edges(refine, own, "refine", places)
        winners = []
        for thresholds in (highs, lows):
            empty = scores.new_tensor([thresholds[place.image] for place in places])[:, None, None, None]
            maps = torch.cat((empty.expand_as(scores[:, :1]), scores), dim=1)
            if refine is not None:
                maps = resize(edges(maps.softmax(dim=1)), full, aligned=False)
            winners.append(first_best(maps)[1])
        strict, loose = winners
        return strict.masked_fill((strict == 0) & (loose > 0), scores.shape[1] + 1)

    form = _form(box_format, ignore_index, mean, std, refine)
    return _make(CamCall(cams, labels, images, size, boxes), form, decide, normalise=normalise, cut=False)


def _read_scores(value: Any, name: str, cams: Any) -> list[float]:
    """A background score for each image of a call: one for all, or as many as there are."""
    batched = isinstance(cams, (list, tuple)) or (isinstance(cams, Tensor) and cams.ndim == 4)
    count = len(cams) if batched else 1
    if not isinstance(value, (Tensor, np.ndarray, list, tuple)):
        check_range(value, name, 0.0, 1.0)
        return [value] * count
    numbers = read_numbers(value, name, "a number, or one for each image")
    if numbers.ndim == 0:
        numbers = numbers.repeat(count)
    if numbers.shape != (count,):
        raise ValueError(
            f"{name} must be a number, or one for each of {count} images, got {describe(value)}: pass shape "
            f"({count},); of scores by class the highest of the image's tags, of a map its one number"
        )
    scores = numbers.tolist()
    for score in scores:
        check_range(score, name, 0.0, 1.0)
    return scores


def _form(
    box_format: BoxFormat | None,
    ignore_index: int,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    refine: Boundary,
) -> CamForm:
    check_ignore_index(ignore_index)
    check_boundary(refine, "refine")
    return CamForm(box_format, ignore_index, mean, std, needs_images(refine))


@ordinary
def _make(
    call: CamCall, form: CamForm, decide: Decide, *, normalise: bool, cut: bool
) -> Tensor | list[Tensor]:
    """The masks of a call in its structure."""
    if not isinstance(normalise, bool):
        raise TypeError(f"normalise must be a bool, got {show(normalise)}: pass True or False")
    masks = []
    for group in read_cam_groups(call, form):
        with torch.autocast(device_type=group.cams.device.type, enabled=False):
            mask = _fill(group, decide, normalise=normalise, cut=cut)
        if group.names.structure == "batch":
            return mask
        masks.append(mask[0])
        if group.names.structure == "single":
            return masks[0]
    return masks


def _fill(group: CamGroup, decide: Decide, *, normalise: bool, cut: bool) -> Tensor:
    """(B, H, W) masks of a group: images whose boxes have one size and that have equally many tags together.

    ``cut``: what is outside a box takes part in nothing; otherwise it is left out of the result alone.
    """
    result = group.blank.clone()
    whole = (0, 0, result.shape[2], result.shape[1])
    cams = group.cams.relu()
    if not normalise and cams.numel() and float(cams.amax()) > _MOST:
        raise ValueError(
            f"{group.names.of('cams')} reach {float(cams.amax()):.3g} but must lie in [0, 1] with "
            "normalise=False: divide each class by its maximum, or leave normalise out"
        )
    alike: dict[tuple[int, int, int], list[int]] = {}
    for row, (x0, y0, x1, y1) in enumerate(group.boxes):
        if x1 > x0 and y1 > y0:
            size = (y1 - y0, x1 - x0) if cut else (whole[3], whole[2])
            alike.setdefault((len(group.labels[row]), *size), []).append(row)
    for (tags, *_), rows in alike.items():
        boxes = [group.boxes[row] if cut else whole for row in rows]
        local = torch.zeros(len(rows), 1, 1, dtype=torch.long, device=result.device)  # no tag, no class
        if tags > 0:
            # All channels in one call: channel by channel the last digit differs from published masks'.
            scores = F.interpolate(cams[rows, :tags], result.shape[1:], mode="bilinear")
            scores = _cut(scores, boxes)
            if normalise:
                seen = scores
                if group.inside is not None:
                    seen = scores * _cut(group.inside[rows, None], boxes)
                top = seen.amax(dim=(2, 3), keepdim=True).clamp_min(_LEAST)
                scores = (scores / top).clamp_max(1.0)  # outside a box there may be more
            own = None if group.images is None else _cut(group.images[rows], boxes)
            full = (whole[3], whole[2])
            places = [Place(group.names.where[row], full, box) for row, box in zip(rows, boxes)]
            local = decide(scores, own, places)
        for row, winner, (x0, y0, x1, y1) in zip(rows, local, boxes):
            table = [0, *group.labels[row], group.ignore_index]
            values = torch.tensor(table, device=result.device)
            result[row, y0:y1, x0:x1] = values[winner]
    return result if cut or group.inside is None else torch.where(group.inside, result, group.blank)


def _cut(maps: Tensor, boxes: list[tuple[int, int, int, int]]) -> Tensor:
    """Crop full-size maps (b, c, H, W) to boxes of one size."""
    return torch.stack([one[:, y0:y1, x0:x1] for one, (x0, y0, x1, y1) in zip(maps, boxes)])
