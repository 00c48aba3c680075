"""Warnings about input that is allowed but hardly meant, each with the likely slip and its fix.

Every rule rests on evidence that valid input does not give, over all images of a call; where it could be
either, nothing is said. All of it lies on the host already.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..checks import warn
from .boxes import Box, Boxes, BoxFormat
from .images import IMAGENET_MEAN
from .names import Names
from .tags import Background, Tags

# Coarser grids fit many images.
_LEAST_CELLS = 8
# Aspect ratios of grids that cover the image differ from the image's by a cell, for patches, and hardly more.
_MOST_STRETCH = 1.2


class Evidence(NamedTuple):
    """What may show a slip in one group of images, all of it on the host."""

    names: Names
    size: Sequence[int]  # (H, W) of the masks
    maps: list[tuple[str, str, Sequence[int]]]  # argument, level of it, (C, h, w)
    found: list[list[int]]  # labels that the base mask of each image carries
    tags: list[list[int]] | None  # mask labels of the tags of each image
    foreground: int | None  # number of foreground classes, None where nothing tells it
    boxes: Boxes
    extent: tuple[float, float] | None  # least and largest value of normalised images
    mean: Sequence[float] | None


def warn_about_slips(
    evidence: Sequence[Evidence], background: Background, box_format: BoxFormat | None
) -> None:
    """One warning for each slip that the groups of a call show together."""
    for text in (
        _find_shift(evidence, background),
        _find_foreign_boxes(evidence, box_format),
        _find_foreign_grid(evidence),
        _find_foreign_range(evidence),
    ):
        if text is not None:
            warn(text)


def _find_shift(evidence: Sequence[Evidence], background: Background) -> str | None:
    """Base masks whose labels are all one beside the tags'.

    In every image whose base mask has foreground, all of it would be among the tags if shifted by one, and
    at least two different labels do so in images where none is among the tags as it is. A base mask made from
    bad CAMs can miss the tags of an image, but not those of all images, by one. One label could be either.
    """
    images = [image for group in evidence for image in _foregrounds(group, background)]
    for shift in (1, -1):
        missed: set[int] = set()
        for seen, classes, own in images:
            # What would be no class may be the background of another convention.
            moved = {label + shift for label in seen if label + shift in classes}
            if not moved <= own:
                break
            if moved and not seen & own:
                missed |= {label - shift for label in moved}
        else:
            if len(missed) > 1:
                return _shift_text(shift, background, missed)
    return None


def _foregrounds(group: Evidence, background: Background) -> Iterator[tuple[set[int], range, set[int]]]:
    """For each image with tags: labels of its base mask, all foreground labels, labels of its tags."""
    first = Tags.offset(background)
    classes = range(first, 2**63) if group.foreground is None else range(first, first + group.foreground)
    ground = {"first": 0, "last": group.foreground, "none": None}[background]
    for found, own in zip(group.found, group.tags or []):
        if own:
            yield {label for label in found if label != ground}, classes, set(own)


def _shift_text(shift: int, background: Background, missed: set[int]) -> str:
    shown = ", ".join(map(str, sorted(missed)[:4]))
    meaning = f"tags count from 0, and with background={background!r} tag t has the label "
    meaning += "t + 1" if background == "first" else "t"
    if shift > 0:
        fix = "take 1 off tags that count from 1 or hold the background"
        fix += ", or pass background='none' or 'last' if label 0 of masks is a class" * (
            background == "first"
        )
    else:
        fix = "take 1 off masks whose classes start one higher"
        fix += ", or pass background='first' if label 0 of masks is the background" * (background != "first")
    return (
        f"no foreground label of masks is among the tags, but {shown} would be if it were {shift:+d}: "
        f"{meaning}; {fix}"
    )


def _find_foreign_boxes(evidence: Sequence[Evidence], box_format: BoxFormat | None) -> str | None:
    """Boxes that are shares of the image, or in the other order.

    One box of the first pixel, or an empty one, can be meant; all boxes of a call, or that pixel in floating
    point, cannot.
    """
    boxes = [(box, group.size) for group in evidence for box in group.boxes.given if box is not None]
    if not boxes:
        return None
    sure = len(boxes) > 1 or any(group.boxes.floating for group in evidence)
    if sure and all(box == (0, 0, 1, 1) and max(size) > 1 for box, size in boxes):
        return (
            "boxes all hold the one pixel at (0, 0), as if they were shares of the image: pass pixels, x "
            "times the width and y times the height"
        )
    other = "yyxx" if box_format == "xyxy" else "xyxy"
    turned = [_turn(box, other) for box, _ in boxes]
    inside = all(x1 <= size[1] and y1 <= size[0] for (_, _, x1, y1), (_, size) in zip(turned, boxes))
    if (
        len(boxes) > 1
        and inside
        and all(_is_empty(box) for box, _ in boxes)
        and not any(map(_is_empty, turned))
    ):
        return f"boxes are all empty read as {box_format!r}, and none as {other!r}: pass box_format={other!r}"
    return None


def _turn(box: Box, other: BoxFormat) -> Box:
    """A box that should have been read in the other order."""
    x0, y0, x1, y1 = box
    return (x1, x0, y1, y0) if other == "yyxx" else (y0, y1, x0, x1)


def _is_empty(box: Box) -> bool:
    return box[2] <= box[0] or box[3] <= box[1]


def _find_foreign_grid(evidence: Sequence[Evidence]) -> str | None:
    """Maps that are transposed, channels last, or of another crop than other maps of the image.

    Networks may resize every image to one size, square or not, so a grid of another aspect ratio tells
    nothing by itself. It does where another map of the same image has the image's aspect ratio.
    """
    for group in evidence:
        grids = [one for one in group.maps if _tells(one[2][1:], group.size)]
        if not any(_covers(shape[1:], group.size) and _is_own(shape[1:], group.size) for *_, shape in grids):
            continue
        for argument, level, shape in grids:
            grid = shape[1:]
            if _is_square(grid) or _covers(grid, group.size):
                continue
            name = group.names.of(argument) + level
            fix = "pass maps of what masks show, cut and scaled like them"
            if _covers(grid[::-1], group.size):
                fix = f"pass {name}.mT if height and width are exchanged"
            elif _tells(shape[:2], group.size) and _covers(shape[:2], group.size):
                fix = f"pass {name}.movedim(-1, -3) if the channels are its last axis"
            return (
                f"{name} has {grid[0]} x {grid[1]} cells, whose aspect ratio is neither that of masks "
                f"({group.size[0]} x {group.size[1]} pixels) nor that of the other maps: {fix}"
            )
    return None


def _tells(grid: Sequence[int], size: Sequence[int]) -> bool:
    """Whether a grid has enough cells to have an aspect ratio, but not more than pixels."""
    return min(grid) >= _LEAST_CELLS and grid[0] <= size[0] and grid[1] <= size[1]


def _is_square(grid: Sequence[int]) -> bool:
    return abs(grid[0] - grid[1]) <= 1


def _is_own(grid: Sequence[int], size: Sequence[int]) -> bool:
    """Whether a grid that covers the image was made for it: square ones are, if the image is square."""
    return not _is_square(grid) or size[0] == size[1]


def _covers(grid: Sequence[int], size: Sequence[int]) -> bool:
    """Whether the cells of a grid may be equal and square parts of an image, give or take one."""
    rows, columns = grid
    image = size[0] / size[1]
    low, high = (rows - 1) / (columns + 1), (rows + 1) / (columns - 1)
    return low / _MOST_STRETCH <= image <= high * _MOST_STRETCH


def _find_foreign_range(evidence: Sequence[Evidence]) -> str | None:
    """Images in exactly [-1, 1], limits that normalisation with ImageNet's mean and std does not make."""
    for group in evidence:
        if group.extent == (-1.0, 1.0) and group.mean is not None and tuple(group.mean) == IMAGENET_MEAN:
            return (
                "images span exactly [-1, 1], which ImageNet's mean and std do not make: pass "
                "mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5) if they were normalised with these"
            )
    return None
