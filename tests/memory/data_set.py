"""Small data sets for the class memory: features around one mean per class, and base masks with faults."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from scenes import Scene, make_scene
from torch import Tensor

CLASSES = 8  # foreground
DIM = 12


class Item(NamedTuple):
    """One image of a data set."""

    features: Tensor  # (D, h, w)
    mask: Tensor  # (H, W) with the background 0
    tags: list[int]


def draw(
    seed: int,
    count: int = 12,
    *,
    size: tuple[int, int] = (24, 30),
    grid: tuple[int, int] = (6, 5),
    dim: int = DIM,
    classes: int = CLASSES,
    ignore: bool = True,
) -> list[Item]:
    """Images of one to three tags in rectangles; a mask floods by some pixels and has some of 255."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(classes + 1, dim))
    items = []
    for _ in range(count):
        tags = sorted(rng.choice(classes, size=rng.integers(1, 4), replace=False).tolist())
        truth = np.zeros(size, dtype=np.int64)
        for tag in tags:
            y, x = (int(rng.integers(0, side // 2)) for side in size)
            truth[y : y + size[0] // 2, x : x + size[1] // 2] = tag + 1
        rows = (np.arange(grid[0]) * size[0]) // grid[0]
        columns = (np.arange(grid[1]) * size[1]) // grid[1]
        cells = means[truth[rows[:, None], columns]]
        features = (
            torch.from_numpy(cells + 0.6 * rng.normal(size=cells.shape)).float().permute(2, 0, 1).contiguous()
        )
        mask = np.roll(truth, (2, 3), (0, 1))
        if ignore:
            mask[int(rng.integers(size[0])) :][:2] = 255
        items.append(Item(features, torch.from_numpy(mask), tags))
    return items


def stacked(items: list[Item]) -> tuple[Tensor, Tensor, list[list[int]]]:
    """Features, masks and tags as a batch."""
    return (
        torch.stack([item.features for item in items]),
        torch.stack([item.mask for item in items]),
        [item.tags for item in items],
    )


def in_labels(mask: Tensor, background: str, classes: int = CLASSES) -> Tensor:
    """A mask with the background at 0, or 255, written with the background elsewhere."""
    behind = {"first": 0, "last": classes, "none": 255}[background]
    shifted = mask if background == "first" else mask - 1
    return torch.where(mask == 255, 255, torch.where(mask == 0, behind, shifted))


def scenes(count: int, *, classes: int = CLASSES, **options) -> list[Scene]:
    """Scenes whose features go by one table of classes, so that a memory of some speaks of the others."""
    table = np.random.default_rng(99).normal(size=(classes + 1, DIM)) ** 2 + 0.05
    made = []
    for seed in range(count):
        rng = np.random.default_rng(1000 + seed)
        scene = make_scene(seed, classes=classes, **options)
        height, width = scene.uss.shape[1:]
        rows = ((np.arange(height) + 0.5) * scene.truth.shape[0] / height).astype(int)
        columns = ((np.arange(width) + 0.5) * scene.truth.shape[1] / width).astype(int)
        cells = table[scene.truth.numpy()[rows[:, None], columns]]
        uss = (
            torch.from_numpy(cells + 0.3 * rng.normal(size=cells.shape)).float().permute(2, 0, 1).contiguous()
        )
        made.append(scene._replace(uss=uss))
    return made
