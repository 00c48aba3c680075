"""Around the call in a training loop: full-image features for crops, and which crops lack labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from .checks import (
    check_choice,
    check_filled,
    check_ignore_index,
    check_tensor,
    describe,
    exact_labels,
    read_ints,
    read_numbers,
    show_shapes,
)

__all__ = ["SplitLabels", "View", "has_labels", "has_split_labels"]


@dataclass(frozen=True)
class View:
    """Where an augmented crop came from, to bring what was saved for the full image to the crop.

    The augmentation is: scale the image to ``resized``, mirror it if ``flip``, cut the ``window``, which may
    reach beyond the image (padding). Make one with :meth:`of`; for a crop that is mirrored last, see
    :meth:`flipped`.

    Examples
    --------
    An image of 375 x 500 pixels, scaled by 1.2, mirrored, and cut to 512 x 512 with padding at the bottom:

    >>> import torch
    >>> from dhr_refine.training import View
    >>> view = View.of((375, 500), resized=(450, 600), window=(40, 0, 552, 512), flip=True)
    >>> view.size, view.box
    ((512, 512), (0, 0, 512, 450))
    >>> saved = torch.rand(384, 27, 36)  # USS features of the full image
    >>> view.crop(saved).shape
    torch.Size([384, 31, 31])
    """

    image_size: tuple[int, int]
    """(H, W) of the full image in pixels."""
    resized: tuple[int, int]
    """(h, w) of the image in pixels after scaling."""
    window: tuple[int, int, int, int]
    """x0, y0, x1, y1 of the crop in pixels of the scaled (and mirrored) image, ends exclusive."""
    flip: bool
    """Whether the scaled image was mirrored left-right before the window was cut."""

    @classmethod
    def of(
        cls,
        image_size: Sequence[int],
        *,
        window: Sequence[int],
        resized: Sequence[int] | None = None,
        flip: bool = False,
    ) -> View:
        """Check and keep where a crop came from.

        Parameters
        ----------
        image_size : (int, int), pixels
            Height and width of the full image.
        window : (int, int, int, int), pixels
            x0, y0, x1, y1 of the crop in the scaled (and mirrored) image, ends exclusive. It may reach
            beyond the image on any side.
        resized : (int, int), pixels, optional
            Height and width after random scaling; default: ``image_size``.
        flip : bool
            Whether the scaled image was mirrored left-right BEFORE the window was cut.

        Returns
        -------
        View

        Raises
        ------
        ValueError, TypeError
            A size or a window that holds no pixel or is not made of whole numbers.

        Examples
        --------
        >>> from dhr_refine.training import View
        >>> View.of((100, 120), window=(-10, 20, 54, 84)).box
        (10, 0, 64, 64)
        """
        size = read_ints(image_size, "image_size", "(H, W)", 1)
        scaled = size if resized is None else read_ints(resized, "resized", "(h, w)", 1)
        cut = read_ints(window, "window", "(x0, y0, x1, y1)")
        if cut[2] <= cut[0] or cut[3] <= cut[1]:
            raise ValueError(f"window holds no pixel, got {cut}: pass x0, y0, x1, y1, ends exclusive")
        # Of numbers and tensors of one; the text "False" is true.
        if read_numbers(flip, "flip", "a bool").size != 1:
            raise TypeError(f"flip must be a bool, got {describe(flip)}: pass True or False")
        return cls(size, scaled, cut, bool(flip))

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the crop in pixels."""
        x0, y0, x1, y1 = self.window
        return y1 - y0, x1 - x0

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x0, y0, x1, y1 of the image inside the crop in pixels, ends exclusive; the rest is padding.

        What :func:`dhr_refine.refine_mask` takes as one entry of ``boxes``, with ``box_format="xyxy"``. A
        window beside the image has an empty box (0, 0, 0, 0).
        """
        x0, y0, x1, y1 = self.window
        height, width = self.resized
        left, right = max(0, x0), min(width, x1)
        top, bottom = max(0, y0), min(height, y1)
        if right <= left or bottom <= top:
            return 0, 0, 0, 0
        return left - x0, top - y0, right - x0, bottom - y0

    def flipped(self) -> View:
        """The view of the same crop mirrored left-right, for pipelines that mirror last (ToCo).

        Returns
        -------
        View
            Its ``box`` is mirrored as well.

        Examples
        --------
        >>> from dhr_refine.training import View
        >>> View.of((100, 120), window=(-10, 20, 54, 84)).flipped().box
        (0, 0, 54, 64)
        """
        # Mirroring a crop is the same as cutting the mirrored window from the mirrored image.
        x0, y0, x1, y1 = self.window
        width = self.resized[1]
        return replace(self, window=(width - x1, y0, width - x0, y1), flip=not self.flip)

    def crop(
        self,
        features: Tensor,
        size: tuple[int, int] | None = None,
        mode: Literal["bilinear", "nearest"] = "bilinear",
    ) -> Tensor:
        """Resample a map of the full image to what the crop shows.

        Parameters
        ----------
        features : Tensor, (D, h, w) or (1, D, h, w)
            Features, CAMs or a mask (1, H, W) of the full image; its cells cover the whole image in equal
            parts. Floating point unless ``mode`` is "nearest".
        size : (int, int), optional
            Cells of the result, which cover the crop. Default: as many as keep the resolution that
            ``features`` has on the scaled image, so that nothing is skipped.
        mode : {"bilinear", "nearest"}
            Interpolation between cell centres; "nearest" for labels. Neither averages: where ``size`` is
            much coarser than ``features``, leave it out and shrink the result.

        Returns
        -------
        Tensor, (D, u, v) or (1, D, u, v)
            On the device and in the dtype of ``features``; zeros where a cell's centre lies outside the
            image.

        Raises
        ------
        ValueError, TypeError
            ``features`` of another rank or type, or empty; an unknown ``mode``; a ``size`` below 1.
        """
        check_tensor(features, "features", "(D, h, w) or (1, D, h, w)", ndim=(3, 4), plain=False)
        check_choice(mode, "mode", ("bilinear", "nearest"))
        check_filled(features, "features")
        if features.ndim == 4 and features.shape[0] != 1:
            raise ValueError(
                f"features must be of one image, (D, h, w) or (1, D, h, w), got {describe(features)}: "
                "crop each image with its own view and stack the results"
            )
        if mode == "bilinear" and not features.is_floating_point():
            raise TypeError(
                f"features must be floating point, got {describe(features)}: call .float() on it, or pass "
                "mode='nearest' for labels"
            )
        if size is None:
            sides = [
                max(1, round(pixels * cells / whole))
                for pixels, cells, whole in zip(self.size, features.shape[-2:], self.resized)
            ]
        else:
            sides = read_ints(size, "size", "(rows, columns)", 1)
        height, width = self.resized
        rows = _centres(sides[0], self.size[0]) + self.window[1]
        columns = _centres(sides[1], self.size[1]) + self.window[0]
        if self.flip:
            columns = width - columns
        # Half precision is blended in float32.
        half = mode == "bilinear" and features.dtype in (torch.float16, torch.bfloat16)
        result = features.float() if half else features
        if mode == "nearest" and features.dtype != torch.bool and not features.dtype.is_floating_point:
            result = features if features.is_complex() else features.long()  # torch fills no uint16
        result = _sample(result, rows, height, -2, mode)
        return _sample(result, columns, width, -1, mode).to(features.dtype)


def _centres(cells: int, pixels: int) -> Tensor:
    """Centres of equal cells over a number of pixels, in pixels from the start."""
    return (torch.arange(cells, dtype=torch.float64, device="cpu") + 0.5) * (pixels / cells)


def _sample(values: Tensor, places: Tensor, pixels: int, axis: int, mode: str) -> Tensor:
    """Values along one axis, which covers a number of pixels, at places in pixels; zeros beyond."""
    length = values.shape[axis]
    inside = ((places > 0) & (places < pixels)).to(values.device)
    # Multiplied before it is divided: a place on the border of two cells stays on it, and rounds up.
    cells = places * length / pixels
    if mode == "nearest":
        index = cells.floor().long().clamp(0, length - 1).to(values.device)
        result = values.index_select(axis, index)
    else:
        centres = (cells - 0.5).clamp(0, length - 1)
        low = centres.floor()
        weight = (centres - low).to(values)
        index = low.long().to(values.device)
        above = (index + 1).clamp_max(length - 1)
        shape = [-1, 1] if axis == -2 else [-1]
        result = torch.lerp(
            values.index_select(axis, index), values.index_select(axis, above), weight.view(shape)
        )
    return result.masked_fill(~(inside[:, None] if axis == -2 else inside), 0)


def has_labels(masks: Tensor, ignore_index: int = 255) -> Tensor:
    """Tell which masks have a pixel to learn from; a batch without any gives a NaN cross-entropy.

    Parameters
    ----------
    masks : Tensor, (B, H, W)
        Masks of any dtype.
    ignore_index : int
        Label of pixels to ignore.

    Returns
    -------
    Tensor, (B,) bool
        True where a mask has a pixel other than ``ignore_index``; on the device of ``masks``.

    Raises
    ------
    ValueError, TypeError
        ``masks`` is no (B, H, W) tensor, ``ignore_index`` no whole number.

    Examples
    --------
    The mean over no pixel is NaN. Every rank must still run its backward pass under
    DistributedDataParallel, so do not skip the step, make its loss zero:

    >>> import torch
    >>> from dhr_refine.training import has_labels
    >>> logits = torch.zeros(1, 3, 4, 4, requires_grad=True)
    >>> masks = torch.full((1, 4, 4), 255)
    >>> loss = torch.nn.functional.cross_entropy(logits, masks, ignore_index=255)
    >>> has_labels(masks), loss.item()
    (tensor([False]), nan)
    >>> if not has_labels(masks).any():
    ...     loss = 0 * logits.sum()
    >>> loss.item()
    0.0
    """
    check_tensor(masks, "masks", "(B, H, W)", ndim=3, plain=False)
    check_ignore_index(ignore_index)
    return (exact_labels(masks) != ignore_index).flatten(1).any(dim=1)


class SplitLabels(NamedTuple):
    """Result of :func:`has_split_labels`."""

    background: Tensor
    """(B,) bool, whether a mask has a pixel of the background."""
    foreground: Tensor
    """(B,) bool, whether a mask has a pixel of any other label."""

    def __repr__(self) -> str:
        """Name the shapes, not the flags."""
        return show_shapes(self)


def has_split_labels(masks: Tensor, *, background: int = 0, ignore_index: int = 255) -> SplitLabels:
    """Tell which masks have background, and which have foreground, for losses that average over each.

    ToCo, AFA, WeCLIP and their relatives add the mean over the background pixels of a batch to the mean over
    its foreground pixels: NaN as soon as one of the two is empty, also where :func:`has_labels` is True.

    Parameters
    ----------
    masks : Tensor, (B, H, W)
        Masks of any dtype.
    background : int
        Label of the background.
    ignore_index : int
        Label of pixels to ignore.

    Returns
    -------
    SplitLabels
        ``background`` and ``foreground``, each (B,) bool on the device of ``masks``.

    Raises
    ------
    ValueError, TypeError
        ``masks`` is no (B, H, W) tensor, a label no whole number, or both labels are the same.

    Examples
    --------
    A batch that is foreground all over; the part of the loss that has no pixel is left out, with a gradient
    of zero:

    >>> import torch
    >>> from dhr_refine.training import has_split_labels
    >>> logits = torch.zeros(1, 3, 4, 4, requires_grad=True)
    >>> masks = torch.full((1, 4, 4), 2)
    >>> has = has_split_labels(masks)
    >>> has.background.any().item(), has.foreground.any().item()
    (False, True)
    >>> loss = 0 * logits.sum()
    >>> for part, pixels in ((has.background, masks == 0), (has.foreground, masks != 0)):
    ...     if part.any():
    ...         target = masks.masked_fill(~pixels, 255)
    ...         loss = loss + 0.5 * torch.nn.functional.cross_entropy(logits, target, ignore_index=255)
    >>> round(loss.item(), 4)
    0.5493
    """
    check_tensor(masks, "masks", "(B, H, W)", ndim=3, plain=False)
    check_ignore_index(ignore_index)
    if isinstance(background, bool) or not isinstance(background, Integral):
        raise TypeError(f"background must be an int, got {describe(background)}: pass the label, 0 mostly")
    if background == ignore_index:
        raise ValueError(
            f"background and ignore_index are both {background}: pass the label of the background, 0 mostly"
        )
    labels = exact_labels(masks)
    empty = labels == background
    foreground = ~(empty | (labels == ignore_index))
    return SplitLabels(empty.flatten(1).any(dim=1), foreground.flatten(1).any(dim=1))
