"""Segments of an image, in whatever form they come, as lists of pixels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import describe, read_ints
from .rle import decode_rle

# Entries of a list of pixels, 8 bytes each.
_MOST_ENTRIES = 2**28


@dataclass(frozen=True, eq=False, repr=False)
class Segments:
    """Segments of one image, which may overlap, lie in each other and leave pixels out.

    Kept as the pixels of one segment after the other, so that memory grows with the pixels that segments
    cover and not with their number times the image.
    """

    pixels: Tensor
    """(N,) int64 positions, row by row from the upper left corner."""
    lengths: Tensor
    """(M,) int64 number of pixels of each segment, 0 for none."""
    size: tuple[int, int]
    """(H, W) of the image."""

    def __len__(self) -> int:
        """Number of segments."""
        return len(self.lengths)

    def __repr__(self) -> str:
        """Say how many there are and how much they cover."""
        covered = len(self.pixels.unique()) / (self.size[0] * self.size[1])
        return (
            f"Segments: {len(self)} of {self.size[0]} x {self.size[1]}, {covered:.0%} of the pixels covered"
        )

    def owners(self) -> Tensor:
        """(N,) int64 number of the segment of each entry of ``pixels``."""
        return torch.repeat_interleave(
            torch.arange(len(self), device=self.lengths.device), self.lengths, output_size=len(self.pixels)
        )

    def to(self, device: torch.device | str) -> Segments:
        """Move the segments to a device.

        Parameters
        ----------
        device : device or str
            Where ``pixels`` and ``lengths`` are to be.

        Returns
        -------
        Segments
        """
        return Segments(self.pixels.to(device), self.lengths.to(device), self.size)

    def masks(self) -> Tensor:
        """(M, H, W) bool, a mask for each segment."""
        result = torch.zeros(len(self), self.size[0] * self.size[1], dtype=torch.bool)
        result[self.owners().cpu(), self.pixels.cpu()] = True
        return result.view(len(self), *self.size)

    def cut(self, box: tuple[int, int, int, int]) -> Segments:
        """Cut out the parts inside a box, as segments of the crop.

        Parameters
        ----------
        box : 4 ints
            x0, y0, x1, y1 in pixels, ends exclusive.

        Returns
        -------
        Segments
            As many, some perhaps without a pixel.
        """
        x0, y0, x1, y1 = box
        rows = self.pixels.div(self.size[1], rounding_mode="floor") - y0
        columns = self.pixels % self.size[1] - x0
        inside = (rows >= 0) & (rows < y1 - y0) & (columns >= 0) & (columns < x1 - x0)
        return self._take(inside, rows * (x1 - x0) + columns, (y1 - y0, x1 - x0))

    def keep(self, known: Tensor) -> Segments:
        """Leave out what lies on unknown pixels.

        Parameters
        ----------
        known : Tensor, (H, W) bool
            True for the pixels to keep.

        Returns
        -------
        Segments
            As many, some perhaps without a pixel.
        """
        return self._take(known.flatten()[self.pixels], self.pixels, self.size)

    def resize(self, size: tuple[int, int]) -> Segments:
        """Bring the segments to another size, by the nearest pixel.

        Parameters
        ----------
        size : (H, W)
            Two whole numbers above 0.

        Returns
        -------
        Segments

        Raises
        ------
        ValueError, TypeError
            ``size`` is no pair of whole numbers above 0.
        """
        size = read_ints(size, "size", "(H, W)", 1)
        if size == self.size:
            return self
        rows, columns = (
            (2 * torch.arange(new, device=self.pixels.device) + 1) * old // (2 * new)
            for new, old in zip(size, self.size)
        )
        source = (rows[:, None] * self.size[1] + columns).flatten()
        # Each old pixel becomes the new ones that look at it, which lie together once they are sorted.
        order = source.argsort(stable=True)
        counts = torch.bincount(source, minlength=self.size[0] * self.size[1])
        copies, first = counts[self.pixels], (counts.cumsum(0) - counts)[self.pixels]
        within = torch.arange(int(copies.sum()), device=source.device)
        within -= torch.repeat_interleave(copies.cumsum(0) - copies, copies)
        pixels = order[torch.repeat_interleave(first, copies) + within]
        lengths = torch.zeros_like(self.lengths).index_add_(0, self.owners(), copies)
        return Segments(pixels, lengths, size)

    def _take(self, chosen: Tensor, pixels: Tensor, size: tuple[int, int]) -> Segments:
        lengths = torch.zeros_like(self.lengths).index_add_(0, self.owners()[chosen], chosen[chosen].long())
        return Segments(pixels[chosen], lengths, size)


SegmentsLike = (
    Segments | Tensor | np.ndarray | Mapping[str, Any] | Sequence[Tensor | np.ndarray | Mapping[str, Any]]
)
"""Segments of one image as people hold them, see :func:`as_segments`."""


def sum_runs(values: Tensor, lengths: Tensor) -> Tensor:
    """Sums (M,) of values (N,) that lie one run after the other, in one order on every device."""
    if not len(lengths):
        return values.new_zeros(0)
    return torch.segment_reduce(values, "sum", lengths=lengths)


def as_segments(value: SegmentsLike, name: str = "segments") -> Segments:
    """Take the segments of one image in the forms that people hold.

    Parameters
    ----------
    value : Segments, Tensor, array or list
        Masks (M, H, W), bool or with 0 and one other number, or one (H, W) bool; a label map (H, W) of whole
        numbers, 0 or less where there is no segment (those of scikit-image's ``felzenszwalb`` start at 0: add
        1); a list of masks (H, W), of COCO's run lengths ``{"size", "counts"}``, or of dictionaries with one
        of both under "segmentation", as ``SamAutomaticMaskGenerator`` returns; a file of SA-1B, loaded.
    name : str
        What errors call it.

    Returns
    -------
    Segments

    Raises
    ------
    TypeError, ValueError
        It is none of these, or its parts do not fit each other.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine.sam import as_segments
    >>> as_segments(torch.tensor([[0, 1, 1], [2, 2, 1]])).lengths.tolist()
    [3, 2]
    >>> as_segments([{"segmentation": {"size": [2, 3], "counts": [1, 1, 4]}}]).masks().int().tolist()
    [[[0, 0, 0], [1, 0, 0]]]
    """
    if isinstance(value, Segments):
        return value
    if isinstance(value, (Tensor, np.ndarray)):
        return _of_array(_plain(value, name), name)
    if isinstance(value, Mapping):
        value = value.get("annotations", [value])  # as in the files of SA-1B
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise TypeError(
            f"{name} must be masks (M, H, W), a label map (H, W) or a list of COCO run lengths, got "
            f"{describe(value)}: pass one of them, or read a file with read_segments"
        )
    if not value:
        raise ValueError(
            f"{name} is an empty list, which does not tell the size of the image: pass a label map of zeros"
        )
    return join_segments((_of_entry(entry, f"{name}[{number}]") for number, entry in enumerate(value)), name)


def join_segments(parts: Iterable[tuple[np.ndarray, tuple[int, int]]], name: str) -> Segments:
    """Segments one after the other, each as its pixels and the size of the image."""
    pixels: list[np.ndarray] = []
    total, first = 0, None
    for number, (own, size) in enumerate(parts):
        first = first or size
        if size != first:
            raise ValueError(
                f"{name}[{number}] is of an image of {size} but {name}[0] of {first}: pass the segments of "
                "one image"
            )
        total += own.size
        _check_room(total, name)
        pixels.append(own)
    assert first is not None
    lengths = torch.tensor([own.size for own in pixels], dtype=torch.long)
    return Segments(torch.from_numpy(np.concatenate(pixels)), lengths, first)


def _check_room(entries: int, name: str) -> None:
    if entries > _MOST_ENTRIES:
        raise ValueError(
            f"{name} cover more than {_MOST_ENTRIES} pixels, each counted once for every segment on it: "
            "leave segments out, or make them of a smaller image"
        )


def _plain(value: Tensor | np.ndarray, name: str) -> np.ndarray:
    came = describe(value)
    if isinstance(value, Tensor):
        if value.layout != torch.strided or value.is_meta or value.is_quantized or value.is_complex():
            raise TypeError(f"{name} must hold whole numbers, got {came}: pass a plain tensor")
        value = value.detach().cpu()
        value = (value.float() if value.is_floating_point() and value.dtype.itemsize < 4 else value).numpy()
    if value.dtype.kind not in "biuf":
        raise TypeError(f"{name} must hold whole numbers, got {came}: pass masks or a label map")
    if value.ndim not in (2, 3) or 0 in value.shape[-2:]:
        raise ValueError(
            f"{name} must be masks (M, H, W) or a label map (H, W), got {came}: pass one of them"
        )
    if value.dtype.kind == "f" and not np.array_equal(value, np.rint(value)):
        raise ValueError(f"{name} holds fractions or NaN, got {came}: threshold it first")
    return value


def _of_array(array: np.ndarray, name: str) -> Segments:
    if array.ndim == 2 and array.dtype.kind != "b":
        return _of_labels(array)
    masks = array if array.ndim == 3 else array[None]
    size = (masks.shape[1], masks.shape[2])
    if not len(masks):
        return Segments(torch.zeros(0, dtype=torch.long), torch.zeros(0, dtype=torch.long), size)
    return join_segments(
        ((_of_mask(mask, f"{name}[{number}]"), size) for number, mask in enumerate(masks)), name
    )


def _of_labels(labels: np.ndarray) -> Segments:
    """Segments of a label map, in the order of their labels."""
    flat = labels.ravel()
    order = flat.argsort(kind="stable")
    order = order[np.searchsorted(flat[order], 0, side="right") :]
    lengths = np.unique(flat[order], return_counts=True)[1]
    size = (labels.shape[0], labels.shape[1])
    return Segments(torch.from_numpy(order), torch.from_numpy(lengths.astype(np.int64)), size)


def _of_mask(mask: np.ndarray, name: str) -> np.ndarray:
    """The pixels of a mask (H, W) of 0 and one other number."""
    pixels = np.flatnonzero(mask)
    values = mask.ravel()[pixels]
    if pixels.size and (values != values[0]).any():
        raise ValueError(
            f"{name} must be a mask of 0 and one other number, got {np.unique(values)[:4].tolist()} beside 0:"
            " pass a label map as (H, W), not in a list or stack"
        )
    return pixels


def _of_entry(entry: Any, name: str) -> tuple[np.ndarray, tuple[int, int]]:
    """One segment of a list."""
    if isinstance(entry, Mapping) and "segmentation" in entry:
        entry, name = entry["segmentation"], f"{name}['segmentation']"
    if isinstance(entry, Mapping):
        return decode_rle(entry, name)
    if isinstance(entry, (Tensor, np.ndarray)):
        mask = _plain(entry, name)
        if mask.ndim == 2:
            return _of_mask(mask, name), (mask.shape[0], mask.shape[1])
    raise TypeError(
        f"{name} must be a mask (H, W) or COCO's run lengths, got {describe(entry)}: pass one of them; "
        "polygons become masks with pycocotools"
    )


def check_each(value: Any, count: int, name: str = "segments") -> Any:
    """Segments as they came, if they are one entry for each of ``count`` images."""
    if not isinstance(value, (Tensor, np.ndarray, Sequence)) or isinstance(value, (str, bytes)):
        raise TypeError(
            f"{name} must have an entry for each of the {count} images, got {describe(value)}: pass a list"
        )
    if len(value) != count:
        raise ValueError(
            f"{name} has {len(value)} entries but there are {count} images: pass the segments of every image"
        )
    return value
