"""Colours of labels: those of PASCAL VOC, vivid ones, and more that are far from these to the eye."""

from __future__ import annotations

import functools
from typing import Literal

import numpy as np

from .checks import check_choice, check_count, check_range, describe

UNKNOWN = 255  # row of a palette that colours pixels without a label

_RGB_TO_CONES = np.array(
    [
        (0.41222147, 0.21190350, 0.08830246),
        (0.53633254, 0.68069955, 0.28171884),
        (0.05144599, 0.10739696, 0.62997870),
    ]
)
_CONES_TO_LAB = np.array(
    [
        (0.21045426, 1.97799850, 0.02590404),
        (0.79361779, -2.42859220, 0.78277177),
        (-0.00407205, 0.45059371, -0.80867577),
    ]
)


# Black, and the seven hues of M. Okabe and K. Ito, Color universal design, 2008, which eyes that cannot tell
# red from green tell apart too; here those that differ most come first.
_VIVID = np.array(
    [
        (0, 0, 0),
        (213, 94, 0),
        (86, 180, 233),
        (240, 228, 66),
        (0, 158, 115),
        (204, 121, 167),
        (0, 114, 178),
        (230, 159, 0),
    ],
    np.uint8,
)


def palette(num_classes: int, *, style: Literal["voc", "vivid"] = "voc") -> np.ndarray:
    """Colours of the labels: those of PASCAL VOC, continued for data sets with more classes, or vivid ones.

    Parameters
    ----------
    num_classes : int
        Number of labels, the background's included, from 1 to 255. Up to 21: the whole palette of VOC's
        label files. Above: VOC's first 21 colours, then colours as far from all others as possible, so that
        a label has the same colour for 81 classes and for 171.
    style : {"voc", "vivid"}
        Vivid colours stand out from a grey photo, where VOC's darkest (4, 8, 16) nearly vanish. Labels 1 to 7
        have hues that colour-blind eyes can tell apart, the others colours as far from all as possible.

    Returns
    -------
    ndarray, (256, 3) uint8
        Row i colours label i; row 255, for unknown pixels, is VOC's cream. A new array at each call.

    Raises
    ------
    ValueError, TypeError
        ``num_classes`` is no whole number from 1 to 255: label files of 8 bits have no more. Another
        ``style``.

    Examples
    --------
    >>> from dhr_refine.viz import palette
    >>> palette(21)[[0, 15, 255]].tolist()
    [[0, 0, 0], [192, 128, 128], [224, 224, 192]]
    >>> palette(21, style="vivid")[[0, 1, 2, 255]].tolist()
    [[0, 0, 0], [213, 94, 0], [86, 180, 233], [224, 224, 192]]
    """
    check_count(num_classes, "num_classes", 1)
    check_range(num_classes, "num_classes", 1, UNKNOWN)
    check_choice(style, "style", ("voc", "vivid"))
    return (_voc_palette() if style == "voc" and num_classes <= 21 else _many_colours(style)).copy()


@functools.cache
def _voc_palette() -> np.ndarray:
    """The bits of the label, spread over the channels."""
    labels = np.arange(256)
    channels = np.zeros((256, 3), np.int64)
    for bit in range(8):
        for channel in range(3):
            channels[:, channel] |= ((labels >> (3 * bit + channel)) & 1) << (7 - bit)
    return channels.astype(np.uint8)


@functools.cache
def _many_colours(style: str) -> np.ndarray:
    """The first colours of a style and cream, and between them more, each the farthest from all before it."""
    steps = np.linspace(0, 255, 18).round()
    pool = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    places = _oklab(pool)
    # Greys would pass for the photo, dark colours for the background, pale ones for unknown pixels.
    darkest = 0.35 if style == "voc" else 0.5
    usable = (np.hypot(places[:, 1], places[:, 2]) > 0.05) & (places[:, 0] > darkest) & (places[:, 0] < 0.95)
    pool, places = pool[usable], places[usable]
    colours = _voc_palette().copy()
    count = 21 if style == "voc" else len(_VIVID)
    if style == "vivid":
        colours[:count] = _VIVID
    taken = _oklab(np.concatenate((colours[:count], colours[UNKNOWN:])))
    distance = np.linalg.norm(places[:, None] - taken, axis=-1).min(axis=1)
    for label in range(count, UNKNOWN):
        best = int(distance.argmax())
        colours[label] = pool[best]
        distance = np.minimum(distance, np.linalg.norm(places - places[best], axis=-1))
    return colours


def _oklab(colours: np.ndarray) -> np.ndarray:
    """Colours (N, 3) in 0..255 in OKLab, where distances are about as large as they look.

    B. Ottosson, A perceptual color space for image processing, 2020.
    """
    unit = colours / 255.0
    linear = np.where(unit > 0.04045, ((unit + 0.055) / 1.055) ** 2.4, unit / 12.92)
    return np.cbrt(linear @ _RGB_TO_CONES) @ _CONES_TO_LAB


def read_colours(colours: np.ndarray | None) -> np.ndarray:
    """The palette that was given, or the one that every label has a colour in."""
    if colours is None:
        return palette(UNKNOWN)
    if not isinstance(colours, np.ndarray) or colours.shape != (256, 3) or colours.dtype != np.uint8:
        raise ValueError(
            f"colours must be a uint8 array of shape (256, 3), got {describe(colours)}: call palette()"
        )
    return colours
