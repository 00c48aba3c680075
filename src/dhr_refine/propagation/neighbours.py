"""The neighbours of the cells of a grid, and the cells on the way to them."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..checks import check_positive
from .averages import Sparse
from .limits import check_bytes

Grid = tuple[int, int]


class Offset(NamedTuple):
    """The way from a cell to a neighbour below it, or to its right."""

    down: int
    right: int  # below 0: to the left


def half_of_neighbours(radius: float, grid: Grid) -> list[Offset]:
    """Neighbours nearer than ``radius``, one direction of each pair, as IRN and PSA count them."""
    reach = math.ceil(radius) - 1
    rows, columns = min(reach, grid[0] - 1), min(reach, grid[1] - 1)
    return [
        Offset(y, x)
        for y in range(rows + 1)
        for x in range(-columns, columns + 1)
        if (y > 0 or x > 0) and y * y + x * x < radius * radius
    ]


def check_radius(radius: float, images: int, grid: Grid) -> None:
    """Raise unless a radius reaches a neighbour, and its pairs fit the memory."""
    check_positive(radius, "radius")
    if radius <= 1:
        raise ValueError(f"radius must be above 1, got {radius}: pass 5, as IRN and PSA do, say")
    reach = (2 * min(math.ceil(radius), grid[0]) - 1) * (2 * min(math.ceil(radius), grid[1]) - 1)
    pairs = images * grid[0] * grid[1] * min(reach, math.ceil(math.pi * (radius + 1) ** 2))
    # A weight on its plane and in its bag, and the number of a cell.
    check_bytes(pairs, 24, f"radius {radius} over {grid[0]} x {grid[1]} cells", "pass a smaller radius")


def cells_on_path(way: Offset) -> list[Offset]:
    """The cells less than 1 away from the straight line between two cells, both ends included.

    As IRN has it: within the rectangle that the two cells span.
    """
    low, high = sorted((0, way.right))
    length = way.down**2 + way.right**2
    return [
        Offset(y, x)
        for y in range(way.down + 1)
        for x in range(low, high + 1)
        if (way.down * x - way.right * y) ** 2 < length
    ]


HERE = Offset(0, 0)


def shifted(maps: Tensor, way: Offset, step: Offset = HERE) -> Tensor:
    """(..., h - down, w - |right|): where a cell has the neighbour ``way``, what is ``step`` from it."""
    height, width = maps.shape[-2:]
    first = max(0, -way.right)
    rows = slice(step.down, step.down + height - way.down)
    columns = slice(first + step.right, first + step.right + width - abs(way.right))
    return maps[..., rows, columns]


def average_neighbours(weights: list[Tensor], ways: list[Offset], like: Tensor) -> tuple[Sparse, Tensor]:
    """Averages with symmetric weights, 1 for the cell itself; and the sums (B, N) of each cell's weights.

    ``weights`` (B, h - down, w - |right|) of each way are those between a cell and its neighbour; ``like``
    (B, h, w) has the grid.
    """
    width, half = like.shape[2], len(ways)
    # A plane for each neighbour of a cell, in the order of the cells: those above, itself, those below.
    planes = like.new_zeros(like.shape[0], 2 * half + 1, *like.shape[1:], dtype=torch.float64)
    known = torch.zeros(planes.shape[1:], dtype=torch.bool, device=like.device)
    planes[:, half], known[half] = 1.0, True
    steps = [0] * (2 * half + 1)
    for number, (way, values) in enumerate(zip(ways, weights, strict=True), start=1):
        for plane, start in ((half + number, HERE), (half - number, way)):
            shifted(planes[:, plane], way, start).copy_(values)
            shifted(known[plane], way, start).fill_(True)
        steps[half + number] = way.down * width + way.right
        steps[half - number] = -steps[half + number]
    known = known.flatten(1).mT  # (N, neighbours)
    sums = planes.sum(1).flatten(1)
    cells = torch.arange(known.shape[0], device=like.device)[:, None]
    columns = (cells + torch.tensor(steps, device=like.device))[known]
    values = (planes.flatten(2) / sums[:, None]).mT[:, known]
    return Sparse.of_one_pattern(values, columns, known.sum(1)), sums
