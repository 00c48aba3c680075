"""Affinity out of a boundary map: two cells belong together unless a boundary lies between them (IRN)."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..checks import (
    check_data,
    check_filled,
    check_finite,
    check_positive,
    check_tensor,
    describe,
    find_extent,
    show,
)
from ..compiled import eager
from .affinity import Affinity, find_spread, wide
from .neighbours import average_neighbours, cells_on_path, check_radius, half_of_neighbours, shifted


@eager
@torch.no_grad()
def edge_affinity(edges: Tensor, *, radius: float = 5, beta: float = 10, gate: bool = True) -> Affinity:
    """Make the affinity of IRN: 1 - the highest boundary score on the straight way between two cells.

    Parameters
    ----------
    edges : Tensor, (B, h, w), (B, 1, h, w) or (h, w), floating point in [0, 1]
        Boundary map: 1 on a class boundary. IRN's ``edge`` (1, h, w) is at a quarter of the image's size.
        Detached.
    radius : float, default 5
        Cells nearer than this are neighbours, as in IRN: 68 of them at 5.
    beta : float, default 10
        Exponent of the affinities, IRN's ``beta``: the higher, the less crosses a weak boundary.
    gate : bool, default True
        Whether a cell enters the walk with its scores times 1 - its boundary score, as in IRN. Without it a
        constant map stays constant.

    Returns
    -------
    Affinity
        For :func:`random_walk`, which takes 2**8 steps of it (``exp_times`` 8) unless told otherwise.

    Raises
    ------
    ValueError, TypeError
        Anything above violated, NaN, or more pairs than fit the memory; the message says which.

    Notes
    -----
    A cell's affinity to itself is 1, and the transition divides by the sum over the cell and its neighbours.
    The host waits for the device twice.

    References
    ----------
    J. Ahn, S. Cho and S. Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel
    Relations", CVPR 2019, equations 3 and 9, whose code this does the same as.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine.propagation import edge_affinity, random_walk
    >>> edges = torch.tensor([[0.0, 0.0, 1.0, 0.0, 0.0]])  # one row of cells, a boundary in the middle
    >>> cams = torch.tensor([[[0.8, 0.4, 0.0, 0.0, 0.0]]])
    >>> random_walk(cams, edge_affinity(edges))
    tensor([[[0.6000, 0.6000, 0.0000, 0.0000, 0.0000]]])
    """
    check_tensor(edges, "edges", "(B, h, w), (B, 1, h, w) or (h, w)", ndim=(2, 3, 4), floating=True)
    if edges.ndim == 4 and edges.shape[1] != 1:
        raise ValueError(
            f"edges must have one channel, got {describe(edges)}: pass the boundary map alone, edges[:, :1]"
        )
    check_filled(edges, "edges", batched=edges.ndim > 2)
    check_positive(beta, "beta")
    if not isinstance(gate, bool):
        raise TypeError(f"gate must be a bool, got {show(gate)}: pass True or False")
    maps = wide(edges).reshape(-1, *edges.shape[-2:])
    grid = (maps.shape[1], maps.shape[2])
    check_radius(radius, len(maps), grid)
    check_data(maps, "edges")
    check_finite(maps, "edges")
    low, high = find_extent(maps)
    if low < 0 or high > 1:
        raise ValueError(
            f"edges must lie in [0, 1], got {low:.3g} to {high:.3g}: pass edges.sigmoid() for logits"
        )
    ways = half_of_neighbours(radius, grid)
    weights = []
    for way in ways:
        on_path = (shifted(maps, way, cell) for cell in cells_on_path(way))
        weights.append((1.0 - functools.reduce(torch.maximum, on_path)) ** beta)
    averages, sums = average_neighbours(weights, ways, maps)
    source = 1.0 - maps if gate else None
    return Affinity(grid, 2**8, averages, sums, find_spread(sums), source)
