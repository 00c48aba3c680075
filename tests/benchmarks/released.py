"""The released DHR arithmetic the straightforward way, image by image: the peer that the whole step is timed
against. Written from the description of that arithmetic (docs/differences.md); needs pydensecrf."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def refine(
    cams: Tensor, masks: Tensor, uss: Tensor, wss: list[Tensor], images: Tensor, *, labels: Tensor
) -> Tensor:
    """Refined masks (B, H, W) of a batch without crop boxes, background first."""
    return torch.stack(
        [
            _refine_one(cams[b], masks[b], uss[b], [level[b] for level in wss], images[b], labels[b])
            for b in range(len(masks))
        ]
    )


def _refine_one(
    cams: Tensor,
    mask: Tensor,
    uss: Tensor,
    wss: list[Tensor],
    image: Tensor,
    labels: Tensor,
    tau: float = 0.8,
) -> Tensor:
    photo = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    size = mask.shape
    tags = labels.nonzero()[:, 0]
    init = mask.clone()
    if len(tags):
        cam = cams.relu()
        cam = (cam / cam.amax((1, 2), keepdim=True).clamp_min(1e-5))[tags]
        if len(tags) > 1:
            cam = cam * _weights(cam)
        cam = F.interpolate(cam[None], size, mode="nearest")[0]
        scores = torch.cat([cam, 1 - cam.amax(0, keepdim=True)])
        winner = _crf(photo, scores).argmax(0)
        assigned = winner < len(tags)
        init[assigned] = tags[winner[assigned]] + 1

    cells = _majority(init, uss.shape[1:], [-(-side // 14) * 14 for side in size])
    classes = [c for c in cells.unique().tolist() if c != 255]
    if not classes:
        return init
    centroids = torch.stack([uss[:, cells == c].mean(1) for c in classes])
    heat = _minmax(F.cosine_similarity(uss[None], centroids[:, :, None, None], dim=1))
    units = F.normalize(centroids, dim=1)
    groups = torch.triu((units @ units.T).relu()) > 0.8
    rows = [row.nonzero()[:, 0] for row in groups if row.sum() > 1]
    if rows:
        maps = []
        for level in wss:
            level = F.interpolate(level[None], heat.shape[1:], mode="bilinear", align_corners=True)[0]
            grid = level.shape[1:]
            cells = _majority(init, grid, [-(-side // g) * g for side, g in zip(size, grid)])
            centers = torch.stack([level[:, cells == c].mean(1) for c in classes])
            maps.append(_minmax(F.cosine_similarity(level[None], centers[:, :, None, None], dim=1)))
        inner = _minmax(torch.stack(maps).mean(0))
        for row in rows:
            heat[row] = heat[row] * _weights(inner[row])
    heat = _minmax(heat * _weights(heat))
    heat = F.interpolate(heat[None], size, mode="bilinear", align_corners=True)[0]
    return torch.tensor(classes)[_crf(photo, heat).argmax(0)]


def _minmax(maps: Tensor) -> Tensor:
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return ((maps - low) / (high - low).clamp_min(1e-5)).clamp(0, 1)


def _weights(scores: Tensor) -> Tensor:
    """The Sinkhorn loop with its early stop, scaled to 0..1 per class."""
    kernel = torch.exp((scores.flatten(1).T - 1) / 0.1)  # (N, K)
    pixels, classes = kernel.shape
    rows, columns = torch.ones(pixels), torch.ones(classes)
    for _ in range(100):
        before = rows
        rows = (1 / pixels) / (kernel @ columns)
        columns = (1 / classes) / (kernel.T @ rows)
        if (rows - before).abs().mean() < 1e-2:
            break
    plan = rows[:, None] * kernel * columns
    return _minmax(plan.T.reshape(scores.shape))


def _majority(mask: Tensor, grid: torch.Size, enlarged: list[int]) -> Tensor:
    """Most frequent label of each cell's window, cell by cell."""
    mask = F.interpolate(mask[None, None].float(), enlarged, mode="nearest")[0, 0].long()
    rows = [i * enlarged[0] // grid[0] for i in range(grid[0] + 1)]
    columns = [j * enlarged[1] // grid[1] for j in range(grid[1] + 1)]
    cells = torch.empty(tuple(grid), dtype=torch.long)
    for i in range(grid[0]):
        for j in range(grid[1]):
            window = mask[rows[i] : rows[i + 1], columns[j] : columns[j + 1]]
            cells[i, j] = torch.bincount(window.flatten()).argmax()
    return cells


def _crf(photo: np.ndarray, probs: Tensor) -> Tensor:
    """pydensecrf with the settings of DHR."""
    import pydensecrf.densecrf as densecrf

    height, width = photo.shape[:2]
    model = densecrf.DenseCRF2D(width, height, len(probs))
    unary = -probs.clamp(1e-5, 1).log().numpy().reshape(len(probs), -1)
    model.setUnaryEnergy(np.ascontiguousarray(unary, dtype=np.float32))
    model.addPairwiseGaussian(sxy=1, compat=3)
    model.addPairwiseBilateral(sxy=67, srgb=3, rgbim=photo, compat=4)
    return torch.from_numpy(np.array(model.inference(10))).view(len(probs), height, width)
