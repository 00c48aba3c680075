"""Step 1 (Eq. 2): optimal transport cleans the CAMs into a seed, which is merged into the base mask."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .crops import Crops, enlarge, first_best
from .inputs import Batch, Box
from .pooling import box_mass, count_labels
from .recipe import Recipe
from .transport.released import early_stopped_weights
from .transport.solver import solve

# A CAM whose maximum is below this holds no signal.
_LEAST_CAM = 1e-10
# Nor does one that varies by less than this share of its maximum: half precision rounds by as much.
_LEAST_CONTRAST = 1e-3
# A CAM that claims more than half of the background of the base mask, above this share of its range, has a
# floor. ReLU CAMs claim nearly nothing of it there, sigmoid maps nearly all (docs/method.md).
_CLAIMED = 0.2


def find_seed(batch: Batch, crops: list[Crops], *, reg: float, recipe: Recipe) -> Tensor:
    """(B, H, W) local classes of the OT seed (Eq. 2), ``batch.absent`` where no tag is assigned."""
    absent = batch.absent
    seed = torch.full_like(batch.labels, absent)
    if batch.cams.shape[1] == 0:
        return seed
    offset = 0 if batch.background is None else 1
    valid = torch.from_numpy(np.arange(batch.cams.shape[1]) < np.array(batch.tags, int)[:, None])
    maps = _seed_maps(batch, valid.to(seed.device), reg=reg, recipe=recipe)
    for crop in crops:
        if crop.tags == 0:
            continue
        tags = _enlarge_cams(crop.take(maps)[:, : crop.tags], batch, crop, recipe)
        # A pixel that no CAM claims stays unassigned; inside the boundary tool, or its output would sum
        # to 1 over the tags and leave nothing to the background.
        unassigned = (1.0 - tags.amax(dim=1, keepdim=True)).clamp_min(0.0)  # rounding must not go below
        _, winner = first_best(crop.refine_edges(torch.cat((tags, unassigned), dim=1)))
        local = torch.arange(offset, offset + crop.tags + 1, device=seed.device)
        local[-1] = absent
        crop.paste(local.index_select(0, winner.flatten()).view_as(winner), seed)
    return seed


def _seed_maps(batch: Batch, valid: Tensor, *, reg: float, recipe: Recipe) -> Tensor:
    """(B, T, h, w) CAMs of the tags in [0, 1], times the plan (with one tag the plan changes nothing)."""
    cams = batch.cams.relu()
    grid = cams.shape[-2:]
    cells = None
    if batch.inside is not None:
        if recipe.geometry == "released":
            kept = torch.zeros(cams.shape[0], *grid, dtype=torch.bool, device=cams.device)
            for row, box in enumerate(batch.boxes):
                x0, y0, x1, y1 = _cell_box(box, batch.base.shape[1:], grid)
                kept[row, y0:y1, x0:x1] = True
            cells = kept.flatten(1).float()
            cells = cells / cells.sum(-1, keepdim=True).clamp_min(1.0)
        else:
            cells = box_mass(batch.inside, grid)
            cams = cams * (cells > 0).view(-1, 1, *grid)
    if recipe.subtract_floor:
        cams = _without_floor(cams, cells, batch)
    cams = cams / cams.amax(dim=(-2, -1), keepdim=True).clamp_min(_LEAST_CAM)
    flat = cams.flatten(2)
    several = valid.sum(-1) > 1
    if recipe.plan == "minmax":
        pixels = torch.ones_like(flat[:, 0], dtype=torch.bool) if cells is None else cells > 0
        weights = early_stopped_weights(flat, pixels, valid)
    else:
        masses = valid.float() / valid.sum(-1, keepdim=True).clamp_min(1)
        weights = solve(flat, cells, masses, reg=reg, tol=1e-3).shares
    return cams * torch.where(several[:, None, None], weights, 1.0).view(cams.shape)


def _without_floor(cams: Tensor, cells: Tensor | None, batch: Batch) -> Tensor:
    """CAMs (B, T, h, w) less what they have everywhere; a CAM without contrast becomes zero.

    The floor is the minimum; where a CAM claims most of the background of the base mask, its mean there.
    """
    flat = cams.flatten(2)
    top = flat.amax(-1, keepdim=True)
    floor = flat if cells is None else torch.where(cells[:, None] > 0, flat, torch.inf)
    floor = torch.minimum(floor.amin(-1, keepdim=True), top)
    if batch.background is not None:
        empty = (_at_cells(batch.labels, cams.shape[-2:]) == batch.background).flatten(1)[:, None]
        pixels = empty.sum(-1, keepdim=True).clamp_min(1)
        claimed = (flat > floor + _CLAIMED * (top - floor)) & empty
        floats = claimed.sum(-1, keepdim=True) > 0.5 * pixels
        floor = torch.where(floats, (flat * empty).sum(-1, keepdim=True) / pixels, floor)
    contrast = top - floor > _LEAST_CONTRAST * top
    return ((flat - floor).relu() * contrast).view_as(cams)


def _at_cells(labels: Tensor, grid: torch.Size) -> Tensor:
    """(B, h, w) labels (B, H, W) at the centres of the cells of a grid."""
    rows, columns = (
        (2 * torch.arange(cells, device=labels.device) + 1) * pixels // (2 * cells)
        for cells, pixels in zip(grid, labels.shape[1:])
    )
    return labels[:, rows[:, None], columns]


def _cell_box(box: Box, size: torch.Size, grid: torch.Size) -> Box:
    """A box in cells of a grid, rounded down on all sides (released code)."""
    x0, y0, x1, y1 = box
    return (
        x0 * grid[1] // size[1],
        y0 * grid[0] // size[0],
        x1 * grid[1] // size[1],
        y1 * grid[0] // size[0],
    )


def _enlarge_cams(maps: Tensor, batch: Batch, crop: Crops, recipe: Recipe) -> Tensor:
    if recipe.geometry == "centred":
        return enlarge(maps, crop, recipe)
    parts = []
    for one, box in zip(maps, crop.boxes):
        x0, y0, x1, y1 = _cell_box(box, batch.base.shape[1:], maps.shape[-2:])
        cut = one[None, :, y0 : max(y1, y0 + 1), x0 : max(x1, x0 + 1)]
        parts.append(F.interpolate(cut, crop.size, mode="nearest"))
    return torch.cat(parts)


def merged_pixels(seed: Tensor, batch: Batch, recipe: Recipe) -> Tensor:
    """(B, H, W) bool, pixels whose seed overwrites the base mask."""
    absent = batch.absent
    if recipe.merge == "all":
        return seed < absent
    pixels = count_labels(seed.flatten(1), absent + 1)[:, :absent]
    shrunk = F.pad(batch.base_pixels < pixels, (0, 1), value=False)  # where nothing is assigned, nothing does
    return shrunk.gather(1, seed.flatten(1)).view_as(seed)


def with_background(seed: Tensor, batch: Batch) -> Tensor:
    """The seed of the class averages: where no tag is assigned, the background of the base mask."""
    if batch.background is None:
        return seed
    surely = (seed == batch.absent) & (batch.labels == batch.background)
    return torch.where(surely, batch.background, seed)
