"""Figures of masks, CAMs and the steps of the refinement, for papers, notebooks and logs.

The functions ``show_*`` return a matplotlib Figure (``pip install "dhr_refine[viz]"``) that shows itself at
the end of a notebook cell; ``figure.savefig("steps.png")`` saves it. pyplot and its state are not used. The
others return arrays of pixels, for any image writer or logger.
"""

from __future__ import annotations

import functools
import importlib
import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from ..checks import check_count, check_finite, check_ignore_index, check_positive, check_range, describe
from ..inputs import IMAGENET_MEAN, IMAGENET_STD, read_images
from ..metrics import image_counts, image_scores
from ..metrics.masks import Mask, read_mask
from ..refine import RefineSteps

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Names = Sequence[str] | Mapping[int, str] | None
"""What labels are called: a sequence with the name of label i at position i, or a dict."""

_UNKNOWN = 255  # row of a palette that colours pixels without a label
_OPACITY = 0.7
_BACKGROUND_OPACITY = 0.55  # black hides more of the photo than a colour does
_WIDTH = 16.0  # inches of figures with photos: 1600 pixels, readable when shown at half of that
_GAP = 0.1  # inches between tiles
_HEAD = 0.32  # inches for a tile's title
_COLUMNS = 7
_LETTER = 0.6  # usual width of a letter, in units of the font size
_CURVES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")  # Okabe and Ito
_MARK = "#d55e00"
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


def _matplotlib(module: str = "matplotlib") -> Any:
    """Import a module of matplotlib, or say in one line how to get it."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f'figures need matplotlib, which cannot be imported ({error}): pip install "dhr_refine[viz]"'
        ) from error


def _figure(width: float, height: float, *, dpi: int = 100, **options: Any) -> Figure:
    _matplotlib()
    from .figure import ShownFigure

    return ShownFigure(figsize=(width, height), dpi=dpi, **options)


# --------------------------------------------------------------------------------------------------
# Colours


def palette(num_classes: int) -> np.ndarray:
    """Colours of the labels: those of PASCAL VOC, continued for data sets with more classes.

    Parameters
    ----------
    num_classes : int
        Number of labels, the background's included, from 1 to 255. Up to 21: the whole palette of VOC's
        label files. Above: VOC's first 21 colours, then colours as far from all others as possible, so that
        a label has the same colour for 81 classes and for 171.

    Returns
    -------
    ndarray, (256, 3) uint8
        Row i colours label i; row 255, for unknown pixels, is VOC's cream. A new array at each call.

    Raises
    ------
    ValueError, TypeError
        ``num_classes`` is no whole number from 1 to 255: label files of 8 bits have no more.

    Examples
    --------
    >>> from dhr_refine.viz import palette
    >>> palette(21)[[0, 15, 255]].tolist()
    [[0, 0, 0], [192, 128, 128], [224, 224, 192]]
    """
    check_count(num_classes, "num_classes", 1)
    check_range(num_classes, "num_classes", 1, _UNKNOWN)
    return (_voc_palette() if num_classes <= 21 else _many_colours()).copy()


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
def _many_colours() -> np.ndarray:
    """VOC's 21 colours and cream, and between them 234 more, each the farthest from all before it."""
    steps = np.linspace(0, 255, 18).round()
    pool = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    places = _oklab(pool)
    # Greys would pass for the photo, dark colours for the background, pale ones for unknown pixels.
    usable = (np.hypot(places[:, 1], places[:, 2]) > 0.05) & (places[:, 0] > 0.35) & (places[:, 0] < 0.95)
    pool, places = pool[usable], places[usable]
    colours = _voc_palette().copy()
    taken = _oklab(np.concatenate((colours[:21], colours[_UNKNOWN:])))
    distance = np.linalg.norm(places[:, None] - taken, axis=-1).min(axis=1)
    for label in range(21, _UNKNOWN):
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
    return _table(colours)[_labels(mask, "mask", ignore_index)]


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
    labels = _labels(mask, "mask", ignore_index)
    return _overlay(_pixels(image, labels.shape), labels, _table(colours))


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
    return _heat(_pixels(image), cam, vmax)


def _heat(pixels: np.ndarray, cam: Tensor | np.ndarray, vmax: float | None = None) -> np.ndarray:
    """:func:`overlay_cam` on a checked image."""
    heat = torch.as_tensor(cam).detach().float().cpu()
    if heat.ndim != 2 or heat.numel() == 0:
        raise ValueError(f"cam must have shape (h, w), got {describe(cam)}: pass the map of one class")
    check_finite(heat, "cam")
    if vmax is None:
        vmax = max(float(heat.max()), 1e-12)
    check_positive(vmax, "vmax")
    heat = F.interpolate(heat.clamp_min(0)[None, None], pixels.shape[:2], mode="bilinear")[0, 0]
    colours = _matplotlib().colormaps["turbo"]((heat.numpy() / vmax).clip(0, 1))[..., :3] * 255
    return (0.65 * colours + 0.35 * _grey(pixels)).round().astype(np.uint8)


def _overlay(pixels: np.ndarray, labels: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """:func:`overlay_mask` on checked input."""
    present = np.unique(labels)
    result = _blend((labels == present[:, None, None]).astype(np.float64), present, pixels, colours)
    unit = max(1, round(max(labels.shape) / 300))  # about one pixel of the figure
    rows, columns = np.indices(labels.shape)
    stripes = np.where((rows + columns) % (6 * unit) < 2 * unit, 190.0, 250.0)
    result[labels == _UNKNOWN] = stripes[labels == _UNKNOWN, None]
    result[ndimage.grey_dilation(labels, size=unit + 1) != labels] = 255
    return result.round().clip(0, 255).astype(np.uint8)


def _overlay_scores(pixels: np.ndarray, scores: Tensor, classes: Tensor, colours: np.ndarray) -> np.ndarray:
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


# --------------------------------------------------------------------------------------------------
# Figures


def show_steps(
    steps: RefineSteps,
    image: Tensor | np.ndarray,
    *,
    cams: Mapping[int, Tensor] | None = None,
    base: Mask | None = None,
    target: Mask | None = None,
    names: Names = None,
    index: int | None = None,
    lost: Collection[int] | None = None,
    recovered: Collection[int] | None = None,
    ignore_index: int = 255,
    colours: np.ndarray | None = None,
    title: str = "",
    note: str = "",
) -> Figure:
    """Draw what each step of the refinement did to one image, with a legend of its classes.

    Image, ground truth, CAMs and base mask where they are given, OT seed, M_init, the scores after the USS
    and the WSS step (colours mixed by score), and the refined mask.

    Parameters
    ----------
    steps : RefineSteps
        What :func:`dhr_refine.refine_steps` returned.
    image : Tensor or ndarray, (3, H, W) or (H, W, 3)
        As in :func:`overlay_mask`.
    cams : dict of label to Tensor (h, w), optional
        The CAMs to show: ``{t + 1: cams[t] for t in tags}``.
    base : Tensor or ndarray, (H, W), integer, optional
        The base mask that was refined.
    target : Tensor or ndarray, (H, W), integer, optional
        Ground truth. Titles of masks then carry the mean IoU over the image's classes, in percent.
    names : sequence or dict, optional
        Name of each label, the background's included: ``names[label]``. Default: the labels.
    index : int, optional
        Which image of ``steps``, where these hold several.
    lost : collection of int, optional
        Labels that the legend marks as lost. Default: the classes without a pixel in the refined mask.
    recovered : collection of int, optional
        Labels that the legend and the refined mask mark with a star. Default: those of ``steps.recovered``.
    ignore_index, colours
        As in :func:`colour_mask`.
    title, note : str
        Lines above and below the panels.

    Returns
    -------
    matplotlib.figure.Figure
        1600 pixels wide.

    Raises
    ------
    ValueError, TypeError
        Steps of several images without ``index``; maps that do not fit them.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine import refine_steps
    >>> from dhr_refine.viz import show_steps
    >>> cams = torch.zeros(2, 4, 4)
    >>> cams[1, :, 2:] = 1.0
    >>> base = torch.zeros(8, 8, dtype=torch.long)
    >>> image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    >>> steps = refine_steps(cams, base, cams + 0.1, cams + 0.1, labels=[1], boundary=None)
    >>> figure = show_steps(steps, image, base=base, names=["background", "cat", "dog"])
    >>> [axes.get_title() for axes in figure.axes]
    ['Image', 'Base mask', 'OT seed', 'M_init', 'After USS', 'After WSS', 'Final mask']
    """
    one = _one(steps, index)
    size = tuple(one.mask.shape)
    pixels = _pixels(image, size)
    table = _table(colours)
    masks = {"Base mask": base, "OT seed": one.seed, "M_init": one.init_mask, "Final mask": one.mask}
    maps = {
        name: _labels(mask, "base" if mask is base else f"steps ({name})", ignore_index, size)
        for name, mask in masks.items()
        if mask is not None
    }
    truth = None if target is None else _labels(target, "target", ignore_index, size)

    def tile(name: str) -> tuple[str, np.ndarray]:
        # The seed is no mask of the image: it leaves pixels open on purpose.
        score = "" if truth is None or name == "OT seed" else f", mIoU {100 * _miou(maps[name], truth):.1f}"
        return name + score, _overlay(pixels, maps[name], table)

    inputs = [("Image", pixels)]
    if truth is not None:
        inputs.append(("Ground truth", _overlay(pixels, truth, table)))
    for label, cam in ({} if cams is None else cams).items():
        inputs.append((f"CAM: {_name(names, label)}", _heat(pixels, cam)))
    if base is not None:
        inputs.append(tile("Base mask"))
    outputs = [tile("OT seed"), tile("M_init")]
    for name, scores in (("After USS", one.uss), ("After WSS", one.wss)):
        outputs.append((name, _overlay_scores(pixels, scores.cpu(), one.classes.cpu(), table)))
    outputs.append(tile("Final mask"))

    classes = one.classes.tolist()
    kept = set(np.unique(maps["Final mask"]).tolist())
    if recovered is None:
        recovered = [label for label, back in zip(classes, one.recovered.tolist()) if back]
    if lost is None:
        lost = set(classes) - kept
    shown = [*maps.values()] if truth is None else [*maps.values(), truth]
    labels = set(classes).union(*(np.unique(mask).tolist() for mask in shown))
    marks = dict.fromkeys(lost, " (lost)") | dict.fromkeys(recovered, " ★ recovered")
    entries = [
        (table[label], _name(names, label) + marks.get(label, "")) for label in sorted(labels - {_UNKNOWN})
    ]
    unknown = "unassigned" if truth is None else "unassigned or ignored"

    # Few panels fill two rows; else the inputs stand above what was made of them.
    few = len(inputs + outputs) <= 8
    rows = _rows(inputs + outputs, 4) if few else [*_rows(inputs, _COLUMNS), *_rows(outputs, _COLUMNS)]
    ratio = pixels.shape[0] / pixels.shape[1]
    headings = {0: title} if title else {}
    figure, axes = _tiles(rows, entries, unknown * (_UNKNOWN in labels), ratio, headings, note)
    for label in recovered:
        _mark(axes, maps["Final mask"] == label, _name(names, label))
    return figure


def _rows(tiles: list[Any], longest: int) -> list[list[Any]]:
    """Break tiles into as few rows as fit, all about equally long."""
    length = math.ceil(len(tiles) / math.ceil(len(tiles) / longest))
    return [tiles[at : at + length] for at in range(0, len(tiles), length)]


def _tiles(
    rows: list[list[tuple[str, np.ndarray]]],
    entries: list[tuple[np.ndarray, str]],
    unknown: str,
    ratio: float,
    headings: Mapping[int, str],
    note: str = "",
) -> tuple[Figure, Any]:
    """Draw rows of titled pictures over a legend; also return the last axes.

    ``ratio`` is height / width of a tile, ``headings`` holds the lines above rows, by number of the row.
    """
    handles = _legend_handles(entries, unknown)
    columns = max(len(row) for row in rows)
    widest = 0.8 + 0.12 * max(len(handle.get_label()) for handle in handles)  # inches, generous
    legend_columns = max(1, min(len(handles), int(_WIDTH / widest)))
    legend_rows = -(-len(handles) // legend_columns)
    tile = (_WIDTH - _GAP * (columns + 1)) / columns
    tall = tile * ratio
    foot = 0.12 + 0.27 * legend_rows + (0.27 if note else 0)
    heads = [0.45 if i in headings else _GAP if i == 0 else 0.0 for i in range(len(rows))]
    total = sum(heads) + len(rows) * (_HEAD + tall + _GAP) + foot
    figure = _figure(_WIDTH, total)
    axes: Any = None
    top = total
    for i, row in enumerate(rows):
        if i in headings:
            y = (top - 0.25) / total
            figure.text(_GAP / _WIDTH, y, headings[i], fontsize=15, fontweight="bold", va="center")
        top -= heads[i] + _HEAD + tall
        for j, (name, picture) in enumerate(row):
            left = _GAP + j * (tile + _GAP)
            place = (left / _WIDTH, top / total, tile / _WIDTH, tall / total)
            axes = figure.add_axes(place, xticks=[], yticks=[])
            axes.imshow(picture)
            axes.set_title(name, fontsize=_fitting(name, tile), pad=5)
        top -= _GAP
    figure.legend(
        handles=handles,
        loc="upper left",
        bbox_to_anchor=(_GAP / _WIDTH, (foot - 0.02) / total),
        bbox_transform=figure.transFigure,
        borderaxespad=0,
        ncols=legend_columns,
        fontsize=13,
        frameon=False,
        borderpad=0.1,
        columnspacing=1.6,
        labelspacing=0.3,
    )
    if note:
        figure.text(_GAP / _WIDTH, 0.18 / total, note, fontsize=11, color="0.3", va="center")
    return figure, axes


def _legend_handles(entries: list[tuple[np.ndarray, str]], unknown: str) -> list[Any]:
    patch = _matplotlib("matplotlib.patches").Patch
    handles = [patch(facecolor=colour / 255, edgecolor="0.3", label=name) for colour, name in entries]
    if unknown:
        handles.append(patch(facecolor="white", edgecolor="0.6", hatch="///", label=unknown))
    return handles


def _fitting(text: str, width: float, largest: float = 13) -> float:
    """Font size in points at which a text fits into a width in inches."""
    return min(largest, 72 * width / (_LETTER * len(text)))


def _mark(axes: Any, region: np.ndarray, name: str) -> None:
    """Put a star and a name on the innermost pixel of a region, if it has any."""
    if not region.any():
        return
    stroke = _matplotlib("matplotlib.patheffects").withStroke(linewidth=3, foreground="black")
    depth = np.asarray(ndimage.distance_transform_edt(np.pad(region, 1)))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), region.shape)
    right = x > 0.6 * region.shape[1]
    axes.annotate(
        f"{name} ★" if right else f"★ {name}",
        (x, y),
        ha="right" if right else "left",
        va="center",
        color="white",
        fontsize=13,
        fontweight="bold",
        path_effects=[stroke],
    )


def show_similarity(
    steps: RefineSteps, tau: float = 0.8, names: Names = None, *, index: int | None = None
) -> Figure:
    """Draw the cosines of an image's USS centroids, and the groups that they make at tau.

    Values above tau are bold; cells of two classes that one group holds are framed.

    Parameters
    ----------
    steps : RefineSteps
        What :func:`dhr_refine.refine_steps` returned.
    tau : float
        The tau that it was called with.
    names : sequence or dict, optional
        Name of each label: ``names[label]``. Default: the labels.
    index : int, optional
        Which image of ``steps``, where these hold several.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError, TypeError
        Steps of several images without ``index``, or of an image without classes; a tau that cannot have
        made their groups.
    ImportError
        If matplotlib is not installed.

    References
    ----------
    Jo et al., DHR, ECCV 2024, Fig. 11.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine import refine_steps
    >>> from dhr_refine.viz import show_similarity
    >>> base = torch.arange(3).repeat(8, 4)[:, :8]
    >>> features = torch.eye(3)[base].permute(2, 0, 1)
    >>> steps = refine_steps(features[1:], base, features, features, labels=[0, 1], boundary=None)
    >>> figure = show_similarity(steps, 0.8, ["background", "cat", "dog"])
    >>> [text.get_text() for text in figure.axes[0].get_xticklabels()]
    ['background', 'cat', 'dog']
    """
    check_range(tau, "tau", -1.0, 1.0)
    one = _one(steps, index)
    classes = one.classes.tolist()
    if not classes:
        raise ValueError("steps hold an image without classes: choose one with tags")
    cosine = one.uss_similarity.cpu().numpy()
    groups = one.groups.cpu().numpy()
    pairs = (groups | groups.T) & ~np.eye(len(classes), dtype=bool)
    if (pairs.any(axis=1) & ~(pairs & (cosine > tau)).any(axis=1)).any():
        raise ValueError(
            f"tau {tau} does not give the groups of steps: pass the tau that refine_steps was called with"
        )
    absent = np.diagonal(cosine) < 0.5  # without a pixel in M_init, so without a centroid
    labels = [_name(names, label) + (" (absent)" if gone else "") for label, gone in zip(classes, absent)]

    size = max(2.2, 0.62 * len(classes))  # inches of the matrix
    longest = 11 / 72 * _LETTER * max(len(label) for label in labels)
    margin = 0.25 + longest
    width = margin + size + 1.5
    alike = textwrap.wrap(_group_line(groups, classes, names), int(7.2 * (width - 0.2) / _LETTER))
    foot = 0.38 + 0.17 * len(alike) + 0.71 * longest  # names below the matrix stand at 45 degrees
    height = foot + size + 0.15
    figure = _figure(width, height, dpi=150)
    axes = figure.add_axes((margin / width, foot / height, size / width, size / height))
    shown = np.where(absent[:, None] | absent, np.nan, cosine)
    low = min(0.0, math.floor(10 * np.nanmin(shown, initial=0.0)) / 10)
    picture = axes.imshow(shown, cmap="Blues", vmin=low, vmax=1.0)
    axes.set_facecolor("0.92")
    for i, j in np.ndindex(cosine.shape):
        value = float(shown[i, j])
        axes.text(
            j,
            i,
            "\N{EN DASH}" if np.isnan(value) else _signed(value, ".2f"),
            ha="center",
            va="center",
            fontsize=10,
            fontweight="bold" if value > tau else "normal",
            color="white" if value > low + 0.6 * (1 - low) else "black",
        )
    rectangle = _matplotlib("matplotlib.patches").Rectangle
    for i, j in np.argwhere(pairs):
        axes.add_patch(
            rectangle((j - 0.46, i - 0.46), 0.92, 0.92, fill=False, edgecolor=_MARK, linewidth=2.2)
        )
    axes.set_xticks(range(len(labels)), labels, rotation=45, ha="right", rotation_mode="anchor", fontsize=11)
    axes.set_yticks(range(len(labels)), labels, fontsize=11)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    bar = figure.add_axes(((margin + size + 0.15) / width, foot / height, 0.16 / width, size / height))
    figure.colorbar(picture, cax=bar).outline.set_visible(False)
    bar.tick_params(labelsize=9)
    bar.set_ylabel("cosine of USS centroids", fontsize=10)
    bar.yaxis.set_label_coords(1.15 / 0.16, 0.5)  # clear of the longest tau
    bar.axhline(tau, color=_MARK, linewidth=2.2)
    bar.annotate(
        f"τ = {tau:g}",
        (1.0, tau),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        color=_MARK,
        fontsize=10,
        va="center",
        fontweight="bold",
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        annotation_clip=False,
    )
    figure.text(0.1 / width, 0.08 / height, "\n".join(alike), fontsize=10, va="bottom")
    return figure


def _group_line(groups: np.ndarray, classes: list[int], names: Names) -> str:
    found = {tuple(np.flatnonzero(row).tolist()) for row in groups if row.sum() > 1}
    if not found:
        return "No classes are alike."
    parts = (", ".join(_name(names, classes[i]) for i in members) for members in sorted(found))
    return "Alike: " + "; ".join(parts)


def show_extremes(
    images: Sequence[Tensor | np.ndarray],
    targets: Sequence[Mask],
    before: Sequence[Mask],
    after: Sequence[Mask],
    *,
    count: int = 3,
    names: Names = None,
    titles: Sequence[str] | None = None,
    ignore_index: int = 255,
    colours: np.ndarray | None = None,
) -> Figure:
    """Draw the images whose masks a change made best and worst, by the change in mIoU per image.

    Rows of image, ground truth, and the mask before and after, with the mean IoU over the classes of the
    image's ground truth, in percent.

    Parameters
    ----------
    images : sequence of Tensor or ndarray, (3, H, W) or (H, W, 3)
        As in :func:`overlay_mask`, of any sizes. Only those that are drawn are read.
    targets, before, after : sequences of Tensor or ndarray, (H, W), integer
        Ground truth, and the masks to compare with it.
    count : int
        Images at either end; fewer where there are not twice as many. 3 is our choice.
    names : sequence or dict, optional
        Name of each label: ``names[label]``. Default: the labels.
    titles : sequence of str, optional
        What the images are called. Default: their numbers.
    ignore_index, colours
        As in :func:`colour_mask`. ``ignore_index`` in the ground truth is left out of the mIoU.

    Returns
    -------
    matplotlib.figure.Figure
        1600 pixels wide.

    Raises
    ------
    ValueError, TypeError
        Sequences of different lengths, masks that are none or do not fit, fewer than two images with a
        labelled pixel.
    ImportError
        If matplotlib is not installed.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine.viz import show_extremes
    >>> images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    >>> targets = torch.ones(2, 8, 8, dtype=torch.long)
    >>> before, after = targets.clone(), targets.clone()
    >>> before[0, :4] = 0
    >>> after[1, :2] = 0
    >>> figure = show_extremes(images, targets, before, after)
    >>> [axes.get_title() for axes in figure.axes[3::4]]
    ['After, mIoU 100.0 (+50.0)', 'After, mIoU 75.0 (−25.0)']
    """
    check_count(count, "count", 1)
    table = _table(colours)
    for name, given in (("targets", targets), ("before", before), ("after", after), ("titles", titles)):
        if given is not None and len(given) != len(images):
            raise ValueError(
                f"{name} has {len(given)} entries but images has {len(images)}: pass one per image"
            )

    def read(i: int) -> list[np.ndarray]:
        truth = _labels(targets[i], f"targets[{i}]", ignore_index)
        masks = {f"before[{i}]": before[i], f"after[{i}]": after[i]}
        return [truth, *(_labels(mask, name, ignore_index, truth.shape) for name, mask in masks.items())]

    scores = np.full((len(images), 2), np.nan)
    for i in range(len(images)):
        truth, *masks = read(i)
        scores[i] = [_miou(mask, truth) for mask in masks]
    change = scores[:, 1] - scores[:, 0]
    order = np.argsort(-change, kind="stable")[: int(np.isfinite(change).sum())].tolist()  # NaN comes last
    if len(order) < 2:
        raise ValueError(
            f"images must hold at least 2 with labelled pixels in targets, got {len(order)}: pass more"
        )
    count = min(count, len(order) // 2)

    rows = []
    labels: set[int] = set()
    for i in order[:count] + order[: -count - 1 : -1]:
        masks = read(i)
        labels.update(*(np.unique(mask).tolist() for mask in masks))
        pixels = _pixels(images[i], masks[0].shape)
        first, second = 100 * scores[i]
        heads = (
            "Ground truth",
            f"Before, mIoU {first:.1f}",
            f"After, mIoU {second:.1f} ({_signed(second - first, '+.1f')})",
        )
        tiles = [(head, _overlay(pixels, mask, table)) for head, mask in zip(heads, masks)]
        rows.append([(f"Image {i}" if titles is None else titles[i], pixels), *tiles])
    entries = [(table[label], _name(names, label)) for label in sorted(labels - {_UNKNOWN})]
    headings = {0: "Best by change in mIoU", count: "Worst by change in mIoU"}
    figure, _ = _tiles(rows, entries, "ignored" * (_UNKNOWN in labels), 0.75, headings)
    return figure


def show_tau(
    taus: Sequence[float],
    values: Sequence[float] | np.ndarray | Mapping[str, Sequence[float] | np.ndarray],
    *,
    errors: Sequence[float] | np.ndarray | Mapping[str, Sequence[float] | np.ndarray] | None = None,
    mark: float | None = 0.8,
    ylabel: str = "mIoU (%)",
) -> Figure:
    """Draw how a score depends on tau, one curve or several, with bands of standard errors.

    Parameters
    ----------
    taus : sequence of T floats
        The values of tau that were tried, increasing.
    values : T floats, or dict of name to T floats
        The score at each tau, in the unit that ``ylabel`` names; NaN leaves a gap.
    errors : as ``values``, optional
        Half the height of the band around each curve. A dict may leave curves out.
    mark : float, optional
        The tau to mark; the paper's 0.8 by default, None for none.
    ylabel : str
        What ``values`` are.

    Returns
    -------
    matplotlib.figure.Figure

    Raises
    ------
    ValueError
        Curves of another length than ``taus``, values of tau that do not increase, errors of a curve that
        does not exist.
    ImportError
        If matplotlib is not installed.

    References
    ----------
    Jo et al., DHR, ECCV 2024, Fig. 8.

    Examples
    --------
    >>> from dhr_refine.viz import show_tau
    >>> figure = show_tau([0.6, 0.8, 1.0], {"train": [70.1, 71.3, 70.9]}, errors={"train": [0.4, 0.4, 0.5]})
    >>> figure.axes[0].get_ylabel()
    'mIoU (%)'
    """
    places = _curve(taus, "taus")
    if len(places) == 0 or not (np.diff(places) > 0).all():
        raise ValueError(
            f"taus must hold increasing numbers, got {places.tolist()}: sort them and the values"
        )
    single = not isinstance(values, Mapping)
    curves = {"": values} if single else dict(values)
    bands = {} if errors is None else dict(errors) if isinstance(errors, Mapping) else {"": errors}
    for name in bands.keys() - curves.keys():
        raise ValueError(
            f"errors holds {name!r}, values holds {sorted(curves)}: give both as dicts of the same names"
        )

    figure = _figure(7.0, 3.6, dpi=150, layout="constrained")
    axes = figure.add_subplot()
    if mark is not None:
        axes.axvline(mark, color="0.45", linestyle=":", linewidth=1.5, zorder=1)
        axes.annotate(
            f"τ = {mark:g}",
            (mark, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(0, 3),
            textcoords="offset points",
            color="0.35",
            ha="center",
            va="bottom",
            fontsize=11,
        )
    for place, (name, given) in enumerate(curves.items()):
        colour, marker = _CURVES[place % len(_CURVES)], "osD^vPX"[place % 7]
        curve = _curve(given, f"values[{name!r}]" if name else "values", len(places))
        axes.plot(places, curve, color=colour, marker=marker, markersize=6, linewidth=2, label=name)
        if name in bands:
            half = _curve(bands[name], f"errors[{name!r}]" if name else "errors", len(places))
            axes.fill_between(places, curve - half, curve + half, color=colour, alpha=0.18, linewidth=0)
    axes.set_xlabel("τ", fontsize=13)
    axes.set_ylabel(ylabel, fontsize=13)
    axes.tick_params(labelsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9")
    axes.set_axisbelow(True)
    if not single:
        axes.legend(frameon=False, fontsize=12, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def _curve(values: Any, name: str, length: int | None = None) -> np.ndarray:
    curve = np.asarray(values, dtype=np.float64)
    if curve.ndim != 1 or (length is not None and len(curve) != length):
        wanted = "a list of numbers" if length is None else f"{length} numbers, one per tau"
        raise ValueError(f"{name} must hold {wanted}, got an array of shape {curve.shape}: match taus")
    return curve


def _signed(value: float, form: str) -> str:
    return format(value, form).replace("-", "\N{MINUS SIGN}")


# --------------------------------------------------------------------------------------------------
# Input


def _one(steps: RefineSteps, index: int | None) -> RefineSteps:
    """The steps of one image, without a batch axis."""
    if not isinstance(steps, RefineSteps):
        raise TypeError(
            f"steps must be a RefineSteps, got {describe(steps)}: pass what refine_steps returned"
        )
    images = steps._images()
    if index is None:
        if len(images) != 1:
            raise ValueError(f"steps hold {len(images)} images: pass index, the number of the one to draw")
        return images[0]
    check_count(index, "index", 0)
    if index >= len(images):
        raise ValueError(f"index must be below {len(images)}, the images in steps, got {index}: lower it")
    return images[index]


def _pixels(image: Tensor | np.ndarray, size: tuple[int, ...] | None = None) -> np.ndarray:
    """An RGB image as (H, W, 3) uint8."""
    # A copy: torch warns about arrays that must not be written to.
    given = image.detach().cpu() if isinstance(image, Tensor) else torch.from_numpy(np.array(image))
    if given.ndim == 3 and given.shape[0] != 3 and given.shape[2] == 3:
        given = given.movedim(2, 0)
    if given.ndim != 3 or given.shape[0] != 3 or given.numel() == 0:
        raise ValueError(
            f"image must have shape (3, H, W) or (H, W, 3), got {describe(image)}: pass one RGB image"
        )
    height, width = given.shape[1:]
    if size is not None and (height, width) != tuple(size):
        raise ValueError(
            f"image has size {(height, width)} but the mask has {tuple(size)}: resize the image or the mask"
        )
    pixels = read_images(given[None], torch.empty(1, height, width), IMAGENET_MEAN, IMAGENET_STD, True)
    assert pixels is not None
    return pixels[0].movedim(0, 2).numpy()


def _labels(mask: Mask, name: str, ignore_index: int, size: tuple[int, ...] | None = None) -> np.ndarray:
    """A mask as (H, W) int64, 255 where unknown."""
    check_ignore_index(ignore_index)
    labels = read_mask(mask, name).cpu().numpy()
    if labels.shape[0] != 1 or labels.size == 0:
        raise ValueError(f"{name} must have shape (H, W), got {describe(mask)}: pass the mask of one image")
    labels = labels[0]
    if size is not None and labels.shape != tuple(size):
        raise ValueError(
            f"{name} has size {labels.shape}, not {tuple(size)}: pass the mask of the same image"
        )
    known = labels != ignore_index
    wrong = labels[known & ((labels < 0) | (labels >= _UNKNOWN))]
    if wrong.size:
        raise ValueError(
            f"{name} holds label {wrong[0]}, but colours exist for labels 0 to 254 and ignore_index "
            f"({ignore_index}): pass another ignore_index, or relabel the mask"
        )
    return np.where(known, labels, _UNKNOWN)


def _table(colours: np.ndarray | None) -> np.ndarray:
    if colours is None:
        return palette(_UNKNOWN)
    if not isinstance(colours, np.ndarray) or colours.shape != (256, 3) or colours.dtype != np.uint8:
        raise ValueError(
            f"colours must be a uint8 array of shape (256, 3), got {describe(colours)}: call palette()"
        )
    return colours


def _name(names: Names, label: int) -> str:
    if names is None:
        return f"class {label}"
    if isinstance(names, Mapping):
        return names.get(label, f"class {label}")
    if label >= len(names):
        raise ValueError(
            f"names has {len(names)} entries but label {label} is shown: name every label, the background's "
            "included, or pass a dict"
        )
    return names[label]


def _miou(mask: np.ndarray, truth: np.ndarray) -> float:
    """Mean IoU over the classes of the ground truth, NaN where it has no labelled pixel."""
    counts = image_counts(mask, truth, num_classes=_UNKNOWN, ignore_index=_UNKNOWN)
    return float(image_scores(counts).miou[0])
