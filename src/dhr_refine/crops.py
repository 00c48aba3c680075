"""Crops of a batch that have one size, worked on together: cut, enlarged, brought to the image's edges."""

from __future__ import annotations

import torch
from torch import Tensor

from .edges import Boundary, Edges, Place
from .inputs import Batch
from .maps import resize
from .recipe import Recipe


class Crops:
    """Images of a batch whose crop has one size and that have equally many classes, worked on together."""

    def __init__(self, batch: Batch, rows: list[int], boundary: Boundary):
        """Take some images of a batch, and build their lattice where the boundary tool needs one."""
        self.rows = rows
        self.index = torch.tensor(rows, dtype=torch.long, device=batch.base.device)
        self.all = rows == list(range(len(batch.tags)))
        self.boxes = [batch.boxes[row] for row in rows]
        x0, y0, x1, y1 = self.boxes[0]
        self.size = (y1 - y0, x1 - x0)
        self.full = batch.base.shape[1:]
        self.tags = batch.tags[rows[0]]
        self.classes = batch.counts[rows[0]]
        images = None
        if boundary is not None and batch.images is not None:
            # A copy, as of the probabilities below: a callable may write into its arguments.
            images = self.cut(batch.images[self.index])
        self.boundary = boundary
        # The seed and the result share what the tool builds for the images.
        where, size = batch.evidence.names.where, (self.full[0], self.full[1])
        places = [Place(where[row], size, box) for row, box in zip(rows, self.boxes)]
        self.edges = Edges(boundary, images, "boundary", places)

    def take(self, maps: Tensor) -> Tensor:
        """Pick the images out of a batch."""
        return maps if self.all else maps[self.index]

    def cut(self, maps: Tensor) -> Tensor:
        """Crop full-size maps (b, ..., H, W) to the box of each image."""
        if self.size == tuple(self.full):
            return maps
        return torch.stack([m[..., y0:y1, x0:x1] for m, (x0, y0, x1, y1) in zip(maps, self.boxes)])

    def paste(self, maps: Tensor, target: Tensor) -> None:
        """Write crops (b, ..., h, w) into full-size maps (B, ..., H, W) in place."""
        for row, values, (x0, y0, x1, y1) in zip(self.rows, maps, self.boxes):
            target[row, ..., y0:y1, x0:x1] = values

    def refine_edges(self, probs: Tensor) -> Tensor:
        """Apply the boundary tool to (b, k, h, w)."""
        return self.edges(probs)


def make_crops(batch: Batch, boundary: Boundary, rows: list[int]) -> list[Crops]:
    """Sort the given images of a batch by the size of their crops and the number of their classes."""
    sorted_rows: dict[tuple, list[int]] = {}
    for row in rows:
        x0, y0, x1, y1 = batch.boxes[row]
        if x1 > x0 and y1 > y0:
            key = (y1 - y0, x1 - x0, batch.tags[row], batch.counts[row])
            sorted_rows.setdefault(key, []).append(row)
    return [Crops(batch, members, boundary) for members in sorted_rows.values()]


def enlarge(maps: Tensor, crop: Crops, recipe: Recipe) -> Tensor:
    """Bring maps (b, k, u, v) of whole images to pixels and cut the boxes."""
    return crop.cut(resize(maps, crop.full, aligned=recipe.geometry == "released"))


def first_best(maps: Tensor) -> tuple[Tensor, Tensor]:
    """Maximum over the classes of (b, k, h, w) and the lowest class that has it, both (b, h, w)."""
    count = maps.shape[1]
    if maps.device.type != "cpu" or count > 128:
        return maps.max(dim=1)
    # On a CPU the indices of max take five times as long: they are worked out pixel by pixel. Here each class
    # stands for its own number, plus k where it is not the best, in 8 bits.
    best = maps.amax(dim=1)
    rank = (maps < best[:, None]).view(torch.uint8).mul_(count)
    rank += torch.arange(count, dtype=torch.uint8, device=rank.device)[:, None, None]
    return best, rank.amin(dim=1).long()
