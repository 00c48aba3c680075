"""Pictures of pixels: masks in colour, and masks, CAMs and scores laid over the photo."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_finite, check_positive, describe, read_numbers
from ..metrics.masks import Mask
from ..palettes import UNKNOWN, read_colours
from .canvas import import_matplotlib
from .reading import read_labels, read_pixels

_OPACITY = 0.7
_BACKGROUND_OPACITY = 0.55  # black hides more of the photo than a colour does


def colour_mask(mask: Mask, *, ignore_index: int = 255, colours: np.ndarray | None = None) -> np.ndarray:
    """Give every pixel the colour of its label.

    Parameters
    ----------
    mask : Tensor or ndarray, (H, W), integer
        Labels from 0 to 254, and ``ignore_index``.
    ignore_index : int
        Label of unknown pixels, which get the colour of row 255.
    colours : ndarray, (256, 3) uint8, optional
        What :func:`palette` returns. Default: ``palette(255)``, which starts with VOC's 21 colours.

    Returns
    -------
    ndarray, (H, W, 3) uint8

    Raises
    ------
    ValueError, TypeError
        A mask that is not integer or has other labels, or ``colours`` of another shape.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine.viz import colour_mask
    >>> colour_mask(torch.tensor([[1, 255]])).tolist()
    [[[128, 0, 0], [224, 224, 192]]]
    """
    return read_colours(colours)[read_labels(mask, "mask", ignore_index)]


def overlay_mask(
    image: Tensor | np.ndarray, mask: Mask, *, ignore_index: int = 255, colours: np.ndarray | None = None
) -> np.ndarray:
    """Lay the colours of a mask over the grey image, with white outlines; unknown pixels are hatched.

    Parameters
    ----------
    image : Tensor or ndarray, (3, H, W) or (H, W, 3)
        RGB: uint8, floating point in [0, 1], or normalised with ImageNet's mean and standard deviation.
    mask : Tensor or ndarray, (H, W), integer
        Labels from 0 to 254, and ``ignore_index``. Label 0 is laid on more thinly than the others.
    ignore_index, colours
        As in :func:`colour_mask`.

    Returns
    -------
    ndarray, (H, W, 3) uint8

    Raises
    ------
    ValueError, TypeError
        As :func:`colour_mask`, and an image that is none or has another size than the mask.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine.viz import overlay_mask
    >>> image = torch.full((3, 40, 40), 100, dtype=torch.uint8)
    >>> overlay_mask(image, torch.full((40, 40), 2))[20, 20].tolist()  # 0.7 of (0, 128, 0), 0.3 of the grey
    [30, 120, 30]
    """
    labels = read_labels(mask, "mask", ignore_index)
    return overlay_labels(read_pixels(image, labels.shape), labels, read_colours(colours))


def overlay_cam(
    image: Tensor | np.ndarray, cam: Tensor | np.ndarray, *, vmax: float | None = None
) -> np.ndarray:
    """Lay one CAM, or any map of scores, over the grey image as a heat map.

    Parameters
    ----------
    image : Tensor or ndarray, (3, H, W) or (H, W, 3)
        As in :func:`overlay_mask`.
    cam : Tensor or ndarray, (h, w), floating point
        At any resolution; negative values count as 0.
    vmax : float, optional
        Value of the hottest colour. Default: the map's own maximum, as CAMs are normalised; pass 1.0 for
        probabilities and shares, which can then be compared.

    Returns
    -------
    ndarray, (H, W, 3) uint8

    Raises
    ------
    ValueError, TypeError
        An image that is none, a map of another rank, NaN or infinity in it, ``vmax`` not above 0.
    ImportError
        If matplotlib, whose colour map is used, is not installed.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine.viz import overlay_cam
    >>> image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    >>> overlay_cam(image, torch.tensor([[0.0, 1.0]])).shape
    (8, 8, 3)
    """
    return overlay_heat(read_pixels(image), cam, vmax)


def overlay_labels(pixels: np.ndarray, labels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """:func:`overlay_mask` on checked input."""
    present = np.unique(labels)
    result = _blend((labels == present[:, None, None]).astype(np.float64), present, pixels, colours)
    unit = max(1, round(max(labels.shape) / 300))
    reach = (unit + 1) // 2  # an even window would reach farther to one side than to the other
    rows, columns = np.indices(labels.shape)
    stripes = np.where((rows + columns) % (6 * unit) < 2 * unit, 190.0, 250.0)
    result[labels == UNKNOWN] = stripes[labels == UNKNOWN, None]
    whole = torch.from_numpy(labels)[None].float()
    largest = F.max_pool2d(whole, 2 * reach + 1, stride=1, padding=reach)[0].numpy()
    result[largest != labels] = 255
    return result.round().clip(0, 255).astype(np.uint8)


def overlay_heat(pixels: np.ndarray, cam: Tensor | np.ndarray, vmax: float | None = None) -> np.ndarray:
    """:func:`overlay_cam` on a checked image."""
    heat = torch.from_numpy(read_numbers(cam, "cam", "a map (h, w)").astype(np.float32))
    if heat.ndim != 2 or heat.numel() == 0:
        raise ValueError(f"cam must have shape (h, w), got {describe(cam)}: pass the map of one class")
    check_finite(heat, "cam")
    if vmax is None:
        vmax = max(float(heat.max()), 1e-12)
    check_positive(vmax, "vmax")
    heat = F.interpolate(heat.clamp_min(0)[None, None], pixels.shape[:2], mode="bilinear")[0, 0]
    colours = import_matplotlib().colormaps["turbo"]((heat.numpy() / vmax).clip(0, 1))[..., :3] * 255
    return (0.65 * colours + 0.35 * _grey(pixels)).round().astype(np.uint8)


def overlay_scores(pixels: np.ndarray, scores: Tensor, classes: Tensor, colours: np.ndarray) -> np.ndarray:
    """Mix the colours of the classes by their share of the scores (K, h, w) at each pixel."""
    maps = torch.zeros(0, *pixels.shape[:2])  # an image without classes
    if len(classes):
        maps = F.interpolate(scores[None].float(), pixels.shape[:2], mode="bilinear")[0].clamp_min(0)
    share = (maps / maps.sum(0).clamp_min(1e-12)).double().numpy()
    return _blend(share, classes.numpy(), pixels, colours).round().clip(0, 255).astype(np.uint8)


def _blend(share: np.ndarray, labels: np.ndarray, pixels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Lay colours, mixed by share (K, H, W), over the grey photo; the background more thinly."""
    opacity = np.where(labels == 0, _BACKGROUND_OPACITY, _OPACITY)
    mixed = np.einsum("khw,kc->hwc", share, colours[labels] * opacity[:, None])
    return mixed + (1 - np.einsum("khw,k->hw", share, opacity))[..., None] * _grey(pixels)


def _grey(pixels: np.ndarray) -> np.ndarray:
    return (pixels.astype(np.float64) @ (0.299, 0.587, 0.114))[..., None]
