"""The two rebalancing steps: USS features part unlike classes (Eq. 3), WSS features alike ones (Eq. 4)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .discriminant import ClassDiscriminant, recall, standardise
from .maps import LEAST_NORM, compare
from .pooling import area_weights, box_mass, cell_counts, cell_weights, count_labels
from .recipe import Recipe
from .transport.released import early_stopped_weights, minmax
from .transport.solver import solve

# The released code votes on a mask enlarged to whole patches of a ViT-S/14.
_RELEASED_PATCH = 14


@dataclass(frozen=True, eq=False)
class Context:
    """A mask prepared for rebalancing: what both steps need to know about it, computed once."""

    labels: Tensor  # (B, H, W) int64, num_classes = takes no part
    seed: Tensor | None  # the same of the seed, for the class averages; None = they go by labels alone
    inside: Tensor | None  # (B, H, W) bool, pixels inside the crop boxes; None = all
    num_classes: int
    background: int | None
    class_mass: Tensor  # (B, C) marginal of the transport, zero for absent classes
    _kept: dict[tuple, Tensor] = field(default_factory=dict, repr=False)  # what was asked for each grid

    def counts(self, grid: torch.Size, *, seed: bool = False) -> Tensor:
        """(B, C + 1, h * w) pixels of each label, or label of the seed, in each cell."""
        key = ("seed" if seed else "labels", *grid)
        if key not in self._kept:
            labels = self.seed if seed else self.labels
            assert labels is not None
            self._kept[key] = cell_counts(labels, grid, self.num_classes + 1)
        return self._kept[key]

    def box_mass(self, grid: torch.Size) -> Tensor | None:
        """(B, h * w) mass of each cell by its pixels inside the boxes, None = the same for all."""
        if self.inside is None:
            return None
        key = ("inside", *grid)
        if key not in self._kept:
            self._kept[key] = box_mass(self.inside, grid)
        return self._kept[key]


def make_context(
    labels: Tensor,
    inside: Tensor | None,
    *,
    seed: Tensor | None,
    num_classes: int,
    background: int | None,
    recipe: Recipe,
) -> Context:
    """Prepare a checked mask and seed (B, H, W), labels in ``0 .. num_classes``, the last meaning no part."""
    if recipe.seed_weight == 0.0:
        seed = None
    outside = 0.0
    if inside is not None:
        labels = torch.where(inside, labels, num_classes)
        seed = None if seed is None else torch.where(inside, seed, num_classes)
        outside = (~inside).flatten(1).sum(-1, keepdim=True)
    counted = count_labels(labels.flatten(1), num_classes + 1)
    area = counted[:, :num_classes]
    mass = (area > 0).float()
    if recipe.marginal == "background" and background is not None:
        mass[:, background] = 0.0
        things = mass.sum(-1, keepdim=True)
        own = area[:, background : background + 1]
        # A mask known in a few pixels must not speak for all: of the others half may be background. (A
        # background without a pixel keeps its share of 0.)
        known = area.sum(-1, keepdim=True)
        unknown = counted[:, num_classes:] - outside
        share = (own + 0.5 * unknown * (own > 0)) / (known + unknown).clamp_min(1.0)
        mass = mass * (1.0 - share) / things.clamp_min(1.0)
        mass[:, background : background + 1] = share
    return Context(labels, seed, inside, num_classes, background, _renormalise(mass))


def _class_weights(
    context: Context, grid: torch.Size, recipe: Recipe, *, multiple: int | None = None
) -> tuple[Tensor, Tensor]:
    """Weights (B, C, h * w) of the cells in each class average, sum 1 or 0; cells (B, C) of each class."""

    def weigh(seed: bool) -> Tensor:
        if recipe.assign == "area":
            return area_weights(context.counts(grid, seed=seed))
        labels = context.seed if seed else context.labels
        assert labels is not None
        count = context.num_classes
        return cell_weights(labels, grid, num_classes=count, assign=recipe.assign, multiple=multiple)

    weights = weigh(seed=False)
    counts = weights.sum(-1)
    weights = _renormalise(weights)
    if context.seed is not None:
        own = weigh(seed=True)
        # A mean of means, as one set of weights: the features are read once.
        share = recipe.seed_weight * ((counts > 0) & (own.sum(-1) > 0)).to(weights.dtype)[..., None]
        weights = (1.0 - share) * weights + share * _renormalise(own)
    return weights, counts


def _heat(cosine: Tensor, recipe: Recipe) -> Tensor:
    """(B, C, h, w) similarity of cells and centroids as the recipe wants it."""
    if recipe.heatmap == "relu":
        return cosine.relu()
    flat = cosine.flatten(2)
    return minmax(flat, torch.ones_like(flat[:, :, :1], dtype=torch.bool)).view_as(cosine)


def _weights(
    scores: Tensor,
    context: Context,
    classes: Tensor,
    *,
    reg: float,
    recipe: Recipe,
    images: Tensor | None = None,
) -> Tensor:
    """(B, C, h, w) what "multiply by the plan" multiplies by; ``classes`` (B, C) are the class masses.

    ``images`` (P,) numbers the image of each problem, where these are not simply the batch.
    """
    flat = scores.flatten(2)
    if recipe.plan == "minmax":
        everywhere = torch.ones_like(flat[:, 0], dtype=torch.bool)
        return early_stopped_weights(flat, everywhere, classes > 0).reshape(scores.shape)
    cells = None
    if recipe.geometry == "centred":
        cells = context.box_mass(scores.shape[-2:])
        cells = cells if cells is None or images is None else cells[images]
    penalty = recipe.class_penalty
    return solve(flat, cells, classes, reg=reg, tol=1e-3, class_penalty=penalty).shares.view(scores.shape)


class UssStep(NamedTuple):
    """Result of :func:`rebalance_uss`."""

    scores: Tensor  # (B, C, h, w)
    centroids: Tensor  # (B, C, D)
    present: Tensor  # (B, C) bool
    posterior: Tensor  # (B, C, h, w) what a memory takes the tokens for; 1 without one
    purity: Tensor  # (B, C) share of a class average that the posterior leaves
    cleaned: Tensor | None  # (B, 1, 1) bool, images that a memory has a say in; None without one


def rebalance_uss(
    features: Tensor,
    context: Context,
    *,
    reg: float,
    recipe: Recipe,
    known: ClassDiscriminant | None = None,
    classes: Tensor | None = None,
) -> UssStep:
    """:func:`uss_rebalance` on checked input; what is ``known`` of ``classes`` (B, C) cleans the averages."""
    grid = features.shape[-2:]
    weights, counts = _class_weights(context, grid, recipe, multiple=_RELEASED_PATCH)
    present = counts > 0
    about = cleaned = None
    posterior = weights.new_ones(()).expand(weights.shape)
    purity = present.to(weights.dtype)
    if known is not None:
        assert classes is not None
        about = recall(known, standardise(features), classes)
        everywhere = context.box_mass(grid)
        if everywhere is None:
            everywhere = weights.new_full((1, weights.shape[-1]), 1.0 / weights.shape[-1])
        cleaned = about.enough(present)
        weights, posterior, purity = about.clean(weights, present, everywhere, recipe.memory_reach)
    centroids, cosine = compare(features, weights)
    heat = _heat(cosine, recipe)
    if about is not None and recipe.memory_weight > 0.0:
        heat = heat * about.agreement(weights, present).unflatten(-1, grid) ** recipe.memory_weight
    if recipe.transport == "each":
        mass = _renormalise(context.class_mass * present)
        heat = heat * _weights(heat, context, mass, reg=reg, recipe=recipe)
    scores = heat * present[..., None, None]
    return UssStep(scores, centroids, present, posterior.view_as(scores), purity, cleaned)


def similarity(centroids: Tensor) -> Tensor:
    """(B, C, C) cosine between class centroids (B, C, D); 0 for absent classes."""
    units = F.normalize(centroids, dim=-1, eps=LEAST_NORM)
    return (units @ units.mT).clamp(-1.0, 1.0)  # rounding must not lift equal centroids above tau = 1


def group_classes(alike: Tensor, tau: float, context: Context, recipe: Recipe) -> Tensor:
    """(B, C, C) bool: row i is the group of class i, a class of its own where it resembles no other."""
    count = alike.shape[-1]
    eye = torch.eye(count, dtype=torch.bool, device=alike.device)
    linked = alike > tau
    # Absent classes have similarity 0, which a tau below 0 would otherwise link.
    present = alike.diagonal(dim1=1, dim2=2) > 0.5
    linked = linked & present[:, :, None] & present[:, None, :]
    if context.background is not None and not recipe.group_background:
        linked[:, context.background] = False
        linked[:, :, context.background] = False
    if recipe.groups == "rows":
        return torch.triu(linked | (eye & present[:, :, None]))
    linked = linked | eye
    # Squaring doubles the length of the paths that are followed.
    for _ in range(max(count - 1, 1).bit_length()):
        linked = (linked.float() @ linked.float()) > 0
    return linked


def compare_levels(
    levels: Sequence[Tensor], context: Context, grid: torch.Size, recipe: Recipe
) -> tuple[Tensor, Tensor, Tensor]:
    """WSS similarities (B, C, h, w) on a grid, centroids (B, C, sum of D) and classes present (B, C)."""
    heat = context.class_mass.new_zeros(*context.class_mass.shape, *grid)
    pooled: list[Tensor] = []
    present = context.class_mass > 0
    weighed: dict[torch.Size, tuple[Tensor, Tensor]] = {}
    for features in levels:
        resized = grid if recipe.geometry == "released" else None
        own = features.shape[-2:] if resized is None else grid
        if own not in weighed:
            weighed[own] = _class_weights(context, own, recipe)
        weights, counts = weighed[own]
        centroids, cosine = compare(features, weights, resized)
        level = _heat(cosine, recipe)
        # Resizing the few score maps, not the many channels, and pooling at the level's own resolution.
        if own != grid:
            level = F.interpolate(level, grid, mode="bilinear", antialias=_shrinks(level, grid))
        heat += level / len(levels)
        pooled.append(centroids)
        present = present & (counts > 0)
    if recipe.heatmap == "minmax":
        heat = _heat(heat, recipe)
    return heat, torch.cat(pooled, dim=-1), present


def rebalance_wss(
    scores: Tensor,
    heat: Callable[[], Tensor],
    context: Context,
    groups: Tensor,
    *,
    reg: float,
    recipe: Recipe,
) -> Tensor:
    """Scores of :func:`wss_rebalance` for groups already found (:func:`group_classes`).

    ``heat`` gives the WSS similarities (B, C, h, w); nobody asks where no classes are alike.
    """
    sizes = groups.sum(-1)
    # A connected group stands in the rows of all its members: its lowest member speaks for it. Rows of the
    # released triangle start at their own class, so the same test keeps all of them.
    leader = groups.int().argmax(-1) == torch.arange(groups.shape[-1], device=groups.device)
    image, row = ((sizes > 1) & leader).nonzero(as_tuple=True)
    if image.numel():
        members = groups[image, row]
        mass = _renormalise(context.class_mass[image] * members)
        inner = _weights(heat()[image], context, mass, reg=reg, recipe=recipe, images=image)
        inner = torch.where((mass > 0)[..., None, None], inner, 1.0)
        target = image[:, None, None, None].expand_as(inner)
        scores = scores * torch.ones_like(scores).scatter_reduce(0, target, inner, reduce="prod")
    if recipe.transport == "last":
        mass = _renormalise(context.class_mass * (scores.flatten(2).amax(-1) > 0))
        scores = scores * _weights(scores, context, mass, reg=reg, recipe=recipe)
        if recipe.heatmap == "minmax":
            scores = minmax(scores.flatten(2), (mass > 0)[..., None]).reshape(scores.shape)
    return scores


def _shrinks(maps: Tensor, grid: torch.Size) -> bool:
    return maps.shape[-2] > grid[0] or maps.shape[-1] > grid[1]


def _renormalise(mass: Tensor) -> Tensor:
    return mass / mass.sum(-1, keepdim=True).clamp_min(1e-12)
