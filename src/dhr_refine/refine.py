"""The DHR step: CAMs, a base mask and two feature maps in, the refined mask out (paper, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, overload

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Unpack

from .compiled import eager, ordinary
from .crops import Crops, enlarge, first_best, make_crops
from .discriminant import ClassDiscriminant
from .edges import Boundary
from .inputs import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Background,
    Batch,
    BoxFormat,
    GivenBoxes,
    Labels,
    Options,
    Request,
    read_batch,
    read_groups,
    read_options,
    warn_about_slips,
)
from .keep import keep_pixels, keep_present
from .keywords import RefineKeywords
from .memory import ClassMemory, as_discriminant
from .pooling import cell_shares
from .rebalance import (
    Context,
    UssStep,
    compare_levels,
    group_classes,
    make_context,
    rebalance_uss,
    rebalance_wss,
    similarity,
)
from .recipe import Recipe
from .seed import find_seed, merged_pixels, with_background
from .steps import RefineSteps, join, pick


@overload
def refine_mask(
    cams: Tensor,
    masks: Tensor,
    uss_features: Tensor,
    wss_features: Tensor | Sequence[Tensor],
    images: Tensor | None = None,
    **options: Unpack[RefineKeywords],
) -> Tensor: ...
@overload
def refine_mask(
    cams: Tensor | Sequence[Tensor],
    masks: Sequence[Tensor],
    uss_features: Tensor | Sequence[Tensor],
    wss_features: Tensor | Sequence[Tensor] | Sequence[Sequence[Tensor]],
    images: Tensor | Sequence[Tensor] | None = None,
    **options: Unpack[RefineKeywords],
) -> list[Tensor]: ...
@eager
def refine_mask(
    cams: Tensor | Sequence[Tensor],
    masks: Tensor | Sequence[Tensor],
    uss_features: Tensor | Sequence[Tensor],
    wss_features: Tensor | Sequence[Tensor] | Sequence[Sequence[Tensor]],
    images: Tensor | Sequence[Tensor] | None = None,
    *,
    labels: Labels | None = None,
    boxes: GivenBoxes = None,
    box_format: BoxFormat | None = None,
    background: Background = "first",
    ignore_index: int = 255,
    keep_unknown: bool = False,
    mean: Sequence[float] | None = IMAGENET_MEAN,
    std: Sequence[float] | None = IMAGENET_STD,
    tau: float = 0.8,
    reg: float = 0.1,
    boundary: Boundary = "crf",
    recipe: Recipe | None = None,
    memory: ClassMemory | ClassDiscriminant | None = None,
) -> Tensor | list[Tensor]:
    """Refine base pseudo masks by Dual Features-Driven Hierarchical Rebalancing (paper, section 3.2).

    Parameters
    ----------
    cams : Tensor, (B, C, h, w), floating point
        Class activation maps or logits at any resolution; ReLU and division by each class's maximum happen
        inside. C foreground classes, or C + 1 with the background channel where ``background`` puts it
        (ignored), or only the K tags of each image.
    masks : Tensor, (B, H, W)
        Base pseudo masks; integer or floating point labels, ``ignore_index`` where unknown.
    uss_features : Tensor, (B, D, u, v), floating point
        Unsupervised features (DINO, STEGO, CAUSE, ...) of the same crops as ``masks``.
    wss_features : Tensor (B, D, u, v) or list of such tensors
        The classifier's own features, one level or several. For lists of images: one such entry per image.
    images : Tensor, (B, 3, H, W), optional
        The same crops: uint8 (also channels last), floating point in [0, 1], or normalised with ``mean`` and
        ``std`` (a floating point batch within [-0.1, 1.1] is taken to be in [0, 1]). Needed by
        ``boundary="crf"``, ``"pamr"`` and ``"par"``.
    labels : Tensor (B, C) or list of index lists, optional
        Image tags without background: multi-hot of any dtype, or 0-based foreground indices per image (also
        naming the channels of ``cams`` where these hold the tags only, labels without a tag take no part
        then). Indices come as a list, a set, or a vector of whole numbers such as the keys of a CAM file. A
        vector without a repeated entry lists indices, so give multi-hot tags of one or two classes as bool or
        floating point, or as (B, C). CAMs with a background channel need multi-hot labels: indices alone do
        not tell that there is one. Default: the classes present in ``masks``, with a warning, as vanished
        classes cannot come back then.
    boxes : Tensor (B, 4), array or list, optional
        Crop boxes in whole pixels, end exclusive; entries may be None. Pixels outside take part in nothing
        and come back as ``ignore_index``.
    box_format : {"xyxy", "yyxx"}
        Order of ``boxes``: x0, y0, x1, y1 or y0, y1, x0, x1. Required with ``boxes``.
    background : {"first", "last", "none"}
        Whether mask label 0 is the background and tag t has label t + 1 (VOC, COCO), or tag t has label t
        and the background label C, or there is no background class.
    ignore_index : int
        Label of unknown pixels.
    keep_unknown : bool
        Whether pixels that ``masks`` does not know (``ignore_index``) stay so: their features still take
        part, but only the others get a label. Default: every pixel inside the boxes gets one.
    mean, std : three floats each, or None
        Normalisation of floating point images, ImageNet's by default. None: images are in [0, 1].
    tau : float
        Cosine in [-1, 1] of USS centroids above which classes are alike; 0.8 in the paper.
    reg : float
        Entropic regulariser of the transport; 0.1 in the paper.
    boundary : {"crf", "pamr", "par"}, None or callable
        Boundary tool for the seed and the result: :func:`dense_crf`, :func:`pamr` or :func:`par` with their
        defaults, none, or ``callable(images, probs) -> probs`` that gets uint8 images (b, 3, h, w) (None
        without images) and float32 probabilities (b, k, h, w) of crops of one size.
    recipe : Recipe, optional
        Choices that the paper leaves open; the default is ``Recipe()``.
    memory : ClassMemory or ClassDiscriminant, optional
        Statistics of the USS features of each class over the data set, which clean the class averages of the
        images (:class:`ClassMemory`). Classes that it has seen in too few images keep their own averages, and
        images with fewer than two classes that it knows come out as without it.

    Returns
    -------
    LongTensor (B, H, W), or as ``masks`` came
        The refined masks on the device of ``masks``. Only the tags and the background appear, plus
        ``ignore_index`` outside the boxes and where neither the base mask, the seed nor a feature says
        anything; an image without tags returns its base mask (``Recipe.released()`` takes the labels of
        M_init instead). The background and each tag that the base mask or the seed has keep a pixel at least
        (rule and switch: ``Recipe.keep``). A single image (no batch axis) returns (H, W), a list
        returns a list.

    Raises
    ------
    ValueError, TypeError
        Anything above violated; the message names the argument, what came and the fix.

    Warns
    -----
    UserWarning
        ``labels`` left out, and input that is allowed but hardly meant: base masks whose labels are all one
        beside the tags (tags that count from 1, another ``background``), if two labels or more say so; boxes
        that are shares of the image, or all empty in the order given; maps that are transposed, channels last
        or of another crop, if another map of the image is not; images in [-1, 1] with ImageNet's ``mean``.

    Notes
    -----
    Runs without gradients and in float32, whatever autocast says. Inputs are never modified. Memory grows
    with the tags of an image, never with the number of classes of the data set. No collectives, no
    randomness: an image gives the same mask alone, in a batch, and on any rank.

    References
    ----------
    Jo et al., DHR: Dual Features-Driven Hierarchical Rebalancing, ECCV 2024, section 3.2.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine import refine_mask
    >>> generator = torch.Generator().manual_seed(0)
    >>> cams = torch.rand(2, 20, 14, 14, generator=generator)
    >>> masks = torch.zeros(2, 56, 56, dtype=torch.long)
    >>> masks[:, 10:40, 5:30] = 15
    >>> labels = torch.zeros(2, 20)
    >>> labels[:, [7, 14]] = 1
    >>> uss = torch.rand(2, 90, 8, 8, generator=generator)
    >>> wss = torch.rand(2, 64, 14, 14, generator=generator)
    >>> images = torch.randint(0, 256, (2, 3, 56, 56), dtype=torch.uint8, generator=generator)
    >>> refine_mask(cams, masks, uss, wss, images, labels=labels, boundary=None).shape
    torch.Size([2, 56, 56])
    """
    options = read_options(
        box_format=box_format,
        background=background,
        ignore_index=ignore_index,
        keep_unknown=keep_unknown,
        mean=mean,
        std=std,
        tau=tau,
        reg=reg,
        boundary=boundary,
        recipe=recipe,
        known=as_discriminant(memory, "memory"),
    )
    request = Request(cams, masks, uss_features, wss_features, images, labels, boxes)
    return _refine(request, options, keep=False).mask


@overload
def refine_steps(
    cams: Tensor,
    masks: Tensor,
    uss_features: Tensor,
    wss_features: Tensor | Sequence[Tensor],
    images: Tensor | None = None,
    **options: Unpack[RefineKeywords],
) -> RefineSteps: ...
@overload
def refine_steps(
    cams: Tensor | Sequence[Tensor],
    masks: Sequence[Tensor],
    uss_features: Tensor | Sequence[Tensor],
    wss_features: Tensor | Sequence[Tensor] | Sequence[Sequence[Tensor]],
    images: Tensor | Sequence[Tensor] | None = None,
    **options: Unpack[RefineKeywords],
) -> RefineSteps[list[Tensor]]: ...
@eager
def refine_steps(
    cams: Tensor | Sequence[Tensor],
    masks: Tensor | Sequence[Tensor],
    uss_features: Tensor | Sequence[Tensor],
    wss_features: Tensor | Sequence[Tensor] | Sequence[Sequence[Tensor]],
    images: Tensor | Sequence[Tensor] | None = None,
    *,
    labels: Labels | None = None,
    boxes: GivenBoxes = None,
    box_format: BoxFormat | None = None,
    background: Background = "first",
    ignore_index: int = 255,
    keep_unknown: bool = False,
    mean: Sequence[float] | None = IMAGENET_MEAN,
    std: Sequence[float] | None = IMAGENET_STD,
    tau: float = 0.8,
    reg: float = 0.1,
    boundary: Boundary = "crf",
    recipe: Recipe | None = None,
    memory: ClassMemory | ClassDiscriminant | None = None,
) -> RefineSteps | RefineSteps[list[Tensor]]:
    """Refine base pseudo masks and keep every intermediate map, for notebooks and figures.

    Parameters
    ----------
    cams, masks, uss_features, wss_features, images, labels, boxes, box_format, background, ignore_index, \
keep_unknown, mean, std, tau, reg, boundary, recipe, memory
        As in :func:`refine_mask`.

    Returns
    -------
    RefineSteps
        ``refine_steps(...).mask`` equals ``refine_mask(...)``; the other fields are documented there.

    Raises
    ------
    ValueError, TypeError
        As :func:`refine_mask`.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine import refine_steps
    >>> cams = torch.zeros(2, 4, 4)
    >>> cams[1, :, 2:] = 1.0
    >>> base = torch.zeros(8, 8, dtype=torch.long)  # the base mask lost class 2
    >>> features = cams + 0.1
    >>> steps = refine_steps(cams, base, features, features, labels=[1], boundary=None)
    >>> steps.classes.tolist(), steps.recovered.tolist()
    ([0, 2], [False, True])
    """
    options = read_options(
        box_format=box_format,
        background=background,
        ignore_index=ignore_index,
        keep_unknown=keep_unknown,
        mean=mean,
        std=std,
        tau=tau,
        reg=reg,
        boundary=boundary,
        recipe=recipe,
        known=as_discriminant(memory, "memory"),
    )
    request = Request(cams, masks, uss_features, wss_features, images, labels, boxes)
    return _refine(request, options, keep=True)


@ordinary
def _refine(request: Request, options: Options, *, keep: bool) -> RefineSteps[Any]:
    """Every group of images of one size goes through the step; results in the structure of the call."""
    groups = read_groups(request, needs_images=options.needs_images)
    structure = groups[0].names.structure
    evidence = []
    results: dict[int, RefineSteps] = {}
    for group in groups:
        batch = read_batch(group, options)
        evidence.append(batch.evidence)
        with torch.autocast(device_type=batch.base.device.type, enabled=False):
            steps = _refine_batch(batch, options, keep=keep)
        if structure == "batch":
            results[0] = steps
            continue
        where = group.names.where
        results |= {position: pick(steps, row, batch.counts[row]) for row, position in enumerate(where)}
    warn_about_slips(evidence, options.background, options.box_format)
    return join([results[i] for i in range(len(results))]) if structure == "list" else results[0]


def _refine_batch(batch: Batch, options: Options, *, keep: bool) -> RefineSteps:
    """The step on one batch of checked images of one size."""
    recipe, reg, absent = options.recipe, options.reg, batch.absent
    # An image without tags keeps its base mask, unless the recipe goes by the labels of the mask and the mask
    # has one.
    rows = [b for b, tags in enumerate(batch.tags) if tags or (options.all_labels and batch.counts[b])]
    crops = make_crops(batch, options.boundary, rows)

    # 1. The seed enters the base mask: M_init (Eq. 2).
    seed = find_seed(batch, crops, reg=reg, recipe=recipe)
    merged = merged_pixels(seed, batch, recipe)
    init = torch.where(merged, seed, batch.labels)
    context = make_context(
        init,
        batch.inside,
        seed=with_background(seed, batch) if recipe.seed_weight > 0.0 else None,
        num_classes=absent,
        background=batch.background,
        recipe=recipe,
    )

    # 2. USS features part unlike classes (Eq. 3).
    known = None if options.known is None else options.known.to(batch.uss.device)
    uss = rebalance_uss(batch.uss, context, reg=reg, recipe=recipe, known=known, classes=batch.classes)

    # 3. WSS features part the classes that are alike to the USS features (Eq. 4).
    alike = similarity(uss.centroids)
    groups = group_classes(alike, options.tau, context, recipe)

    def heat() -> Tensor:
        return compare_levels(batch.wss, context, uss.scores.shape[-2:], recipe)[0]

    wss = rebalance_wss(uss.scores, heat, context, groups, reg=reg, recipe=recipe)

    # 4. The boundary tool and the mask (Eq. 5).
    scores = _finish(wss, uss, context, recipe)
    labels, probs = _decide(scores, uss.present, init, batch, crops, options, keep=keep)
    mask = _to_labels(labels, batch.classes, options.ignore_index)
    mask = _only_in(rows, mask, batch.base)
    if probs is None:
        probs = seed_mask = init_mask = recovered = mask
    else:
        seed_mask = _to_labels(seed, batch.classes, options.ignore_index)
        init_mask = torch.where(merged, seed_mask, batch.base)
        recovered = (batch.base_pixels == 0) & (batch.classes >= 0) & _has_pixels(mask, batch.classes)
    return RefineSteps(
        mask=mask,
        probs=probs,
        classes=batch.classes,
        seed=seed_mask,
        init_mask=init_mask,
        uss=uss.scores,
        wss=wss,
        uss_centroids=uss.centroids,
        uss_similarity=alike,
        groups=groups,
        recovered=recovered,
        posterior=uss.posterior * (batch.classes >= 0)[..., None, None] if keep else uss.posterior,
        purity=uss.purity,
        base_mask=batch.base,
    )


def _only_in(rows: list[int], mask: Tensor, base: Tensor) -> Tensor:
    """The refined masks (B, H, W) of some images, the base masks of the others."""
    if len(rows) == len(mask):
        return mask
    refined = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
    refined[rows] = True
    return torch.where(refined[:, None, None], mask, base)


def _finish(scores: Tensor, uss: UssStep, context: Context, recipe: Recipe) -> Tensor:
    """Mix M_init in and bring the scores of a pixel to sum 1, as the recipe says."""
    if recipe.normalise:
        # Where nothing scores, every class that is present does.
        scores = scores + 1e-6 * uss.present.to(scores.dtype)[..., None, None]
        scores = scores / scores.sum(dim=1, keepdim=True).clamp_min(1e-12)
    if recipe.prior > 0.0:
        prior: float | Tensor = recipe.prior
        if uss.cleaned is not None:
            # Not of two numbers, whose type would be the process's default.
            prior = scores.new_full((), recipe.prior).where(~uss.cleaned[..., None], recipe.memory_prior)
        shares = cell_shares(context.counts(scores.shape[-2:])).view(scores.shape)
        # A cell with unknown pixels knows M_init only in part and keeps the rest of its scores.
        known = shares.sum(dim=1, keepdim=True).clamp_max(1.0)
        scores = (1.0 - prior * known) * scores + prior * shares
    return scores


def _decide(
    scores: Tensor,
    present: Tensor,
    init: Tensor,
    batch: Batch,
    crops: list[Crops],
    options: Options,
    *,
    keep: bool,
) -> tuple[Tensor, Tensor | None]:
    """Local classes (B, H, W) after the boundary tool, and on request the maps that they are the best of.

    From scores of cells (B, K, u, v) to probabilities (B, K, H, W). M_init stays where nothing scores.
    """
    recipe = options.recipe
    labels = init.clone()
    probs = scores.new_zeros(*scores.shape[:2], *init.shape[1:]) if keep else None
    for crop in crops:
        shown = crop.take(present)[:, : crop.classes, None, None]
        rough = maps = enlarge(crop.take(scores)[:, : crop.classes] * shown, crop, recipe)
        if crop.boundary is not None:
            # It gives every channel some probability; a class without a pixel in M_init has none.
            maps = crop.refine_edges(maps) * shown
        best, winner = first_best(maps)
        if crop.boundary is not None and recipe.keep > 0.0:
            scored, before = first_best(rough)
            before = torch.where(scored > 0, before, crop.classes)
            winner = keep_pixels(winner, before, recipe.keep, crop.classes)
        decided = torch.where(best > 0, winner, crop.cut(crop.take(init)))
        known = None
        if options.keep_unknown:
            known = crop.cut(crop.take(batch.base)) != options.ignore_index
            decided = torch.where(known, decided, batch.absent)
        if recipe.keep > 0.0:
            decided = keep_present(decided, rough, present, crop, batch, known)
        crop.paste(decided, labels)
        if probs is not None:
            crop.paste(maps, probs[:, : crop.classes])
    return labels, probs


def _to_labels(local: Tensor, classes: Tensor, ignore_index: int) -> Tensor:
    """Local class numbers (B, H, W) as mask labels."""
    table = F.pad(classes, (0, 1), value=ignore_index)
    return table.gather(1, local.flatten(1)).view(local.shape)


def _has_pixels(mask: Tensor, classes: Tensor) -> Tensor:
    """(B, K) bool, whether a mask carries each class."""
    columns = [(mask == one[:, None, None]).flatten(1).any(1) for one in classes.unbind(1)]
    return torch.stack(columns, dim=1) if columns else torch.zeros_like(classes, dtype=torch.bool)
