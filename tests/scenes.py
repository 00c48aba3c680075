"""Synthetic scenes for the tests: a few blobs, and the CAMs and features a network might give for them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class Scene(NamedTuple):
    """One image: the arguments of refine_mask, and the truth they were made from."""

    cams: Tensor  # (C, h, w)
    mask: Tensor  # (H, W)
    uss: Tensor  # (D, u, v)
    wss: list[Tensor]  # levels (D, u, v)
    image: Tensor  # (3, H, W) uint8
    tags: list[int]  # 0-based foreground classes
    truth: Tensor  # (H, W), background 0


def make_scene(
    seed: int,
    *,
    size: tuple[int, int] = (40, 56),
    tags: tuple[int, ...] = (2, 6),
    classes: int = 8,
    cam_grid: tuple[int, int] = (10, 14),
    uss_grid: tuple[int, int] = (8, 11),
    wss_grids: tuple[tuple[int, int], ...] = ((5, 7), (10, 14)),
    alike: tuple[int, ...] = (),
    lost: tuple[int, ...] = (),
    ignore: bool = False,
) -> Scene:
    """Build a scene with one elliptic blob per tag.

    ``alike``: tags whose USS features are nearly the same; ``lost``: tags erased from the base mask;
    ``ignore``: a band of 255 across the base mask.
    """
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width]
    truth = np.zeros(size, dtype=np.int64)
    for place, tag in enumerate(tags):
        cy = height * (0.35 + 0.3 * rng.random())
        cx = width * (place + 0.5) / len(tags)
        ry, rx = height * (0.2 + 0.1 * rng.random()), 0.42 * width / len(tags)
        truth[((y - cy) / ry) ** 2 + ((x - cx) / rx) ** 2 < 1] = tag + 1

    def features(grid: tuple[int, int], depth: int, close: tuple[int, ...], noise: float) -> Tensor:
        prototypes = rng.normal(size=(classes + 1, depth)) ** 2 + 0.05
        for other in close[1:]:
            change = 0.05 * np.abs(rng.normal(size=depth))
            prototypes[other + 1] = prototypes[close[0] + 1] + change
        cells = prototypes[_shrink(truth, grid)].transpose(2, 0, 1)
        return torch.from_numpy(cells + noise * rng.normal(size=cells.shape)).float()

    cams = rng.normal(scale=0.2, size=(classes, *cam_grid))
    for tag in tags:
        cams[tag] += 2.0 * (_shrink(truth, cam_grid) == tag + 1)
    base = truth.copy()
    base[np.isin(base, [tag + 1 for tag in lost])] = 0
    base = np.roll(base, 1, axis=1)  # a base mask is never exact
    if ignore:
        base[height // 2 : height // 2 + 3] = 255
    colours = rng.integers(0, 256, size=(classes + 1, 3))
    image = np.clip(colours[truth] + rng.normal(scale=6, size=(*size, 3)), 0, 255).astype(np.uint8)
    return Scene(
        cams=torch.from_numpy(cams).float(),
        mask=torch.from_numpy(base),
        uss=features(uss_grid, 12, alike, 0.1),
        wss=[features(grid, 9 + 3 * i, (), 0.1) for i, grid in enumerate(wss_grids)],
        image=torch.from_numpy(image).permute(2, 0, 1).contiguous(),
        tags=list(tags),
        truth=torch.from_numpy(truth),
    )


def _shrink(truth: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """Label in the middle of each cell."""
    rows = ((np.arange(grid[0]) + 0.5) * truth.shape[0] / grid[0]).astype(int)
    columns = ((np.arange(grid[1]) + 0.5) * truth.shape[1] / grid[1]).astype(int)
    return truth[rows[:, None], columns]


def multi_hot(tags: list[list[int]], classes: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Tags as (B, C)."""
    table = torch.zeros(len(tags), classes, dtype=dtype)
    for row, own in enumerate(tags):
        table[row, own] = 1
    return table


def stack(scenes: list[Scene]) -> tuple[Tensor, Tensor, Tensor, list[Tensor], Tensor]:
    """Scenes of one size as the positional arguments of refine_mask."""
    return (
        torch.stack([s.cams for s in scenes]),
        torch.stack([s.mask for s in scenes]),
        torch.stack([s.uss for s in scenes]),
        [torch.stack(level) for level in zip(*(s.wss for s in scenes), strict=True)],
        torch.stack([s.image for s in scenes]),
    )
