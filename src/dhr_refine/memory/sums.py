"""Sums over images: how many, and the weight, sum and second moment of the tokens of each class."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Sums(NamedTuple):
    """The sums of a memory of C classes and D channels, float64."""

    seen: Tensor  # () images, whatever their classes
    images: Tensor  # (C,) images that have the class
    weight: Tensor  # (C,) of its tokens
    first: Tensor  # (C, D) its tokens
    second: Tensor  # (M, D, D) their outer products, in the slot of the class

    @staticmethod
    def shapes(classes: int, dim: int, matrices: int) -> tuple[tuple[int, ...], ...]:
        """The shape of each."""
        return (), (classes,), (classes,), (classes, dim), (matrices, dim, dim)

    @classmethod
    def zeros(cls, classes: int, dim: int, matrices: int, device: torch.device | str) -> Sums:
        """Nothing seen yet."""
        shapes = cls.shapes(classes, dim, matrices)
        # What is made in inference mode could not be added to outside of it.
        with torch.inference_mode(False):
            return cls(*(torch.zeros(shape, dtype=torch.float64, device=device) for shape in shapes))

    def copy(self, device: torch.device | str | None = None) -> Sums:
        """The same sums in tensors of their own, on another device if one is given."""
        with torch.inference_mode(False):
            return Sums(*(tensor.to(device or tensor.device, copy=True) for tensor in self))

    def add(
        self, tokens: Tensor, weights: Tensor, ids: list[list[int]], slots: list[int], *, decay: float
    ) -> None:
        """Add tokens (B, D, N) of weights (B, K, N) in the classes ``ids`` of each image, in place.

        ``slots`` says where each class has its second moment. Each image leaves the share ``decay`` of the
        sums before it. No waits for the device.
        """
        count = len(ids)
        fades = decay ** np.arange(count - 1, -1, -1.0)
        # A product with a table instead of an index_add, whose order of additions CUDA does not promise.
        table = np.zeros((self.images.shape[0], count, weights.shape[1]))
        for image, own in enumerate(ids):
            table[own, image, np.arange(len(own))] = fades[image]
        placed = torch.from_numpy(table).flatten(1).to(self.images.device)
        cells = weights.sum(-1).double().flatten()
        if decay < 1.0:
            for sums in self:
                sums *= decay**count
        self.seen.add_(float(fades.sum()))
        self.images.add_(placed @ (cells > 0).double())
        self.weight.add_(placed @ cells)
        self.first.add_(placed @ (weights @ tokens.mT).double().flatten(0, 1))
        for image, own in enumerate(ids):
            for slot in sorted({slots[label] for label in own}):
                rows = [row for row, label in enumerate(own) if slots[label] == slot]
                product = _second_moment(tokens[image], weights[image, rows].sum(0))
                self.second[slot].add_(product, alpha=float(fades[image]))


def _second_moment(tokens: Tensor, weights: Tensor) -> Tensor:
    """(D, D) sum of the outer products of tokens (D, N) by weights (N,)."""
    if tokens.device.type == "cpu":
        # Most tokens lie in few classes. (An accelerator would wait to know how many.)
        own = weights.nonzero().flatten()
        tokens, weights = tokens[:, own], weights[own]
    return (tokens * weights) @ tokens.mT
