"""The choices that the paper leaves open, as one frozen object: three presets, and room for your own."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args, get_type_hints

from .checks import check_choice, check_range, show
from .transport.solver import LEAST_PENALTY


@functools.cache  # read once: every call of refine_mask makes its default recipe
def _types_of(recipe: type) -> dict[str, Any]:
    return get_type_hints(recipe)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Choices inside the DHR step that the paper is silent or ambiguous about.

    ``Recipe()`` is the default, the best of what was measured on real images; :meth:`paper` is the literal
    reading of the equations; :meth:`released` is the arithmetic of the authors' released code, made
    runnable. Derive your own with :func:`dataclasses.replace`.

    Attributes
    ----------
    classes : {"tags", "mask"}
        Which classes take part in steps 2 and 3: the image tags and the background (paper), or the labels
        that M_init carries (released).
    subtract_floor : bool
        Whether the seed goes by the CAMs less their floor, which holds no signal (similarities of CLIP and
        sigmoid maps have one, ReLU CAMs mostly none): the minimum of a CAM, or its mean over the background
        of the base mask where it claims more than half of that above 0.2 of its range. A CAM that varies by
        less than 0.1 % of its maximum has no seed.
    assign : {"area", "majority"}
        How class-average pooling brings a mask to the feature grid, see :func:`class_avg_pool`.
    heatmap : {"relu", "minmax"}
        Similarity of features and centroids: ReLU(cos) (Eq. 3), or cos scaled to 0..1 per class (released).
    plan : {"share", "minmax"}
        What "multiply by the plan" means: each pixel's share per class of the converged plan, or the plan
        of a Sinkhorn loop that stops after about two rounds, scaled to 0..1 per class (released).
    marginal : {"background", "uniform"}
        Class masses of the transport in steps 2 and 3: the background keeps its area share of M_init, where
        half of the unknown pixels count as background, and the other classes split the rest equally; or all
        classes get the same.
    class_penalty : float
        Weight of the penalty by which these masses are asked for, see :func:`sinkhorn_ot`; ``math.inf``: they
        are met exactly. Equal masses give a tag of one percent of the image many times its area; relaxed
        ones give way where the features say so.
    transport : {"each", "last"}
        Transport on the USS scores before the WSS step (Eq. 3), or once on the final product (released).
    groups : {"connected", "rows"}
        Classes alike to the USS features: connected components of cos > tau, or each row of its upper
        triangle, which overlap and depend on the class order (released).
    group_background : bool
        Whether the background can join a group.
    merge : {"shrunk", "all"}
        Which classes of the seed overwrite the base mask: those with fewer pixels there than in the seed,
        vanished ones above all, or all of them (released).
    seed_weight : float
        Weight in [0, 1] of the seed in the class averages, where a class has one: centroids are
        ``(1 - seed_weight) * mean over M_init + seed_weight * mean over the seed``. A base mask that floods
        has impure classes, a seed is small but purer.
    prior : float
        Weight in [0, 1] of M_init itself (each cell's class shares) in the final scores.
    memory_prior : float
        The same, where ``prior`` is not 0, for images that a memory of the classes has a say in, whose
        scores are better (:class:`ClassMemory`).
    memory_weight : float
        With a memory: exponent in [0, 1] of its say in the USS similarities, beside that in the class
        averages; 0 = none.
    memory_reach : float
        With a memory: weight, 0 or more, at which features outside the mask of a class enter its average, by
        their posterior alone; the mask itself has the weight 1.
    normalise : bool
        Whether the scores of a pixel are brought to sum 1 before the boundary tool.
    keep : float
        Share in [0, 1]: a class that the last boundary tool shrinks below this share of its pixels keeps
        those that it had before. Above 0, the background and every tag that the base mask or the seed has
        also keep one pixel in any case: a class without one gets that where its score before the boundary
        tool is highest (where the seed has taken all of its pixels, the first of these in the base mask). The
        last pixel of another class is never taken; a class whose scores are all zero gets none.
    geometry : {"centred", "released"}
        How grids are enlarged: bilinear with half-pixel centres, or as released (nearest CAMs cut at whole
        cells, bilinear with aligned corners elsewhere).

    Raises
    ------
    ValueError, TypeError
        A choice that does not exist, a weight outside [0, 1], a flag that is no bool.

    References
    ----------
    Jo et al., DHR: Dual Features-Driven Hierarchical Rebalancing in Inter- and Intra-Class Regions for
    Weakly-Supervised Semantic Segmentation, ECCV 2024, section 3.2 and appendix A.

    Examples
    --------
    >>> from dataclasses import replace
    >>> from dhr_refine import Recipe
    >>> replace(Recipe(), prior=0.0).prior
    0.0
    """

    classes: Literal["tags", "mask"] = "tags"
    subtract_floor: bool = True
    assign: Literal["area", "majority"] = "area"
    heatmap: Literal["relu", "minmax"] = "relu"
    plan: Literal["share", "minmax"] = "share"
    marginal: Literal["background", "uniform"] = "background"
    class_penalty: float = 0.1
    transport: Literal["each", "last"] = "each"
    groups: Literal["connected", "rows"] = "connected"
    group_background: bool = True
    merge: Literal["shrunk", "all"] = "shrunk"
    seed_weight: float = 0.5
    prior: float = 0.4
    memory_prior: float = 0.2
    memory_weight: float = 1.0
    memory_reach: float = 1.0
    normalise: bool = True
    keep: float = 0.5
    geometry: Literal["centred", "released"] = "centred"

    def __post_init__(self) -> None:
        """Refuse choices that do not exist."""
        hints = _types_of(type(self))
        for field in fields(self):
            value = getattr(self, field.name)
            if hints[field.name] is bool:
                if not isinstance(value, bool):
                    raise TypeError(f"{field.name} must be a bool, got {show(value)}: pass True or False")
            elif hints[field.name] is not float:
                check_choice(value, field.name, get_args(hints[field.name]))
        check_range(self.seed_weight, "seed_weight", 0.0, 1.0)
        check_range(self.prior, "prior", 0.0, 1.0)
        check_range(self.keep, "keep", 0.0, 1.0)
        check_range(self.memory_prior, "memory_prior", 0.0, 1.0)
        check_range(self.memory_weight, "memory_weight", 0.0, 1.0)
        check_range(self.memory_reach, "memory_reach", 0.0, 1e6)
        check_range(self.class_penalty, "class_penalty", LEAST_PENALTY, math.inf)

    @classmethod
    def paper(cls) -> Recipe:
        """The equations read literally: uniform marginals, M_init alone pooled, nothing mixed in."""
        return cls(
            subtract_floor=False,
            marginal="uniform",
            class_penalty=math.inf,
            merge="all",
            seed_weight=0.0,
            prior=0.0,
            normalise=False,
            keep=0.0,
        )

    @classmethod
    def released(cls) -> Recipe:
        """The authors' released arithmetic, with the unassigned channel inside the seed CRF.

        The released order (channel appended after the CRF) labels nearly every pixel as foreground.
        """
        return cls(
            classes="mask",
            subtract_floor=False,
            assign="majority",
            heatmap="minmax",
            plan="minmax",
            marginal="uniform",
            class_penalty=math.inf,
            transport="last",
            groups="rows",
            merge="all",
            seed_weight=0.0,
            prior=0.0,
            normalise=False,
            keep=0.0,
            geometry="released",
        )
