"""The DHR step: CAMs, a base mask and two feature maps in, the refined mask out (paper, section 3.2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import check_finite, check_ignore_index, check_range, describe
from .crf import DenseCRFLattice
from .crf.inference import refine_checked
from .inputs import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Background,
    Batch,
    Box,
    BoxFormat,
    Request,
    read_batch,
    read_groups,
)
from .maps import resize
from .pamr import pamr
from .pooling import box_mass, cell_shares, count_labels
from .rebalance import (
    Context,
    compare_levels,
    group_classes,
    make_context,
    rebalance_uss,
    rebalance_wss,
    similarity,
)
from .recipe import Recipe
from .transport.released import early_stopped_weights
from .transport.solver import check_reg, solve

# A CAM whose maximum is below this holds no signal.
_LEAST_CAM = 1e-10
# Images that the repr of RefineSteps tells apart.
_SHOWN_IMAGES = 8

Boundary = Literal["crf", "pamr"] | Callable[[Tensor | None, Tensor], Tensor] | None


@dataclass(frozen=True, repr=False)
class RefineSteps:
    """Result of :func:`refine_steps`: the refined mask and every intermediate map.

    Shapes are those of a batch; a call on one image has no batch axis, a call on lists has lists. K is the
    largest number of classes of an image; images with fewer are padded, ``classes`` is -1 there.
    """

    mask: Any
    """(B, H, W) int64 refined pseudo mask."""
    probs: Any
    """(B, K, H, W) float32 what the mask is the argmax of, zeros outside the boxes."""
    classes: Any
    """(B, K) int64 mask label of each class."""
    seed: Any
    """(B, H, W) int64 OT seed, ignore where unassigned."""
    init_mask: Any
    """(B, H, W) int64 M_init, the base mask with the seed merged in."""
    uss: Any
    """(B, K, u, v) float32 scores after the USS step."""
    wss: Any
    """(B, K, u, v) float32 scores after the WSS step."""
    uss_centroids: Any
    """(B, K, D) float32 class averages of the USS features in M_init."""
    uss_similarity: Any
    """(B, K, K) float32 cosine of these centroids, 0 for classes without a pixel."""
    groups: Any
    """(B, K, K) bool, row i marks the classes that are treated as alike to class i."""
    recovered: Any
    """(B, K) bool, classes without a pixel in the base mask that the refined mask has."""

    def __repr__(self) -> str:
        """Say what the images hold, not the numbers."""
        images = self._images()
        single = any(one is self for one in images)
        sizes = _enumerate([*dict.fromkeys(_size(one.mask) for one in images)])
        classes = _enumerate([str(one.classes.tolist()) for one in images])
        back = [(i, one.classes[one.recovered].tolist()) for i, one in enumerate(images)]
        back = [_enumerate(labels) + f" in image {i}" * (not single) for i, labels in back if labels]
        number = "image" if single else f"{len(images)} image{'s' * (len(images) != 1)}"
        what = f" of {sizes}, classes {classes}; recovered {_enumerate(back) or 'none'}"
        return f"RefineSteps: {number}{what * bool(images)}"

    def _repr_html_(self) -> str:
        """One small table per image, for notebooks."""
        images = self._images()
        head = "".join(f"<th>{name}</th>" for name in ("class", "M_init", "result", "", "alike to"))
        tables = []
        for i, one in enumerate(images[:_SHOWN_IMAGES]):
            labels = one.classes.tolist()
            groups = (one.groups | one.groups.mT).tolist()
            rows = []
            for k, (label, back) in enumerate(zip(labels, one.recovered.tolist())):
                alike = [str(other) for j, other in enumerate(labels) if groups[k][j] and j != k]
                shares = [float((mask == label).double().mean()) for mask in (one.init_mask, one.mask)]
                cells = (str(label), *map("{:.1%}".format, shares), "recovered" * back, ", ".join(alike))
                rows.append("".join(f"<td>{cell}</td>" for cell in cells))
            caption = f"Image of {_size(one.mask)}" if one is self else f"Image {i}, {_size(one.mask)}"
            body = "".join(f"<tr>{row}</tr>" for row in (head, *rows))
            tables.append(f"<table><caption>{caption}; share of the pixels</caption>{body}</table>")
        if len(images) > len(tables):
            tables.append(f"<p>and {len(images) - len(tables)} more images</p>")
        return "<div>" + "".join(tables) + "</div>" if tables else "<p>RefineSteps of no images</p>"

    def _images(self) -> list[RefineSteps]:
        """The steps of each image, without batch axis and padding."""
        if isinstance(self.classes, list):
            names = [field.name for field in fields(self)]
            return [
                RefineSteps(**{name: getattr(self, name)[i] for name in names})
                for i in range(len(self.classes))
            ]
        if self.classes.ndim == 1:
            return [self]
        return [_pick(self, row, count) for row, count in enumerate((self.classes >= 0).sum(dim=1).tolist())]


def _size(mask: Tensor) -> str:
    return " x ".join(map(str, mask.shape))


def _enumerate(items: Sequence[Any]) -> str:
    """The first few items, separated by commas."""
    return ", ".join([*map(str, items[:_SHOWN_IMAGES]), *["..."] * (len(items) > _SHOWN_IMAGES)])


def refine_mask(
    cams: Tensor | Sequence[Tensor],
    masks: Tensor | Sequence[Tensor],
    uss_features: Tensor | Sequence[Tensor],
    wss_features: Any,
    images: Tensor | Sequence[Tensor] | None = None,
    *,
    labels: Any = None,
    boxes: Any = None,
    box_format: BoxFormat | None = None,
    background: Background = "first",
    ignore_index: int = 255,
    mean: Sequence[float] | None = IMAGENET_MEAN,
    std: Sequence[float] | None = IMAGENET_STD,
    tau: float = 0.8,
    reg: float = 0.1,
    boundary: Boundary = "crf",
    recipe: Recipe | None = None,
) -> Any:
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
        ``boundary="crf"`` and ``"pamr"``.
    labels : Tensor (B, C) or list of index lists, optional
        Image tags without background: multi-hot of any dtype, or 0-based foreground indices per image (also
        naming the channels of ``cams`` where these hold the tags only). CAMs with a background channel need
        multi-hot labels: indices alone do not tell that there is one. Default: the classes present in
        ``masks``, with a warning, as vanished classes cannot come back then.
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
    mean, std : three floats each, or None
        Normalisation of floating point images, ImageNet's by default. None: images are in [0, 1].
    tau : float
        Cosine in [-1, 1] of USS centroids above which classes are alike; 0.8 in the paper.
    reg : float
        Entropic regulariser of the transport; 0.1 in the paper.
    boundary : {"crf", "pamr"}, None or callable
        Boundary tool for the seed and the result: :func:`dense_crf` or :func:`pamr` with their defaults,
        none, or ``callable(images, probs) -> probs`` that gets uint8 images (b, 3, h, w) (None without
        images) and float32 probabilities (b, k, h, w) of crops of one size.
    recipe : Recipe, optional
        Choices that the paper leaves open; the default is ``Recipe()``.

    Returns
    -------
    LongTensor (B, H, W), or as ``masks`` came
        The refined masks on the device of ``masks``. Only the tags and the background appear, plus
        ``ignore_index`` outside the boxes and where neither the base mask, the seed nor a feature says
        anything; an image without tags returns its base mask (``Recipe.released()`` takes the labels of
        M_init instead). A single image (no batch axis) returns (H, W), a list returns a list.

    Raises
    ------
    ValueError, TypeError
        Anything above violated; the message names the argument, what came and the fix.

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
    steps = _run(
        Request(cams, masks, uss_features, wss_features, images, labels, boxes),
        box_format=box_format,
        background=background,
        ignore_index=ignore_index,
        mean=mean,
        std=std,
        tau=tau,
        reg=reg,
        boundary=boundary,
        recipe=recipe,
        keep=False,
    )
    return steps.mask


def refine_steps(
    cams: Tensor | Sequence[Tensor],
    masks: Tensor | Sequence[Tensor],
    uss_features: Tensor | Sequence[Tensor],
    wss_features: Any,
    images: Tensor | Sequence[Tensor] | None = None,
    *,
    labels: Any = None,
    boxes: Any = None,
    box_format: BoxFormat | None = None,
    background: Background = "first",
    ignore_index: int = 255,
    mean: Sequence[float] | None = IMAGENET_MEAN,
    std: Sequence[float] | None = IMAGENET_STD,
    tau: float = 0.8,
    reg: float = 0.1,
    boundary: Boundary = "crf",
    recipe: Recipe | None = None,
) -> RefineSteps:
    """Refine base pseudo masks and keep every intermediate map, for notebooks and figures.

    Parameters
    ----------
    cams, masks, uss_features, wss_features, images, labels, boxes, box_format, background, ignore_index, \
mean, std, tau, reg, boundary, recipe
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
    return _run(
        Request(cams, masks, uss_features, wss_features, images, labels, boxes),
        box_format=box_format,
        background=background,
        ignore_index=ignore_index,
        mean=mean,
        std=std,
        tau=tau,
        reg=reg,
        boundary=boundary,
        recipe=recipe,
        keep=True,
    )


def _run(
    request: Request,
    *,
    tau: float,
    reg: float,
    boundary: Boundary,
    recipe: Recipe | None,
    ignore_index: int,
    keep: bool,
    **reading: Any,
) -> RefineSteps:
    recipe = Recipe() if recipe is None else recipe
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a Recipe, got {describe(recipe)}: pass Recipe.paper(), say")
    check_range(tau, "tau", -1.0, 1.0)
    check_reg(reg)
    check_ignore_index(ignore_index)
    if not (boundary is None or boundary in ("crf", "pamr") or callable(boundary)):
        raise ValueError(
            f"boundary must be 'crf', 'pamr', None or a callable, got {boundary!r}: pass one of them"
        )
    groups, structure = read_groups(request)
    results: list[RefineSteps | None] = [None] * sum(len(where) for where, _ in groups)
    steps = None
    for where, group in groups:
        batch = read_batch(
            group,
            ignore_index=ignore_index,
            all_labels=recipe.classes == "mask",
            need_images=boundary in ("crf", "pamr"),
            **reading,
        )
        with torch.no_grad(), torch.autocast(device_type=batch.base.device.type, enabled=False):
            steps = _refine(
                batch,
                ignore_index=ignore_index,
                tau=tau,
                reg=reg,
                boundary=boundary,
                recipe=recipe,
                keep=keep,
            )
        if structure == "batch":
            return steps
        for row, position in enumerate(where):
            results[position] = _pick(steps, row, batch.counts[row])
    if structure == "single":
        assert results[0] is not None
        return results[0]
    names = [field.name for field in fields(RefineSteps)]
    return RefineSteps(**{name: [getattr(result, name) for result in results] for name in names})


def _pick(steps: RefineSteps, row: int, count: int) -> RefineSteps:
    """One image of a batch, without the padding of its class axes."""
    cut = {field.name: getattr(steps, field.name)[row] for field in fields(RefineSteps)}
    for name in ("probs", "classes", "uss", "wss", "uss_centroids", "uss_similarity", "groups", "recovered"):
        cut[name] = cut[name][:count]
    cut["uss_similarity"] = cut["uss_similarity"][:, :count]
    cut["groups"] = cut["groups"][:, :count]
    return replace(steps, **cut)


class _Crops:
    """Images of a batch whose crop has one size and that have equally many classes, worked on together."""

    def __init__(self, batch: Batch, rows: list[int], boundary: Boundary):
        self.rows = rows
        self.index = torch.tensor(rows, device=batch.base.device)
        self.all = rows == list(range(len(batch.tags)))
        self.boxes = [batch.boxes[row] for row in rows]
        x0, y0, x1, y1 = self.boxes[0]
        self.size = (y1 - y0, x1 - x0)
        self.full = batch.base.shape[1:]
        self.tags = batch.tags[rows[0]]
        self.classes = batch.counts[rows[0]]
        self.images = None
        if boundary is not None and batch.images is not None:
            # A copy: a callable may write into its arguments.
            self.images = self.cut(batch.images[self.index])
        self.boundary = boundary
        # One lattice serves the seed and the result.
        self.lattice = None
        if boundary == "crf":
            assert self.images is not None
            self.lattice = DenseCRFLattice(self.images)

    def take(self, maps: Tensor) -> Tensor:
        """Pick the images out of a batch."""
        return maps if self.all else maps[self.index]

    def cut(self, maps: Tensor) -> Tensor:
        """Crop full-size maps (b, ..., H, W) to the box of each image."""
        if self.size == tuple(self.full):
            return maps
        return torch.stack([m[..., y0:y1, x0:x1] for m, (x0, y0, x1, y1) in zip(maps, self.boxes)])

    def paste(self, maps: Tensor, target: Tensor) -> None:
        """Write crops (b, ..., h, w) into full-size maps (B, ..., H, W) in place."""
        for row, values, (x0, y0, x1, y1) in zip(self.rows, maps, self.boxes):
            target[row, ..., y0:y1, x0:x1] = values

    def refine_edges(self, probs: Tensor) -> Tensor:
        """Apply the boundary tool to (b, k, h, w)."""
        if self.boundary is None:
            return probs
        if callable(self.boundary):
            result = self.boundary(self.images, probs)
            if not isinstance(result, Tensor) or result.shape != probs.shape:
                raise ValueError(
                    f"boundary must return probabilities of shape {tuple(probs.shape)}, got "
                    f"{describe(result)}: keep the shape of its second argument"
                )
            check_finite(result, "the result of boundary")
            if bool((result < 0).any()):
                raise ValueError("boundary returned negative values: return probabilities, not logarithms")
            return result.detach().to(probs)
        assert self.images is not None
        if self.boundary == "pamr":
            return pamr(self.images, probs)
        assert self.lattice is not None
        return refine_checked(self.images, probs, self.lattice)


def _make_crops(batch: Batch, boundary: Boundary, rows: list[int]) -> list[_Crops]:
    sorted_rows: dict[tuple, list[int]] = {}
    for row in rows:
        x0, y0, x1, y1 = batch.boxes[row]
        if x1 > x0 and y1 > y0:
            key = (y1 - y0, x1 - x0, batch.tags[row], batch.counts[row])
            sorted_rows.setdefault(key, []).append(row)
    return [_Crops(batch, members, boundary) for members in sorted_rows.values()]


def _refine(
    batch: Batch,
    *,
    ignore_index: int,
    tau: float,
    reg: float,
    boundary: Boundary,
    recipe: Recipe,
    keep: bool,
) -> RefineSteps:
    """The step on one batch of checked images of one size."""
    absent = batch.classes.shape[1]  # local number of pixels that take part in nothing
    # An image without tags keeps its base mask, unless the recipe goes by the labels of the mask.
    rows = [b for b, tags in enumerate(batch.tags) if tags or recipe.classes == "mask"]
    crops = _make_crops(batch, boundary, rows)

    seed = _seed(batch, crops, absent, reg=reg, recipe=recipe)
    merged = _merge(seed, batch, absent, recipe)
    init = torch.where(merged, seed, batch.labels)
    context = make_context(
        init,
        batch.inside,
        seed=_with_background(seed, batch, absent) if recipe.seed_weight > 0.0 else None,
        num_classes=absent,
        background=batch.background,
        recipe=recipe,
    )
    uss = rebalance_uss(batch.uss, context, reg=reg, recipe=recipe)
    alike = similarity(uss.centroids)
    groups = group_classes(alike, tau, context, recipe)

    def heat() -> Tensor:
        return compare_levels(batch.wss, context, uss.scores.shape[-2:], recipe)[0]

    wss = rebalance_wss(uss.scores, heat, context, groups, reg=reg, recipe=recipe)
    scores = _finish(wss, uss.present, context, recipe)

    labels = init.clone()
    probs = scores.new_zeros(batch.base.shape[0], absent, *batch.base.shape[1:]) if keep else None
    for crop in crops:
        present = crop.take(uss.present)[:, : crop.classes, None, None]
        maps = _enlarge(crop.take(scores)[:, : crop.classes] * present, crop, recipe)
        if boundary is not None:
            # It gives every channel some probability; a class without a pixel in M_init has none.
            maps = crop.refine_edges(maps) * present
        best, winner = _first_best(maps)
        crop.paste(torch.where(best > 0, winner, crop.cut(crop.take(init))), labels)
        if probs is not None:
            crop.paste(maps, probs[:, : crop.classes])

    mask = _to_labels(labels, batch.classes, ignore_index)
    if len(rows) < len(batch.tags):
        refined = torch.zeros(len(batch.tags), dtype=torch.bool, device=mask.device)
        refined[rows] = True
        mask = torch.where(refined[:, None, None], mask, batch.base)
    if probs is None:
        probs = seed_mask = init_mask = recovered = mask
    else:
        seed_mask = _to_labels(seed, batch.classes, ignore_index)
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
    )


def _seed(batch: Batch, crops: list[_Crops], absent: int, *, reg: float, recipe: Recipe) -> Tensor:
    """(B, H, W) local classes of the OT seed (Eq. 2), ``absent`` where no tag is assigned."""
    seed = torch.full_like(batch.labels, absent)
    if batch.cams.shape[1] == 0:
        return seed
    offset = 0 if batch.background is None else 1
    valid = torch.arange(batch.cams.shape[1]) < torch.tensor(batch.tags)[:, None]
    maps = _seed_maps(batch, valid.to(seed.device), reg=reg, recipe=recipe)
    for crop in crops:
        if crop.tags == 0:
            continue
        tags = _enlarge_cams(crop.take(maps)[:, : crop.tags], batch, crop, recipe)
        # A pixel that no CAM claims stays unassigned; inside the boundary tool, or its output would sum
        # to 1 over the tags and leave nothing to the background.
        unassigned = 1.0 - tags.amax(dim=1, keepdim=True)
        _, winner = _first_best(crop.refine_edges(torch.cat((tags, unassigned), dim=1)))
        local = torch.arange(offset, offset + crop.tags + 1, device=seed.device)
        local[-1] = absent
        crop.paste(local.index_select(0, winner.flatten()).view_as(winner), seed)
    return seed


def _first_best(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum over the classes of (b, k, h, w) and the lowest class that has it, both (b, h, w)."""
    count = maps.shape[1]
    if maps.device.type != "cpu" or count > 128:
        return maps.max(dim=1)
    # On a CPU the indices of max take five times as long: they are worked out pixel by pixel. Here each class
    # stands for its own number, plus k where it is not the best, in 8 bits.
    best = maps.amax(dim=1)
    rank = (maps < best[:, None]).view(torch.uint8).mul_(count)
    rank += torch.arange(count, dtype=torch.uint8)[:, None, None]
    return best, rank.amin(dim=1).long()


def _merge(seed: Tensor, batch: Batch, absent: int, recipe: Recipe) -> Tensor:
    """(B, H, W) bool, pixels whose seed overwrites the base mask."""
    if recipe.merge == "all":
        return seed < absent
    pixels = count_labels(seed.flatten(1), absent + 1)[:, :absent]
    shrunk = F.pad(batch.base_pixels < pixels, (0, 1), value=False)  # where nothing is assigned, nothing does
    return shrunk.gather(1, seed.flatten(1)).view_as(seed)


def _with_background(seed: Tensor, batch: Batch, absent: int) -> Tensor:
    """The seed of the class averages: where no tag is assigned, the background of the base mask."""
    if batch.background is None:
        return seed
    surely = (seed == absent) & (batch.labels == batch.background)
    return torch.where(surely, batch.background, seed)


def _seed_maps(batch: Batch, valid: Tensor, *, reg: float, recipe: Recipe) -> Tensor:
    """(B, T, h, w) CAMs of the tags in [0, 1], times the plan (with one tag the plan changes nothing)."""
    cams = batch.cams.relu()
    grid = cams.shape[-2:]
    cells = None
    if batch.inside is not None:
        if recipe.geometry == "released":
            kept = torch.zeros(cams.shape[0], *grid, dtype=torch.bool, device=cams.device)
            for row, box in enumerate(batch.boxes):
                x0, y0, x1, y1 = _cell_box(box, batch.base.shape[1:], grid)
                kept[row, y0:y1, x0:x1] = True
            cells = kept.flatten(1).float()
        else:
            cells = box_mass(batch.inside, grid)
            cams = cams * (cells > 0).view(-1, 1, *grid)
    cams = cams / cams.amax(dim=(-2, -1), keepdim=True).clamp_min(_LEAST_CAM)
    flat = cams.flatten(2)
    several = valid.sum(-1) > 1
    if recipe.plan == "minmax":
        pixels = torch.ones_like(flat[:, 0], dtype=torch.bool) if cells is None else cells > 0
        weights = early_stopped_weights(flat, pixels, valid)
    else:
        masses = valid / valid.sum(-1, keepdim=True).clamp_min(1)
        weights = solve(flat, cells, masses, reg=reg, tol=1e-3).shares
    return cams * torch.where(several[:, None, None], weights, 1.0).view(cams.shape)


def _cell_box(box: Box, size: torch.Size, grid: torch.Size) -> Box:
    """A box in cells of a grid, rounded down on all sides (released code)."""
    x0, y0, x1, y1 = box
    return (
        x0 * grid[1] // size[1],
        y0 * grid[0] // size[0],
        x1 * grid[1] // size[1],
        y1 * grid[0] // size[0],
    )


def _enlarge_cams(maps: Tensor, batch: Batch, crop: _Crops, recipe: Recipe) -> Tensor:
    if recipe.geometry == "centred":
        return _enlarge(maps, crop, recipe)
    parts = []
    for one, box in zip(maps, crop.boxes):
        x0, y0, x1, y1 = _cell_box(box, batch.base.shape[1:], maps.shape[-2:])
        cut = one[None, :, y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
        parts.append(F.interpolate(cut, crop.size, mode="nearest"))
    return torch.cat(parts)


def _enlarge(maps: Tensor, crop: _Crops, recipe: Recipe) -> Tensor:
    """Bring maps (b, k, u, v) of whole images to pixels and cut the boxes."""
    return crop.cut(resize(maps, crop.full, aligned=recipe.geometry == "released"))


def _finish(scores: Tensor, present: Tensor, context: Context, recipe: Recipe) -> Tensor:
    """Mix M_init in and bring the scores of a pixel to sum 1, as the recipe says."""
    if not recipe.normalise and recipe.prior == 0.0:
        return scores
    if recipe.normalise:
        # Where nothing scores, every class that is present does.
        scores = scores + 1e-6 * present[..., None, None]
        scores = scores / scores.sum(dim=1, keepdim=True).clamp_min(1e-12)
    if recipe.prior > 0.0:
        shares = cell_shares(context.counts(scores.shape[-2:])).view(scores.shape)
        # A cell with unknown pixels knows M_init only in part and keeps the rest of its scores.
        known = shares.sum(dim=1, keepdim=True)
        scores = (1.0 - recipe.prior * known) * scores + recipe.prior * shares
    return scores


def _to_labels(local: Tensor, classes: Tensor, ignore_index: int) -> Tensor:
    """Local class numbers (B, H, W) as mask labels."""
    table = F.pad(classes, (0, 1), value=ignore_index)
    return table.gather(1, local.flatten(1)).view(local.shape)


def _has_pixels(mask: Tensor, classes: Tensor) -> Tensor:
    """(B, K) bool, whether a mask carries each class."""
    columns = [(mask == one[:, None, None]).flatten(1).any(1) for one in classes.unbind(1)]
    return torch.stack(columns, dim=1) if columns else torch.zeros_like(classes, dtype=torch.bool)
