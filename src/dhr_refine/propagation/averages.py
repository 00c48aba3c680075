"""Weighted averages of maps over the cells of a grid: of all cells, or of few for each.

In float64: hundreds of float32 averages add up what rounding does to each to 1e-4 of a map's maximum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Dense:
    """Averages over all cells of an image."""

    weights: Tensor  # (B, N, N) float64: what the cell of the row gives to that of the column

    @property
    def images(self) -> int:
        """How many images there are."""
        return self.weights.shape[0]

    # Maps are (B, C, N): as the left factor they are read along their rows, which is several times as fast on
    # a CPU as the product with (B, N, C). A square of the weights costs N products with one map.

    def enter(self, maps: Tensor) -> Tensor:
        """Maps (B, C, N) as they are averaged."""
        return maps

    def average(self, maps: Tensor) -> Tensor:
        """One average of the maps."""
        return maps @ self.weights

    def leave(self, maps: Tensor) -> Tensor:
        """Averaged maps as (B, C, N)."""
        return maps

    def matrix(self) -> Tensor:
        """(B, N, N): each row holds the weights of a cell's average."""
        return self.weights.mT


@dataclass(frozen=True, eq=False)
class Sparse:
    """Averages over few cells for each, those of a batch in a row: what one cell averages is a bag."""

    weights: Tensor  # (M,) float64, of the cells of all bags
    cells: Tensor  # (M,) their numbers, from 0 to B N - 1
    starts: Tensor  # (B N,) where each bag starts
    images: int
    count: int  # N

    @classmethod
    def of_one_pattern(cls, weights: Tensor, cells: Tensor, sizes: Tensor) -> Sparse:
        """From weights (B, m) for the same ``cells`` (m,) of every image, in bags of these ``sizes`` (N,)."""
        images, count = weights.shape[0], len(sizes)
        image = torch.arange(images, device=weights.device)[:, None]
        starts = sizes.cumsum(0) - sizes
        return cls(
            weights.flatten(),
            (image * count + cells).flatten(),
            (image * len(cells) + starts).flatten(),
            images,
            count,
        )

    def enter(self, maps: Tensor) -> Tensor:
        """Maps (B, C, N) as they are averaged: (B N, C)."""
        return maps.movedim(1, 2).flatten(0, 1).contiguous()

    def average(self, maps: Tensor) -> Tensor:
        """One average of the maps."""
        # As fast on a CPU as the product with a compressed sparse matrix, and on every device without one.
        return F.embedding_bag(self.cells, maps, self.starts, mode="sum", per_sample_weights=self.weights)

    def leave(self, maps: Tensor) -> Tensor:
        """Averaged maps as (B, C, N)."""
        return maps.unflatten(0, (self.images, self.count)).movedim(2, 1).contiguous()

    def matrix(self) -> Tensor:
        """(B, N, N): each row holds the weights of a cell's average."""
        ends = torch.cat((self.starts[1:], self.starts.new_full((1,), len(self.cells))))
        rows = torch.repeat_interleave(ends - self.starts)
        flat = self.weights.new_zeros(self.images * self.count * self.count)
        flat.index_add_(0, rows * self.count + self.cells % self.count, self.weights)
        return flat.view(self.images, self.count, self.count)


Averages = Dense | Sparse
