"""Weighted averages of maps over the cells of a grid: of all cells, or of few for each.

In float64: hundreds of float32 averages add up what rounding does to each to 1e-4 of a map's maximum.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, fields, replace
from typing import Any

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
    rows: Tensor | None = None  # (B N, B N) the same compressed, where its products are faster

    @classmethod
    def of_one_pattern(cls, weights: Tensor, cells: Tensor, sizes: Tensor) -> Sparse:
        """From weights (B, m) for the same ``cells`` (m,) of every image, in bags of these ``sizes`` (N,)."""
        images, count = weights.shape[0], len(sizes)
        image = torch.arange(images, device=weights.device)[:, None]
        starts = (image * len(cells) + sizes.cumsum(0) - sizes).flatten()
        values, places = weights.flatten(), (image * count + cells).flatten()
        rows = _compress(values, places, starts) if _has_fast_products(values) else None
        return cls(values, places, starts, images, count, rows)

    def __deepcopy__(self, memo: dict[int, Any]) -> Sparse:
        """Copy it by clones: torch copies no compressed tensor deeply."""
        own = {field.name: getattr(self, field.name) for field in fields(self)}
        clones: dict[str, Any] = {k: value.clone() for k, value in own.items() if isinstance(value, Tensor)}
        return replace(self, **clones)

    def enter(self, maps: Tensor) -> Tensor:
        """Maps (B, C, N) as they are averaged: (B N, C)."""
        return maps.movedim(1, 2).flatten(0, 1).contiguous()

    def average(self, maps: Tensor) -> Tensor:
        """One average of the maps."""
        if self.rows is not None:
            return self.rows @ maps
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


def _has_fast_products(values: Tensor) -> bool:
    """Whether products with compressed rows are those of MKL: four times as fast as bags in float64."""
    return values.device.type == "cpu" and torch.backends.mkl.is_available()


def _compress(values: Tensor, places: Tensor, starts: Tensor) -> Tensor:
    ends = torch.cat((starts, starts.new_full((1,), len(places))))
    with warnings.catch_warnings():
        # "Sparse CSR tensor support is in beta state", once in a process.
        warnings.simplefilter("ignore", UserWarning)
        # MKL takes indices of 32 bits as they are.
        return torch.sparse_csr_tensor(
            ends.int(), places.int(), values, (len(starts), len(starts)), check_invariants=False
        )
