"""Prompts for SAM out of masks, as SAMRefiner makes them, and out of CAMs, as S2C does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Unpack

from ..checks import check_count, check_filled, check_finite, check_positive, check_range, check_tensor
from ..extras import import_optional
from ..inputs import Background, BoxFormat
from ..keywords import PromptKeywords
from ..steps import RefineSteps
from .masks import Form, Masked, is_single, read_masks

# SciPy is imported where it is used: all else here does without it.
_NEIGHBOURS = np.ones((3, 3), bool)  # of a region, corners among them


class SamPrompts(NamedTuple):
    """Prompts of the N regions of a mask, in pixels of the image, x before y."""

    labels: Tensor
    """(N,) int64 mask label of each region."""
    points: Tensor
    """(N, 2, 2) float32: the point farthest inside, and one outside."""
    point_labels: Tensor
    """(N, 2) int64: 1 for the point inside; 0 for the one outside, -10 where the box has no such point."""
    boxes: Tensor
    """(N, 4) float32 x0, y0, x1, y1 of the first and last pixels."""
    masks: Tensor
    """(N, 1, S, S) float32 mask prompts."""
    regions: Tensor
    """(N, H, W) bool."""

    def __repr__(self) -> str:
        """Say how many there are."""
        return f"SamPrompts: {len(self.labels)} regions with the labels {self.labels.tolist()[:20]}"


@overload
def sam_prompts(
    masks: RefineSteps | Tensor,
    *,
    mask_size: int = 256,
    stretch: bool = False,
    **options: Unpack[PromptKeywords],
) -> SamPrompts | list[SamPrompts]: ...
@overload
def sam_prompts(
    masks: RefineSteps[list[Tensor]] | Sequence[Tensor],
    *,
    mask_size: int = 256,
    stretch: bool = False,
    **options: Unpack[PromptKeywords],
) -> list[SamPrompts]: ...
def sam_prompts(
    masks: Any,
    *,
    labels: Any = None,
    boxes: Any = None,
    box_format: BoxFormat | None = None,
    background: Background = "first",
    ignore_index: int = 255,
    min_pixels: int = 1,
    gamma: float = 4.0,
    strength: float = 30.0,
    mask_size: int = 256,
    stretch: bool = False,
) -> Any:
    """Make prompts for SAM of every connected region of every class of a mask, as SAMRefiner does.

    Parameters
    ----------
    masks : Tensor, (B, H, W), (H, W), or list of (H, W)
        Labels, integer or floating point, or the result of :func:`refine_steps`.
    labels, boxes, box_format, background, ignore_index : optional
        As in :func:`sam_vote`: only regions of the tags, inside the boxes.
    min_pixels : int, default 1
        Regions of fewer pixels get no prompts.
    gamma : float, default 4.0
        Above 0: how fast the mask prompt falls off, as
        ``exp(-(d - max d) ** 2 * gamma / pixels of the region)`` of the distance d to the region's edge.
    strength : float, default 30.0
        Above 0: height of the mask prompt inside, and its negative outside.
    mask_size : int, default 256
        S, the side of mask prompts: 256 for all published SAM and SAM 2 models.
    stretch : bool, default False
        How an image becomes the square that the model sees: with its longer side as that of the square and
        padding at the right or below (SAM), or stretched in both directions (SAM 2).

    Returns
    -------
    SamPrompts, or a list of them for a batch or a list
        No region: all axes N are 0.

    Raises
    ------
    ValueError, TypeError
        Anything above violated; the message names the argument, what came and the fix.

    Notes
    -----
    Regions hang together by edges or corners. Of equally far points the first counts, row by row. Distances
    are exact Euclidean ones, those of the original approximate; the edge of the image is no edge of a region.
    The point outside is within the box, the last row and column of which the original leaves out.

    References
    ----------
    Y. Lin et al., "SAMRefiner: Taming Segment Anything Model for Universal Mask Refinement", ICLR 2025.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine.sam import sam_prompts
    >>> mask = torch.zeros(20, 30, dtype=torch.long)
    >>> mask[5:12, 10:17] = 15
    >>> prompts = sam_prompts(mask)
    >>> prompts.labels.tolist(), prompts.points[0, 0].tolist(), prompts.boxes[0].tolist()
    ([15], [13.0, 8.0], [10.0, 5.0, 16.0, 11.0])
    """
    check_count(min_pixels, "min_pixels", 1)
    check_count(mask_size, "mask_size", 1)
    check_positive(gamma, "gamma")
    check_positive(strength, "strength")
    form = Form(background, ignore_index, box_format)
    results = []
    for image in read_masks(masks, labels=labels, boxes=boxes, form=form):
        numbers, regions = find_regions(image, min_pixels)
        found = make_prompts(regions, gamma=gamma, strength=strength, mask_size=mask_size, stretch=stretch)
        own = torch.tensor([image.classes[number] for number in numbers], dtype=torch.long)
        results.append(SamPrompts(own.to(image.mask.device), *found, regions))
    return results[0] if is_single(masks) else results


def find_regions(image: Masked, min_pixels: int) -> tuple[list[int], Tensor]:
    """Local class of each connected region but those of the background, and the regions (N, H, W) bool."""
    ndimage = import_optional("scipy.ndimage", by="prompts for SAM")

    local = image.local.cpu().numpy()
    numbers, regions = [], []
    for number in range(len(image.classes)):
        if number == image.background:
            continue
        places, count = ndimage.label(local == number, _NEIGHBOURS)  # pyright: ignore
        for region in range(1, count + 1):
            own = places == region
            if own.sum() >= min_pixels:
                numbers.append(number)
                regions.append(torch.from_numpy(own))
    stacked = torch.stack(regions) if regions else torch.zeros(0, *local.shape, dtype=torch.bool)
    return numbers, stacked.to(image.mask.device)


def make_prompts(
    regions: Tensor, *, gamma: float, strength: float, mask_size: int, stretch: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points (N, 2, 2), their labels (N, 2), boxes (N, 4) and mask prompts (N, 1, S, S) of regions (N, H, W).

    A region without a pixel gets points and a box in the upper left corner, as in the original.
    """
    points = torch.zeros(len(regions), 2, 2)
    point_labels = torch.tensor([1, 0]).repeat(len(regions), 1)
    boxes = torch.zeros(len(regions), 4)
    prompts = torch.zeros(len(regions), 1, mask_size, mask_size)
    for number, region in enumerate(regions.cpu().numpy()):
        rows, columns = (np.flatnonzero(region.any(axis)) for axis in (1, 0))
        if not rows.size:
            point_labels[number, 1] = -10
            prompts[number] = -strength
            continue
        y0, y1, x0, x1 = rows[0], rows[-1], columns[0], columns[-1]
        boxes[number] = torch.tensor([x0, y0, x1, y1])
        depth = _distances(region)
        points[number, 0] = _farthest(depth)
        outside = np.zeros_like(depth)
        window = (slice(y0, y1 + 1), slice(x0, x1 + 1))
        outside[window] = _distances(~region)[window]
        points[number, 1] = _farthest(outside)
        if not outside.any():
            point_labels[number, 1] = -10  # padding to SAM
        hill = np.exp(-((depth - depth.max()) ** 2) * gamma / region.sum()) * region
        prompts[number] = _mask_prompt(region, hill, strength, mask_size, stretch)
    return tuple(part.to(regions.device) for part in (points, point_labels, boxes, prompts))  # pyright: ignore


def _distances(region: np.ndarray) -> np.ndarray:
    """Distance of each pixel of a region to the nearest one outside, as far as the image goes."""
    ndimage = import_optional("scipy.ndimage", by="prompts for SAM")

    if region.all():
        return np.ones(region.shape)  # nothing is outside: all pixels are equally deep
    return ndimage.distance_transform_edt(region)  # pyright: ignore


def _farthest(distances: np.ndarray) -> Tensor:
    """x, y of the first largest distance."""
    row, column = divmod(int(distances.argmax()), distances.shape[1])
    return torch.tensor([float(column), float(row)])


def _mask_prompt(region: np.ndarray, hill: np.ndarray, strength: float, size: int, stretch: bool) -> Tensor:
    """(1, S, S): a hill inside, and a plain of the same depth outside, seen as the model sees the image."""
    height, width = region.shape
    inner, scale = (size, size), size / max(height, width)
    if not stretch:
        inner = (max(1, round(height * scale)), max(1, round(width * scale)))
    maps = torch.from_numpy(np.stack([2.0 * region - 1.0, hill])).float()[None]
    maps = F.interpolate(maps, inner, mode="bilinear", align_corners=False)
    sign = F.pad(maps[0, :1], (0, size - inner[1], 0, size - inner[0]), value=-1.0)
    height_of = F.pad(maps[0, 1:], (0, size - inner[1], 0, size - inner[0]))
    sign = torch.where(sign > 0, strength, -strength)
    return sign * torch.where(height_of > 0, height_of, 1.0)


def cam_peaks(cams: Tensor, *, threshold: float = 0.5, distance: int = 20) -> list[Tensor]:
    """Find the peaks of CAMs, prompts for SAM where there is no mask, as S2C does.

    Parameters
    ----------
    cams : Tensor, (K, H, W), floating point
        CAMs of the tags, each divided by its maximum, at the size of the image.
    threshold : float, default 0.5
        Lower peaks are left out, but never the highest one of a CAM.
    distance : int, default 20
        A peak has no higher pixel as far as this in both directions, in pixels; of equally high ones that are
        no farther apart the first counts.

    Returns
    -------
    list of K Tensors (P, 2) float32
        x, y of the peaks, the highest first. A CAM without a pixel above 0 has none.

    Raises
    ------
    ValueError, TypeError
        Anything above violated; the message names the argument, what came and the fix.

    Notes
    -----
    With all peaks of a class as points of one prompt, S2C takes the third of SAM's masks.

    References
    ----------
    H. Kweon and K.-J. Yoon, "From SAM to CAMs: Exploring Segment Anything Model for Weakly Supervised
    Semantic Segmentation", CVPR 2024.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine.sam import cam_peaks
    >>> cams = torch.zeros(1, 50, 80)
    >>> cams[0, 10, 10], cams[0, 30, 60], cams[0, 32, 62], cams[0, 45, 5] = 1.0, 0.8, 0.7, 0.3
    >>> cam_peaks(cams)
    [tensor([[10., 10.],
            [60., 30.]])]
    """
    cams = check_tensor(cams, "cams", "(K, H, W)", ndim=3, floating=True)
    check_filled(cams, "cams")
    check_finite(cams, "cams")
    check_range(threshold, "threshold", 0.0, 1.0)
    check_count(distance, "distance", 1)
    return [_peaks(cam, threshold, distance).to(cams.device) for cam in cams.detach().float().cpu().numpy()]


def _peaks(cam: np.ndarray, threshold: float, distance: int) -> Tensor:
    ndimage = import_optional("scipy.ndimage", by="prompts for SAM")

    width = cam.shape[1]
    highest = ndimage.maximum_filter(cam, size=2 * distance + 1, mode="nearest")
    peaks = np.flatnonzero((cam == highest) & (cam > 0) & ((cam > threshold) | (cam == cam.max())))
    peaks = peaks[np.argsort(-cam.flat[peaks], kind="stable")]
    taken: list[tuple[int, int]] = []
    free = np.ones(cam.shape, bool)  # of what was taken: a plateau has as many peaks as pixels
    for place in peaks.tolist():
        row, column = divmod(place, width)
        if free[row, column] and (cam.flat[place] > threshold or not taken):
            taken.append((row, column))
            rows, columns = (slice(max(0, at - distance), at + distance + 1) for at in (row, column))
            free[rows, columns] = False
    return torch.tensor([[column, row] for row, column in taken], dtype=torch.float32).reshape(-1, 2)
