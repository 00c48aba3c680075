"""The two rebalancing steps as functions of their own, which check what they are given (Eq. 3 and 4)."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

from .checks import (
    check_data,
    check_filled,
    check_levels,
    check_magnitude,
    check_range,
    check_same,
    check_tensor,
    describe,
    show,
    show_shapes,
)
from .compiled import eager, ordinary
from .pooling import check_mask
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
from .transport.solver import check_reg


class Rebalanced(NamedTuple):
    """Result of :func:`uss_rebalance` and :func:`wss_rebalance`."""

    scores: Tensor
    """(B, C, h, w) float32 class scores on the feature grid, zeros for absent classes."""
    centroids: Tensor
    """(B, C, D) class-average features; the levels of a list side by side. Zeros for absent classes."""
    present: Tensor
    """(B, C) bool, whether the mask carries the class."""

    def __repr__(self) -> str:
        """Name the shapes, not the numbers."""
        return show_shapes(self)


@eager
@ordinary
def uss_rebalance(
    features: Tensor,
    mask: Tensor,
    *,
    num_classes: int,
    background: int | None = 0,
    ignore_index: int = 255,
    valid: Tensor | None = None,
    seed: Tensor | None = None,
    reg: float = 0.1,
    recipe: Recipe | None = None,
) -> Rebalanced:
    """Separate unlike classes by class-agnostic features (paper, Eq. 3).

    Pools the features per class of the mask, compares every cell with every centroid
    (``S = ReLU(cos)``) and multiplies by the transport plan of S: ``f_OT(S) * S``.

    Parameters
    ----------
    features : Tensor, (B, D, h, w), floating point
        USS features (DINO, STEGO, CAUSE, ...) of the images that the mask shows.
    mask : Tensor, (B, H, W), integer
        M_init, labels ``0 .. num_classes - 1`` or ``ignore_index``, at any resolution.
    num_classes : int
        Number of classes C. Memory grows with C: pass only the classes at hand, as ``refine_mask`` does.
    background : int or None
        Label of the background, whose class mass is its area share in the default recipe; None if there
        is no background class.
    ignore_index : int
        Label of pixels whose class is unknown. They feed no centroid but receive scores.
    valid : bool Tensor, (B, H, W), optional
        Pixels that exist (the crop box of a padded image). Default: all.
    seed : Tensor, (B, H, W), integer, optional
        Labels of the pixels that surely show their class, ``ignore_index`` elsewhere. They enter the class
        averages with ``recipe.seed_weight``. Default: none.
    reg : float
        Entropic regulariser of the transport.
    recipe : Recipe, optional
        Choices that the paper leaves open; the default is ``Recipe()``.

    Returns
    -------
    Rebalanced
        ``scores`` (B, C, h, w), ``centroids`` (B, C, D), ``present`` (B, C). No gradients.

    Raises
    ------
    ValueError, TypeError
        Wrong ranks, batch sizes, devices or labels; non-finite features; ``reg`` not positive.

    References
    ----------
    Jo et al., DHR: Dual Features-Driven Hierarchical Rebalancing, ECCV 2024, section 3.2, Eq. 3.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine import uss_rebalance
    >>> features = torch.tensor([[[[1.0, 1.0, 0.1, 0.0]], [[0.0, 0.1, 1.0, 1.0]]]])
    >>> mask = torch.tensor([[[0, 0, 255, 1]]])
    >>> result = uss_rebalance(features, mask, num_classes=2)
    >>> result.scores.argmax(1).tolist()
    [[[0, 0, 1, 1]]]
    """
    recipe = Recipe() if recipe is None else recipe
    check_tensor(features, "features", "(B, D, h, w)", ndim=4, floating=True)
    context = _checked_context(
        features, "features", mask, seed, num_classes, background, ignore_index, valid, recipe=recipe, reg=reg
    )
    check_magnitude(features, "features")
    with torch.autocast(device_type=features.device.type, enabled=False):
        step = rebalance_uss(features, context, reg=reg, recipe=recipe)
        return Rebalanced(step.scores, step.centroids, step.present)


@eager
@ordinary
def wss_rebalance(
    scores: Tensor,
    features: Tensor | Sequence[Tensor],
    mask: Tensor,
    *,
    uss_centroids: Tensor,
    tau: float = 0.8,
    background: int | None = 0,
    ignore_index: int = 255,
    valid: Tensor | None = None,
    seed: Tensor | None = None,
    reg: float = 0.1,
    recipe: Recipe | None = None,
) -> Rebalanced:
    """Separate alike classes by the classifier's own features (paper, Eq. 4).

    Classes whose USS centroids are closer than ``tau`` form a group; inside each group the scores are
    multiplied by the transport plan of the WSS similarities of its classes. Other classes keep their scores.

    Parameters
    ----------
    scores : Tensor, (B, C, h, w), floating point
        Scores of :func:`uss_rebalance`.
    features : Tensor (B, D, u, v) or list of such tensors
        WSS features; the similarities of several levels are averaged.
    mask : Tensor, (B, H, W), integer
        M_init, as in :func:`uss_rebalance`.
    uss_centroids : Tensor, (B, C, D')
        Centroids of :func:`uss_rebalance`.
    tau : float
        Cosine in [-1, 1] above which two classes are alike; 0.8 in the paper.
    background, ignore_index, valid, seed, reg, recipe
        As in :func:`uss_rebalance`.

    Returns
    -------
    Rebalanced
        ``scores`` (B, C, h, w), ``centroids`` (B, C, sum of D), ``present`` (B, C). No gradients.

    Raises
    ------
    ValueError, TypeError
        As :func:`uss_rebalance`, and ``tau`` outside [-1, 1], an empty list of levels, scores or centroids
        that do not fit together.

    Notes
    -----
    The host waits for the device once more than for the checks, to count the groups, and in the transport.

    References
    ----------
    Jo et al., DHR: Dual Features-Driven Hierarchical Rebalancing, ECCV 2024, section 3.2, Eq. 4.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine import uss_rebalance, wss_rebalance
    >>> uss = torch.tensor([[[[1.0, 1.0, 1.0, 0.9]], [[0.5, 0.5, 0.6, 0.5]]]])  # cannot tell the classes
    >>> wss = torch.tensor([[[[1.0, 0.9, 0.1, 0.0]], [[0.0, 0.1, 0.9, 1.0]]]])  # can
    >>> mask = torch.tensor([[[0, 255, 255, 1]]])
    >>> first = uss_rebalance(uss, mask, num_classes=2)
    >>> wss_rebalance(first.scores, wss, mask, uss_centroids=first.centroids).scores.argmax(1).tolist()
    [[[0, 0, 1, 1]]]
    """
    recipe = Recipe() if recipe is None else recipe
    check_tensor(scores, "scores", "(B, C, h, w)", ndim=4, floating=True)
    check_tensor(uss_centroids, "uss_centroids", "(B, C, D)", ndim=3, floating=True)
    check_data(scores, "scores")
    check_range(tau, "tau", -1.0, 1.0)
    if uss_centroids.shape[:2] != scores.shape[:2]:
        raise ValueError(
            f"uss_centroids has {tuple(uss_centroids.shape[:2])} images and classes but scores has "
            f"{tuple(scores.shape[:2])}: pass both from the same uss_rebalance call"
        )
    check_same(uss_centroids, "uss_centroids", scores, "scores")
    levels = check_levels(features, "features")
    for position, level in enumerate(levels):
        check_same(level, f"features[{position}]", scores, "scores")
        check_magnitude(level, f"features[{position}]")
    context = _checked_context(
        scores, "scores", mask, seed, scores.shape[1], background, ignore_index, valid, recipe=recipe, reg=reg
    )
    check_magnitude(scores, "scores")
    check_magnitude(uss_centroids, "uss_centroids")
    with torch.autocast(device_type=scores.device.type, enabled=False):
        groups = group_classes(similarity(uss_centroids.float()), tau, context, recipe)
        heat, centroids, present = compare_levels(levels, context, scores.shape[-2:], recipe)
        result = rebalance_wss(scores.float(), lambda: heat, context, groups, reg=reg, recipe=recipe)
        return Rebalanced(result, centroids, present)


def _checked_context(
    reference: Tensor,
    reference_name: str,
    mask: Tensor,
    seed: Tensor | None,
    num_classes: int,
    background: int | None,
    ignore_index: int,
    valid: Tensor | None,
    *,
    recipe: Recipe,
    reg: float,
) -> Context:
    check_reg(reg)
    check_filled(reference, reference_name)
    if not isinstance(recipe, Recipe):
        raise TypeError(f"recipe must be a Recipe, got {describe(recipe)}: pass Recipe.paper(), say")
    labels = check_mask(mask, "mask", num_classes=num_classes, ignore_index=ignore_index)
    check_filled(labels, "mask")
    check_same(labels, "mask", reference, reference_name)
    if background is not None and (
        isinstance(background, bool)
        or not isinstance(background, Integral)
        or not 0 <= background < num_classes
    ):
        raise ValueError(
            f"background must be None or a label in 0..{num_classes - 1}, got {show(background)}: "
            "pass None where there is no background class"
        )
    if valid is not None:
        if not isinstance(valid, Tensor) or valid.dtype != torch.bool or valid.shape != labels.shape:
            raise ValueError(
                f"valid must be a bool tensor of the shape of mask {tuple(labels.shape)}, got "
                f"{describe(valid)}: pass True where a pixel exists"
            )
        check_same(valid, "valid", labels, "mask")
    labels = torch.where(labels == ignore_index, num_classes, labels)
    if seed is not None:
        seed = check_mask(seed, "seed", num_classes=num_classes, ignore_index=ignore_index)
        check_same(seed, "seed", labels, "mask")
        if seed.shape != labels.shape:
            raise ValueError(
                f"seed must have the shape of mask {tuple(labels.shape)}, got {describe(seed)}: bring it to "
                "the pixels of mask"
            )
        seed = torch.where(seed == ignore_index, num_classes, seed)
    return make_context(
        labels, valid, seed=seed, num_classes=num_classes, background=background, recipe=recipe
    )
