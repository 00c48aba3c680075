"""Votes of the pixels of a segment: which class all of them get."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor
from typing_extensions import Unpack

from ..checks import check_choice
from ..compiled import eager
from ..inputs import Background, BoxFormat
from ..keep import give_back, keep_pixels
from ..keywords import RegionKeywords
from ..recipe import Recipe
from ..steps import RefineSteps
from .masks import Form, Masked, gather, is_single, read_masks
from .reading import read_segments
from .segments import Segments, SegmentsLike, as_segments, check_each, sum_runs

Rule = Literal["scores", "sepl"]
# How much more a decided segment counts than one in doubt, and what a pixel's own scores count beside them.
# Chosen on real images (docs/sam.md).
_POWER, _OWN = 2, 0.1
# SEPL: shares of a segment, and of a class, that lie in the other.
_OF_SEGMENT, _OF_CLASS = 0.5, 0.85


@overload
def sam_vote(
    masks: RefineSteps | Tensor,
    segments: SegmentsLike | str | Path | Sequence[SegmentsLike | str | Path],
    *,
    probs: Tensor | None = None,
    classes: Sequence[int] | Tensor | None = None,
    rule: Rule = "scores",
    **options: Unpack[RegionKeywords],
) -> Tensor: ...
@overload
def sam_vote(
    masks: RefineSteps[list[Tensor]] | Sequence[Tensor],
    segments: Sequence[SegmentsLike | str | Path],
    *,
    probs: Sequence[Tensor] | None = None,
    classes: Sequence[int] | Tensor | None = None,
    rule: Rule = "scores",
    **options: Unpack[RegionKeywords],
) -> list[Tensor]: ...
@eager
@torch.no_grad()
def sam_vote(
    masks: Any,
    segments: Any,
    *,
    probs: Any = None,
    classes: Any = None,
    labels: Any = None,
    boxes: Any = None,
    box_format: BoxFormat | None = None,
    background: Background = "first",
    ignore_index: int = 255,
    rule: Rule = "scores",
) -> Any:
    """Bring a mask to the edges of segments, those of SAM's everything mode or superpixels, by votes.

    Parameters
    ----------
    masks : RefineSteps, or Tensor (B, H, W), (H, W), or list of (H, W)
        The result of :func:`refine_steps`, whose ``probs`` vote, or labels, integer or floating point.
    segments : a list with the segments of each image, or for a mask (H, W) those of the image
        In any of these forms: masks (M, H, W), bool or with 0 and one other number; a label map (H, W) of
        whole numbers, 0 or less where there is no segment; what ``SamAutomaticMaskGenerator`` returns, with
        masks or COCO's run lengths; a list of masks or run lengths; :class:`Segments`; the path of a file or
        folder that :func:`read_segments` takes. They may overlap, lie in each other, be empty and leave
        pixels out.
    probs : Tensor (B, K, H, W), floating point, optional
        Scores of the classes, at least 0, beside ``masks`` of labels; (K, H, W) for one mask, a list for a
        list. Default: 1 for the label of the mask.
    classes : list of K ints, optional
        Mask labels of the channels of ``probs``, or one such list for each image. Default: those of the tags,
        behind the background's, or the labels that the mask has and the background's, ascending.
    labels : optional
        Image tags, in all forms that :func:`refine_mask` takes. Labels of the mask that are no tags do not
        vote. Default: all labels of the mask take part.
    boxes, box_format : optional
        Crop boxes as in :func:`refine_mask`: pixels outside do not vote and come back as ``ignore_index``.
    background : {"first", "last", "none"}
        Where the label of the background is, as in :func:`refine_mask`; "last" needs multi-hot ``labels``.
    ignore_index : int, default 255
        Label of unknown pixels, which do not vote and stay unknown.
    rule : {"scores", "sepl"}
        "scores", ours: a segment votes for its mean scores, the more the more they are decided (Notes).
        "sepl": class by class, in the order of the labels, take every segment that is still free and of which
        more than half is the class, or that has 0.85 of the class at least; pixels of the class on no free
        segment stay, all others become background. It looks at the labels alone, and classes can vanish.

    Returns
    -------
    LongTensor (B, H, W), (H, W) or a list, as ``masks`` came
        By "scores", pixels on no segment keep their label, and a class that the mask had keeps a pixel; one
        that shrank below half of its pixels keeps them all, as ``Recipe.keep`` says of the boundary tool.
        Pixels of labels that are no tags become ``ignore_index`` where nothing votes for them.

    Raises
    ------
    ValueError, TypeError
        Anything above violated; the message names the argument, what came and the fix. Segments of another
        size are an error: those of another crop would vote as well.
    UserError
        A file of segments cannot be read.

    Notes
    -----
    Scores of a pixel are brought to sum 1. With the mean scores :math:`m_S` of a segment over its known
    pixels, and :math:`d_S` the difference of the two highest (with one class: the highest), a pixel gets the
    best class of :math:`\\sum_S d_S^2 m_S + p / 10`, over the segments on it, with its own scores
    :math:`p`. No order of classes or segments matters, a segment over several classes says little, and of
    segments in each other the decided ones count most. A segment alone turns pixels that are sure of another
    class if about three quarters of it are of one. Of equal scores the first class wins.

    References
    ----------
    T. Chen et al., "Segment Anything Model (SAM) Enhanced Pseudo Labels for Weakly Supervised Semantic
    Segmentation", 2023 (SEPL).

    Examples
    --------
    >>> import torch
    >>> from dhr_refine.sam import sam_vote
    >>> mask = torch.tensor([[0, 3, 3, 3, 3, 0, 0]])
    >>> segments = torch.tensor([[1, 1, 2, 2, 2, 2, 0]])
    >>> sam_vote(mask, segments)
    tensor([[0, 3, 3, 3, 3, 3, 0]])
    """
    check_choice(rule, "rule", ("scores", "sepl"))
    form = Form(background, ignore_index, box_format)
    images = read_masks(masks, probs=probs, classes=classes, labels=labels, boxes=boxes, form=form)
    own = iter([segments]) if is_single(masks) else each_of(segments, masks)
    results = []
    for image in images:
        name = image.names.entry("segments", 0)
        found = load_segments(next(own), name, (image.mask.shape[0], image.mask.shape[1]))
        found = found.to(image.mask.device)
        local = _by_sepl(image, found) if rule == "sepl" else _by_scores(image, found)
        results.append(image.labelled(local))
    return gather(masks, results)


def each_of(segments: Any, masks: Any) -> Iterator[Any]:
    """The segments of each image of a batch or list, as they came."""
    masks = getattr(masks, "mask", masks)
    return iter(check_each(segments, len(masks)))


def load_segments(value: Any, name: str, size: tuple[int, int]) -> Segments:
    """Segments of an image of a size, read if they are a path."""
    found = read_segments(Path(value)) if isinstance(value, (str, os.PathLike)) else as_segments(value, name)
    if found.size != size:
        raise ValueError(
            f"{name} is of an image of {found.size} but the mask is {size}: pass those of the same image, or "
            f"as_segments(...).resize({size}) if only the size differs"
        )
    return found


def vote_scores(probs: Tensor, segments: Segments, known: Tensor | None = None) -> Tensor:
    """Scores (K, H, W) float64 of each pixel with the votes of the segments on it.

    Parameters
    ----------
    probs : (K, H, W), at least 0
    segments : of the same size and device
    known : (H, W) bool, pixels that vote; default: all
    """
    own = probs.double()
    own = own / own.sum(dim=0, keepdim=True).clamp_min(1e-12)
    flat = own.flatten(1)
    voting = segments if known is None else segments.keep(known)
    counts = voting.lengths.clamp_min(1)
    sums = [sum_runs(row[voting.pixels], voting.lengths) for row in flat]
    means = torch.stack(sums) / counts  # (K, M)
    top = means.topk(min(2, len(means)), dim=0).values
    decided = top[0] - top[1] if len(top) > 1 else top[0]
    votes = means * decided**_POWER
    # Sorted by pixels the sums have one order, on every device.
    order = segments.pixels.argsort(stable=True)
    owners = segments.owners()[order]
    on_pixel = torch.bincount(segments.pixels, minlength=flat.shape[1])
    voted = torch.stack([sum_runs(row[owners], on_pixel) for row in votes])
    return (voted + _OWN * flat).view_as(own)


def give_classes_back(image: Masked, local: Tensor, claims: Tensor) -> Tensor:
    """Local classes (H, W) in which every class of the mask keeps pixels, as ``Recipe.keep`` says.

    ``claims`` (K, H, W), at least 0, say where a class that has none belongs.
    """
    count = len(image.classes)
    before = image.local[None]
    entitled = torch.stack([(before == number).flatten(1).any(1) for number in range(count)], dim=1)
    kept = keep_pixels(local[None], before, Recipe().keep, count)
    return give_back(kept, lambda k: claims[k][None], entitled, absent=count, allowed=image.inside[None])[0]


def _by_scores(image: Masked, segments: Segments) -> Tensor:
    """Local classes by votes of scores."""
    count = len(image.classes)
    if not count:
        return image.local
    known = image.local < count
    probs = image.probs
    if probs is None:
        probs = torch.nn.functional.one_hot(image.local, count + 1)[..., :count].movedim(-1, 0).double()
    scores = vote_scores(probs * known, segments, known)
    best = scores.amax(dim=0)
    winner = first_of(scores, best)
    # Where nothing votes a label stays, whatever the scores say.
    covered = torch.zeros_like(known).flatten()
    covered[segments.pixels] = True
    voted = covered.view_as(known) & image.inside & (best > 0)
    local = torch.where(voted, winner, image.local)
    return give_classes_back(image, local, probs.double() * known)


def first_of(scores: Tensor, best: Tensor) -> Tensor:
    """The lowest class (H, W) that has the best score, on every device."""
    count = len(scores)
    rank = torch.arange(count, device=scores.device)[:, None, None]
    return torch.where(scores == best, rank, count).amin(dim=0)


def _by_sepl(image: Masked, segments: Segments) -> Tensor:
    """Local classes by SEPL's rule."""
    segments = segments.keep(image.inside)
    before = image.local.flatten()
    owners = segments.owners()
    free = torch.ones(len(segments), dtype=torch.bool, device=before.device)
    result = before.clone()
    if image.background is not None:
        result[before < len(image.classes)] = image.background
    numbers = sorted(range(len(image.classes)), key=lambda number: image.classes[number])
    for number in numbers:
        own = before == number
        pixels = int(own.sum())
        if number == image.background or not pixels:
            continue
        shared = sum_runs(own[segments.pixels].double(), segments.lengths)
        taken = free & ((shared > _OF_SEGMENT * segments.lengths) | (shared >= _OF_CLASS * pixels))
        covered = torch.zeros_like(own)
        covered[segments.pixels[free[owners]]] = True
        result[segments.pixels[taken[owners]]] = number
        result[own & ~covered] = number
        free &= ~taken
    return result.view_as(image.local)
