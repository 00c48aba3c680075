"""The dense energy loss: neighbours of one colour get one class where labels are missing or unsure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from .checks import (
    check_data,
    check_filled,
    check_finite,
    check_ignore_index,
    check_image_shape,
    check_positive,
    check_range,
    check_same,
    check_tensor,
    describe,
    exact_labels,
    find_extent,
    read_numbers,
    show,
    warn,
)
from .compiled import eager
from .crf.geometry import feature_geometry
from .crf.images import check_image_type, read_pixels, warn_of_grey_levels
from .crf.permutohedral import PermutohedralLattice, filter_values
from .inputs.boxes import BoxFormat, GivenBoxes, mark_inside, read_boxes
from .inputs.names import Names

# Grey levels of floating point images, and what interpolation may add to them.
_LOWEST, _HIGHEST = -64.0, 319.0
# Numbers this close to 0 with some below -1 are those of normalised images.
_NORMALISED = 10.0
# By how much rounding and interpolation miss 0, 1 and a sum of 1; bfloat16 has eight bits.
_SLACK = 0.01
_LARGEST_WEIGHT = 1e20  # times the square of any number of pixels it is still a float32


@eager
def dense_energy_loss(
    images: Tensor,
    logits: Tensor,
    labels: Tensor,
    *,
    boxes: GivenBoxes = None,
    box_format: BoxFormat | None = None,
    weight: float = 1e-7,
    sigma_rgb: float = 15,
    sigma_xy: float = 100,
    scale_factor: float = 0.5,
    softmax: bool = True,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    ignore_index: int = 255,
    backend: Literal["auto", "torch", "numba"] = "auto",
) -> Tensor:
    r"""Energy that is low where pixels near each other and alike in colour get the same class.

    The regularised loss of Tang et al. (2018) that ToCo, SeCo, DuPL and many others compute through a
    compiled ``bilateralfilter``. With everything resized by ``scale_factor``, class probabilities :math:`S`
    of the :math:`N` images, :math:`R` 1 inside the boxes and 0 outside, and the gate :math:`G`, 1 where the
    label is ``ignore_index`` and :math:`\max(R - \max_k S_k, 0)` elsewhere,

    .. math:: L = -\frac{w}{N} \sum R S \cdot A, \qquad A = G \cdot K (R S),
              \qquad \frac{\partial L}{\partial S} = -\frac{2 w}{N} R A,

    where :math:`K` is the bilateral filter without normalisation, through the permutohedral lattice. The
    gradient is the original's: the gate counts as a constant and the filter as symmetric, so that it is not
    the derivative of :math:`L`, nor has derivatives of its own.

    Parameters
    ----------
    images : Tensor of shape (B, 3, H, W), uint8 or floating point
        RGB in grey levels, 0 to 255; normalised ones with ``mean`` and ``std``.
    logits : Tensor of shape (B, K, H, W), floating point
        Scores of the classes before the softmax, at the size of the images; probabilities with
        ``softmax=False``.
    labels : Tensor of shape (B, H, W), integer or floating point
        Pseudo labels. All that counts is where they are ``ignore_index``.
    boxes : Tensor, array or list of shape (B, 4), or None
        Crop boxes in whole pixels, ends exclusive, beyond which there is padding; None, also as an entry: the
        whole image.
    box_format : {"xyxy", "yyxx"}, optional
        Needed with ``boxes``: "yyxx" is y0, y1, x0, x1, as in ToCo and its relatives.
    weight : float, default 1e-7
        :math:`w`, 0 to 1e20. What scripts multiply the loss by afterwards (0.05 in ToCo) comes on top.
    sigma_rgb : float, default 15
        Standard deviation of the filter in grey levels.
    sigma_xy : float, default 100
        Standard deviation of the filter in pixels of the images as passed.
    scale_factor : float, default 0.5
        In (0, 1]: images and labels are resized by their nearest neighbour, probabilities bilinearly.
    softmax : bool, default True
        Whether to take the softmax of ``logits``; False where they are probabilities already.
    mean, std : sequence of 3 floats, optional
        What floating point images were normalised with, in grey levels, e.g. (123.675, 116.28, 103.53) and
        (58.395, 57.12, 57.375), or 255 times (0.485, ...) and (0.229, ...). uint8 images stay as they are.
    ignore_index : int, default 255
        Label of pixels without one.
    backend : {"auto", "torch", "numba"}, default "auto"
        As in `PermutohedralLattice`.

    Returns
    -------
    Tensor of shape (), float32, float64 of float64 ``logits``
        The loss, 0 or below; 0 for no images. Gradients reach ``logits`` alone.

    Raises
    ------
    TypeError
        If an argument is not of the kind asked for; in forward mode, and from the backward pass of a
        gradient.
    ValueError
        If shapes, sizes or devices differ, if ``images`` or ``logits`` hold NaN or infinity, if ``logits``
        are probabilities, or are none with ``softmax=False``, if ``images`` are normalised or span more than
        grey levels, or if an option is out of range.

    Notes
    -----
    The defaults are those of ToCo and its relatives. Runs in float32 whatever autocast says, on the images of
    the calling process alone. Waits for an accelerator a few times, to look at ranges. Warns of floating
    point images that are in [0, 1].

    References
    ----------
    M. Tang, F. Perazzi, A. Djelouah, I. Ben Ayed, C. Schroers and Y. Boykov, "On Regularized Losses for
    Weakly-supervised CNN Segmentation", ECCV 2018.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine import dense_energy_loss
    >>> images = torch.zeros(1, 3, 32, 32, dtype=torch.uint8)
    >>> images[..., 16:] = 200
    >>> labels = torch.full((1, 32, 32), 255)
    >>> edges = torch.zeros(1, 2, 32, 32)
    >>> edges[:, 1, :, 16:] = 5
    >>> edges[:, 0, :, :16] = 5
    >>> follows = dense_energy_loss(images, edges, labels)
    >>> crosses = dense_energy_loss(images, edges.mT, labels)
    >>> bool(follows < crosses < 0)
    True
    """
    _check_inputs(images, logits, labels)
    for name, value in (("sigma_rgb", sigma_rgb), ("sigma_xy", sigma_xy), ("scale_factor", scale_factor)):
        check_positive(value, name)
    check_range(scale_factor, "scale_factor", 0, 1)
    check_range(weight, "weight", 0, _LARGEST_WEIGHT)
    check_ignore_index(ignore_index)
    _check_kind(logits, softmax)
    count, _, height, width = images.shape
    found = read_boxes(boxes, box_format, labels, Names("batch", list(range(count))))
    size = max(int(height * scale_factor), 1), max(int(width * scale_factor), 1)
    sigmas = sigma_xy * scale_factor, sigma_rgb
    with torch.autocast(images.device.type, enabled=False):
        colours, levels = _read_colours(_nearest(images, size), _read_normalisation(mean, std), sigma_rgb)
        _check_fineness(size, levels, *sigmas, scale_factor)
        lattice = PermutohedralLattice(_features(colours, *sigmas), backend=backend)
        scores = logits if logits.dtype == torch.float64 else logits.float()
        probs = F.interpolate(scores.softmax(1) if softmax else scores, size, mode="bilinear")
        inside = mark_inside(found.boxes, labels)
        return _Energy.apply(
            probs,
            lattice,
            None if inside is None else _nearest(inside[:, None], size).to(probs.dtype),
            _nearest((exact_labels(labels) == ignore_index)[:, None], size).bool(),
            weight / max(count, 1),
        )


class _Energy(torch.autograd.Function):
    """The loss of resized probabilities (B, K, h, w), with the original's gradient."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        probs: Tensor,
        lattice: PermutohedralLattice,
        inside: Tensor | None,
        unlabelled: Tensor,
        weight: float,
    ) -> Tensor:
        gate = ((1.0 if inside is None else inside) - probs.amax(1, keepdim=True)).clamp_(min=0)
        gate.masked_fill_(unlabelled, 1.0)
        masked = probs
        if inside is not None:
            masked, gate = probs * inside, gate * inside
        affinity = filter_values(lattice, masked, "none").mul_(gate)
        ctx.save_for_backward(probs, affinity * (-2 * weight))
        return (masked * affinity).sum() * -weight

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        probs, derivative = ctx.saved_tensors
        return _Final.apply(gradient * derivative, probs), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise TypeError("dense_energy_loss has no derivative in forward mode: call backward() on it")


class _Final(torch.autograd.Function):
    """A gradient that has none itself."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, probs: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        del ctx, probs
        return gradient

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise TypeError(
            "dense_energy_loss has a first derivative only, for which gate and filter are constants: "
            "leave it out of what you differentiate twice"
        )


def _check_inputs(images: Tensor, logits: Tensor, labels: Tensor) -> None:
    """Raise unless the tensors fit each other."""
    check_tensor(images, "images", "(B, 3, H, W)", ndim=4)
    check_tensor(logits, "logits", "(B, K, H, W)", ndim=4, floating=True)
    check_tensor(labels, "labels", "(B, H, W)", ndim=3)
    if labels.dtype == torch.bool or labels.is_complex():
        raise TypeError(
            f"labels must be whole numbers, got {describe(labels)}: pass the pseudo labels themselves, "
            "ignore_index where there is none"
        )
    check_image_type(images)
    check_image_shape(images, size=logits.shape[2:])
    for tensor, name in ((images, "images"), (logits, "logits"), (labels, "labels")):
        check_filled(tensor, name)
        check_data(tensor, name)
        check_same(tensor, name, images, "images")
        if tensor.shape[-2:] != images.shape[2:]:
            call = "interpolate(logits, images.shape[2:], mode='bilinear')"
            if name == "labels":  # it takes neither three axes nor integers
                call = "interpolate(labels[:, None].float(), images.shape[2:])[:, 0]"
            raise ValueError(
                f"{name} has size {tuple(tensor.shape[-2:])} but images has {tuple(images.shape[2:])}: "
                f"pass torch.nn.functional.{call}"
            )


def _check_kind(logits: Tensor, softmax: bool) -> None:
    """Raise unless scores are finite, and logits or probabilities as the caller says (waits once)."""
    if not isinstance(softmax, bool):
        raise TypeError(f"softmax must be True or False, got {show(softmax)}: pass False for probabilities")
    low, high = find_extent(logits)
    if not (abs(low) < torch.inf and abs(high) < torch.inf):
        check_finite(logits, "logits")
    within = low >= -_SLACK and high <= 1 + _SLACK
    if not softmax and not within:
        raise ValueError(
            f"logits must be probabilities where softmax=False, but span [{low:.3g}, {high:.3g}]: "
            "pass softmax=True for logits"
        )
    # The softmax of a single class is 1, whatever it is.
    if softmax and within and low >= 0 and logits.shape[1] > 1 and logits.shape[0] > 0:
        sums = logits.detach().sum(1, dtype=torch.float32)
        if bool(((sums - 1).abs() <= _SLACK).all()):
            raise ValueError(
                "logits are probabilities, none below 0 and with sum 1 in every pixel: pass softmax=False, "
                "or what they are the softmax of"
            )


def _check_fineness(
    size: tuple[int, int],
    levels: tuple[float, float],
    sigma_xy: float,
    sigma_rgb: float,
    scale_factor: float,
) -> None:
    """Raise if the lattice of images of a size and with colours in some range is too fine."""

    def fits(factor: float) -> bool:
        places, colours = (max(sigma * factor, 1e-30) for sigma in (sigma_xy, sigma_rgb))
        extents = [(0.0, side / places) for side in reversed(size)]
        try:
            feature_geometry([*extents, *[(levels[0] / colours, levels[1] / colours)] * 3])
        except ValueError:
            return False
        return True

    if fits(1):
        return
    factor = 2.0
    while not fits(factor):
        factor *= 2
    raise ValueError(
        f"sigma_rgb={sigma_rgb:g} and sigma_xy={sigma_xy / scale_factor:g} make too fine a lattice: "
        f"pass larger ones, e.g. sigma_rgb={2 * factor * sigma_rgb:g} and "
        f"sigma_xy={2 * factor * sigma_xy / scale_factor:g}"
    )


def _read_normalisation(mean: Any, std: Any) -> tuple[list[float], list[float]] | None:
    """Mean and standard deviation in grey levels."""
    if mean is None and std is None:
        return None
    if mean is None or std is None:
        raise ValueError("mean and std must be given together: pass both, or None for both")
    found = [read_numbers(value, name, "three numbers") for name, value in (("mean", mean), ("std", std))]
    for numbers, name in zip(found, ("mean", "std"), strict=True):
        if (
            numbers.shape != (3,)
            or not abs(numbers).max() < torch.inf
            or (name == "std" and numbers.min() <= 0)
        ):
            raise ValueError(
                f"{name} must have 3 entries, finite{', above 0' * (name == 'std')}, got {show(numbers)}: "
                "one per channel"
            )
    # In grey levels the one is about 120, the other 60.
    if max(abs(numbers).max() for numbers in found) <= 1:
        raise ValueError(
            f"mean and std must be in grey levels, got {found[0].tolist()} and {found[1].tolist()}: multiply "
            "both by 255"
        )
    return found[0].tolist(), found[1].tolist()


def _read_colours(
    images: Tensor, normalisation: tuple[list[float], list[float]] | None, sigma_rgb: float
) -> tuple[Tensor, tuple[float, float]]:
    """Resized images in grey levels, float32, and their range; raise on others (waits unless uint8)."""
    pixels = read_pixels(images)
    if not pixels.extents:
        return pixels.values.float(), (0.0, 255.0)
    if normalisation is not None:
        if all(0 <= low < high <= 1 for low, high in pixels.extents):
            warn(
                "images lie in [0, 1] but are taken for normalised ones, since mean and std are given: pass "
                "255 * images without mean and std if they are not",
            )
        mean, std = (pixels.values.new_tensor(numbers).view(1, 3, 1, 1) for numbers in normalisation)
        pixels = read_pixels(pixels.values * std + mean)
    low, high = min(low for low, _ in pixels.extents), max(high for _, high in pixels.extents)
    if normalisation is None and low < -1 and high <= _NORMALISED and low >= -_NORMALISED:
        raise ValueError(
            f"images are normalised, they span [{low:.3g}, {high:.3g}]: pass mean and std in grey levels, "
            "e.g. mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375)"
        )
    if low < _LOWEST or high > _HIGHEST:
        undone = "" if normalisation is None else " after undoing mean and std"
        raise ValueError(
            f"images span [{low:.3g}, {high:.3g}]{undone}, not grey levels in [0, 255]: "
            + ("scale them, or pass uint8 images" if normalisation is None else "leave mean and std out")
        )
    warn_of_grey_levels(pixels, sigma_rgb, name="sigma_rgb")
    return pixels.values, (low, high)


def _features(colours: Tensor, sigma_xy: float, sigma_rgb: float) -> Tensor:
    """Column, row and colours (B, 5, h, w) in units of their deviations."""
    count, _, height, width = colours.shape
    columns, rows = (torch.arange(n, device=colours.device).float() / sigma_xy for n in (width, height))
    places = torch.stack(torch.broadcast_tensors(columns, rows[:, None]))
    return torch.cat([places.expand(count, -1, -1, -1), colours / sigma_rgb], 1)


def _nearest(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize (B, C, H, W) by nearest neighbours; bool becomes uint8."""
    return F.interpolate(values.byte() if values.dtype == torch.bool else values, size)
