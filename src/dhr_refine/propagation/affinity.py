"""What a walk follows: how much the cells of a grid have in common."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..checks import check_count
from .averages import Averages
from .limits import check_bytes


@dataclass(frozen=True, eq=False)
class Affinity:
    """The averages of a random walk over the cells of a grid, for one image or a batch.

    Made by :func:`edge_affinity`, :func:`pairwise_affinity`, :func:`attention_affinity` or
    :func:`feature_affinity`, taken by :func:`random_walk`.
    """

    grid: tuple[int, int]
    """Rows and columns of cells."""
    steps: int
    """How many steps :func:`random_walk` takes where nothing else is asked for."""
    averages: Averages = field(repr=False)
    """How maps are averaged, one step."""
    sums: Tensor | None = field(repr=False)
    """(B, N) what each cell's weights summed to before they were divided by it; None where they were not."""
    spread: float = field(repr=False)
    """Sum of ``sums`` over the least of them, the largest of the batch."""
    source: Tensor | None = field(default=None, repr=False)
    """(B, h, w) share in [0, 1] of its own score that a cell enters the walk with; None: all of it."""

    @property
    def images(self) -> int:
        """How many images there are."""
        return self.averages.images

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.averages.weights.device

    def matrix(self) -> Tensor:
        """Write out the transition matrix: new scores are its product with the old ones.

        Returns
        -------
        Tensor, (B, N, N), float64
            Row i holds the weights of cell i's average, cells row by row. Rows sum to 1, those of
            :func:`attention_affinity` nearly so.

        Raises
        ------
        ValueError
            It does not fit the memory.

        Examples
        --------
        >>> import torch
        >>> from dhr_refine.propagation import edge_affinity
        >>> edge_affinity(torch.tensor([[0.0, 0.0, 1.0]]), radius=2).matrix()
        tensor([[[0.5000, 0.5000, 0.0000],
                 [0.5000, 0.5000, 0.0000],
                 [0.0000, 0.0000, 1.0000]]], dtype=torch.float64)
        """
        cells = math.prod(self.grid)
        fix = "look at fewer images, or make the affinity of a coarser grid"
        check_bytes(self.images * cells * cells, 8, f"a matrix of {cells:,} cells", fix)
        return self.averages.matrix()


def find_spread(sums: Tensor) -> float:
    """Sum of the weights of an image over those of its least cell, the largest of a batch (waits once)."""
    if sums.numel() == 0:
        return 1.0
    return float((sums.sum(1) / sums.amin(1)).amax())


def check_grid(grid: tuple[int, int], cells: int, name: str) -> None:
    """Raise unless a grid has as many cells as something else says."""
    for side in grid:
        check_count(side, "grid", 1)
    count = math.prod(grid)
    if count != cells:
        fix = "pass the grid of the matrix"
        if count + 1 == cells:
            fix = f"drop the class token with {name}[..., 1:, 1:]"
        raise ValueError(f"{name} has {cells} cells but grid {tuple(grid)} has {count}: {fix}")


def wide(maps: Tensor) -> Tensor:
    """Maps in float32, or in float64 where they are: the type that their cells are compared in."""
    return maps.detach() if maps.dtype == torch.float64 else maps.detach().float()
