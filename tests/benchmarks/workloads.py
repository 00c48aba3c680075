"""Synthetic inputs of realistic statistics for the benchmarks, seeded."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


def cam_scores(batch: int, classes: int, pixels: int, *, seed: int = 0) -> Tensor:
    """(B, K, N) CAM-like scores in [0, 1]: a few smooth bumps of very different size per class, and noise."""
    generator = torch.Generator().manual_seed(seed)
    height = max(1, round(pixels**0.5))
    while pixels % height:
        height -= 1
    width = pixels // height
    rows = torch.linspace(0, 1, height)[:, None]
    columns = torch.linspace(0, 1, width)
    maps = torch.zeros(batch, classes, height, width)
    for b in range(batch):
        for k in range(classes):
            size = 0.04 + 0.4 * torch.rand((), generator=generator) ** 2
            for _ in range(1 + k % 2):
                y, x = torch.rand(2, generator=generator)
                bump = torch.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * size**2))
                maps[b, k] = torch.maximum(maps[b, k], bump)
    maps += 0.03 * torch.rand(maps.shape, generator=generator)
    maps = maps.flatten(2)
    return (maps / maps.amax(-1, keepdim=True)).contiguous()


def saturated(scores: Tensor) -> Tensor:
    """Nearly binary maps, harder to balance: plain Sinkhorn needs three times as many rounds as on CAMs."""
    return 0.1 * scores + 0.9 * (scores > 0.3)


class Step(NamedTuple):
    """Arguments of refine_mask."""

    cams: Tensor
    masks: Tensor
    uss: Tensor
    wss: list[Tensor]
    images: Tensor
    labels: Tensor

    def call(self, function: Any, **options: Any) -> Any:
        """Call refine_mask or a peer of the same signature."""
        return function(self.cams, self.masks, self.uss, self.wss, self.images, labels=self.labels, **options)

    def to(self, device: torch.device | str) -> Step:
        """The same scene on another device."""
        return Step(
            self.cams.to(device),
            self.masks.to(device),
            self.uss.to(device),
            [level.to(device) for level in self.wss],
            self.images.to(device),
            self.labels.to(device),
        )


def voc_like(
    batch: int,
    *,
    size: int = 512,
    tags: int | None = None,
    num_classes: int = 20,
    uss: tuple[int, int] = (90, 37),
    wss: tuple[tuple[int, int], ...] = ((1024, 64), (2048, 64)),
    photo: Tensor | None = None,
    seed: int = 0,
) -> Step:
    """A scene of ``tags`` objects per image (1 to 5 in turn where None) on a textured background."""
    generator = torch.Generator().manual_seed(seed)

    def rand(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    labels = torch.zeros(batch, num_classes)
    truth = torch.zeros(batch, size, size, dtype=torch.long)
    base = torch.zeros_like(truth)
    grid = torch.linspace(0, 1, size)
    for b in range(batch):
        count = tags if tags is not None else 1 + b % 5
        chosen = torch.randperm(num_classes, generator=generator)[:count]
        labels[b, chosen] = 1
        for position, tag in enumerate(chosen.tolist()):
            y, x = 0.15 + 0.7 * rand(2)
            radius = 0.05 + 0.2 * rand(2)
            inside = ((grid[:, None] - y) / radius[0]) ** 2 + ((grid - x) / radius[1]) ** 2 < 1
            truth[b][inside] = tag + 1
            if position != 1:  # the base mask loses the second class
                base[b][inside] = tag + 1
    one_hot = F.one_hot(truth, num_classes + 1).movedim(-1, 1).float()
    cams = F.avg_pool2d(one_hot[:, 1:], size // 32) if size >= 32 else one_hot[:, 1:]
    cams = (cams + 0.1 * rand(*cams.shape)) * labels[:, :, None, None]

    def features(dims: int, side: int) -> Tensor:
        table = torch.randn(num_classes + 1, dims, generator=generator)
        cells = F.interpolate(one_hot, (side, side), mode="area")
        noise = 0.5 * torch.randn(batch, dims, side, side, generator=generator)
        return torch.einsum("bchw,cd->bdhw", cells, table) + noise

    if photo is None:
        images = torch.einsum("bchw,cd->bdhw", one_hot, rand(num_classes + 1, 3))
        images = ((images + 0.15 * torch.randn(images.shape, generator=generator)) * 255).clamp(0, 255).byte()
    else:
        images = photo.expand(batch, -1, -1, -1).contiguous()
    return Step(cams, base, features(*uss), [features(*level) for level in wss], images, labels)
