"""Affinity out of feature vectors: two cells belong together where their vectors are alike."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import (
    check_choice,
    check_data,
    check_filled,
    check_magnitude,
    check_positive,
    check_tensor,
)
from ..compiled import eager
from ..maps import LEAST_NORM
from .affinity import Affinity, find_spread, wide
from .averages import Dense
from .limits import check_bytes
from .neighbours import average_neighbours, check_radius, half_of_neighbours, shifted

Likeness = Literal["cosine", "exponential"]
# Exponent and steps of each.
_DEFAULTS: dict[str, tuple[float, int]] = {"cosine": (16, 16), "exponential": (8, 2**6)}


@eager
@torch.no_grad()
def feature_affinity(
    features: Tensor,
    *,
    radius: float | None = None,
    beta: float | None = None,
    likeness: Likeness = "cosine",
) -> Affinity:
    """Make an affinity of a feature map, of a ViT without labels (USS) say, or of AffinityNet (PSA, SEAM).

    Parameters
    ----------
    features : Tensor, (B, D, u, v) or (D, u, v), floating point
        Feature vectors of the cells. Detached.
    radius : float, optional
        Cells nearer than this are neighbours; 5 in PSA and SEAM. Default: every cell of the image is one of
        every other, which takes u v times u v numbers an image.
    beta : float, optional
        Exponent of the likeness, above 0. Default: 16 for cosines, our choice on real masks (docs,
        Propagation); 8 for "exponential", that of PSA and SEAM.
    likeness : {"cosine", "exponential"}
        "cosine" (default): ReLU(cos) of two vectors. "exponential": exp(-mean over channels of the absolute
        difference), as AffinityNet has it.

    Returns
    -------
    Affinity
        For :func:`random_walk`, which takes 16 steps of it unless told otherwise, chosen with ``beta``; 2**6
        with "exponential", as SEAM does.

    Raises
    ------
    ValueError, TypeError
        Anything above violated, NaN, or more pairs than fit the memory; the message says which.

    Notes
    -----
    A cell's affinity to itself is 1, also where its vector is zero. AffinityNet's own matrix leaves out the
    pairs within a margin of radius - 1 cells at three sides of the image, whose indices it has not; for its
    very numbers pass that matrix to :func:`pairwise_affinity`. The host waits for the device twice.

    References
    ----------
    "exponential": J. Ahn and S. Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision",
    CVPR 2018, equation 3. "cosine": our choice, the likeness of the rebalancing steps (Jo et al., DHR, ECCV
    2024, equation 3).

    Examples
    --------
    >>> import torch
    >>> from dhr_refine.propagation import feature_affinity, random_walk
    >>> features = torch.tensor([[[1.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]])  # two channels, three cells
    >>> random_walk(torch.tensor([[[0.8, 0.4, 0.1]]]), feature_affinity(features))
    tensor([[[0.6000, 0.6000, 0.1000]]])
    """
    check_tensor(features, "features", "(B, D, u, v) or (D, u, v)", ndim=(3, 4), floating=True)
    check_filled(features, "features", batched=features.ndim == 4)
    check_choice(likeness, "likeness", tuple(_DEFAULTS))
    usual, steps = _DEFAULTS[likeness]
    beta = usual if beta is None else beta
    check_positive(beta, "beta")
    maps = features if features.ndim == 4 else features[None]
    grid = (maps.shape[2], maps.shape[3])
    cells = grid[0] * grid[1]
    if radius is None:
        fix = "pass a radius, 5 say, fewer images, or features of a coarser grid"
        check_bytes(len(maps) * cells**2, 8, _all_pairs(maps), fix)
    else:
        check_radius(radius, len(maps), grid)
    check_data(maps, "features")
    check_magnitude(maps, "features")
    with torch.autocast(device_type=maps.device.type, enabled=False):
        maps = wide(maps)
        if likeness == "cosine":
            maps = F.normalize(maps, dim=1, eps=LEAST_NORM)
        if radius is None:
            averages, sums = _average_all(maps, beta, likeness)
            return Affinity(grid, steps, averages, sums, find_spread(sums))
        ways = half_of_neighbours(radius, grid)
        weights = [_compare(shifted(maps, way), shifted(maps, way, way), likeness, beta) for way in ways]
        averages, sums = average_neighbours(weights, ways, maps[:, 0])
    return Affinity(grid, steps, averages, sums, find_spread(sums))


def _all_pairs(maps: Tensor) -> str:
    return f"an affinity of all pairs of {maps.shape[2]} x {maps.shape[3]} cells in {len(maps)} image(s)"


def _compare(one: Tensor, other: Tensor, likeness: Likeness, beta: float) -> Tensor:
    """(B, ...) affinity of vectors (B, D, ...), cosines those of unit vectors."""
    if likeness == "cosine":
        return (one * other).sum(1).clamp_(0.0, 1.0) ** beta
    return torch.exp(-beta * (one - other).abs().mean(1))


def _average_all(maps: Tensor, beta: float, likeness: Likeness) -> tuple[Dense, Tensor]:
    """Averages over all cells, and the sums (B, N) of each cell's weights."""
    vectors = maps.flatten(2)
    if likeness == "cosine":
        weights = (vectors.mT @ vectors).clamp_(0.0, 1.0).pow_(beta)
    else:
        distances = torch.cdist(vectors.mT, vectors.mT, p=1.0)
        weights = distances.mul_(-beta / maps.shape[1]).exp_()
    weights = weights.double()
    weights.diagonal(dim1=1, dim2=2).fill_(1.0)
    sums = weights.sum(1)
    return Dense(weights / sums[:, None]), sums
