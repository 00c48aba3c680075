"""The dense CRF on a CUDA device in fused Triton kernels, on the lattices that the torch backend builds.

Lists of pixels are summed in a fixed order and in pieces, never by atomic additions: results are
reproducible, and no thread is left with a long list.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ...geometry import Geometry
from ...unary import NOWHERE, log_probs
from .. import torch as torch_backend
from ..torch import TorchKernel

# Terms that one thread adds up.
_PIECE = 32
# Pieces of like length lie side by side: the threads of a warp wait for the longest. Sorted within stretches
# of this many, so that what they read stays close together.
_STRETCH = 1024
# Rows of channels are padded to what one load can move.
_LOAD = 4
# Each thread of a block moves one such load of one row: more rows, and the numbers of their vertices change
# hands between threads, through shared memory and barriers.
_WARPS = 4
_BLOCK = 32 * _WARPS * _LOAD


@dataclass(frozen=True)
class Pieces:
    """Sums over parts of lists: ``begin`` to ``end`` of the terms go to the row ``target``; all int32."""

    begin: Tensor
    end: Tensor
    target: Tensor


@dataclass(frozen=True)
class TritonKernel:
    """One kernel's lattice; of a batch, numbering pixels and vertices image by image, or of one image."""

    corners: Tensor  # (d + 1, pixels) int32: vertices of each pixel
    weights: Tensor  # (d + 1, pixels) float32: barycentric weights times the normalisation
    pixels: Tensor  # int32: the pixels of each vertex, one list after the other
    pixel_weights: Tensor  # float32: their weights
    levels: tuple[Pieces, ...]  # the first sums pixels, each further one the sums of the one before
    rows: int  # vertices, and behind them the sums of parts of lists
    neighbours: Tensor  # (d + 1, 2, vertices) int32: on each axis; ``vertices`` where there is none
    gain: float

    @property
    def nbytes(self) -> int:
        """Memory of the tensors in bytes."""
        pieces = [value for level in self.levels for value in vars(level).values()]
        every = [*vars(self).values(), *pieces]
        return sum(value.nbytes for value in every if isinstance(value, Tensor))


def build_gaussian(geometry: Geometry, height: int, width: int, device: torch.device) -> TritonKernel:
    """Build the lattice of positions."""
    return _convert(torch_backend.build_gaussian(geometry, height, width, device), 1)


def build_bilateral(geometry: Geometry, images: Tensor) -> TritonKernel:
    """Build one lattice for all images; their vertices never meet."""
    return _convert(torch_backend.build_bilateral(geometry, images), len(images))


def _convert(kernel: TorchKernel, batch: int) -> TritonKernel:
    """Number pixels image first, so that neighbouring threads work on neighbouring pixels."""
    corners = kernel.corners.shape[1]
    pixels = kernel.corners.shape[0] // max(batch, 1)

    def by_corner(values: Tensor) -> Tensor:
        return values.view(pixels, batch, corners).permute(2, 1, 0).contiguous().view(corners, -1)

    starts = kernel.pieces.index_select(0, kernel.lists).long()
    levels = tuple(_levels(torch.diff(starts, append=starts.new_full((1,), len(kernel.pixels)))))
    return TritonKernel(
        corners=by_corner(kernel.corners),
        weights=by_corner(kernel.weights),
        pixels=kernel.pixels % batch * pixels + torch.div(kernel.pixels, batch, rounding_mode="floor"),
        pixel_weights=kernel.pixel_weights,
        levels=levels,
        rows=sum(len(level.target) for level in levels),  # each sum has its own
        neighbours=kernel.neighbours,
        gain=kernel.gain,
    )


def _levels(lengths: Tensor) -> Iterator[Pieces]:
    """Cut lists of these lengths, one after the other, into pieces, and the sums of those likewise."""
    rows = len(lengths)
    owners = torch.arange(rows, device=lengths.device)  # rows that the lists' sums belong in
    starts = lengths.cumsum(0) - lengths
    while len(owners):
        number, of_list, within = torch_backend.cut_lists(lengths, _PIECE)
        begin = starts[of_list] + within
        end = torch.minimum(begin + _PIECE, (starts + lengths)[of_list])
        # Lists of one piece are done; the sums of the others lie behind all rows so far.
        parts = (number > 1)[of_list]
        target = torch.where(parts, rows + parts.cumsum(0) - 1, owners[of_list])
        stretch = torch.arange(len(begin), device=begin.device).div_(_STRETCH, rounding_mode="floor")
        alike = torch.argsort(stretch * (_PIECE + 1) + end - begin)
        yield Pieces(begin[alike].int(), end[alike].int(), target[alike].int())
        owners, lengths = owners[number > 1], number[number > 1]
        starts = rows + lengths.cumsum(0) - lengths
        rows += int(parts.sum())


def mean_field(
    bilateral: TritonKernel,
    gaussian: TritonKernel,
    probs: Tensor,
    *,
    iterations: int,
    compat: float,
    gauss_compat: float,
) -> Tensor:
    """Run mean field inference from probabilities (B, K, H, W) (see unary.py)."""
    batch, classes, height, width = probs.shape
    pixels = height * width
    channels = padded(classes)
    energy = probs.new_full((batch, pixels, channels), NOWHERE)  # classes that pad have a probability of 0
    energy[:, :, :classes] = log_probs(probs).flatten(2).transpose(1, 2)
    result = torch_backend.softmax_(energy.view(-1, channels).clone()).view_as(energy)
    # A lattice's values twice: each blur reads the one and writes the other.
    own = result.new_empty((2, 1, bilateral.rows, channels))
    shared = result.new_empty((2, batch, gaussian.rows, channels))
    grid, blocks, options = _launch(pixels, batch, channels)
    with _on(probs.device):
        for _ in range(iterations):
            _kernels().slice_and_normalise[grid](
                _splat_and_blur(bilateral, result, own), _splat_and_blur(gaussian, result, shared),
                energy, bilateral.corners, bilateral.weights, gaussian.corners, gaussian.weights, result,
                pixels, batch * pixels, gaussian.rows,
                float(bilateral.gain * compat), float(gaussian.gain * gauss_compat), blocks,
                CORNERS=len(bilateral.corners), SHARED=len(gaussian.corners), **options,
            )  # fmt: skip
    return result[:, :, :classes].transpose(1, 2).reshape(probs.shape)


def padded(classes: int) -> int:
    """Channels of a row, the last of them for no class."""
    return -(-classes // _LOAD) * _LOAD


def _splat_and_blur(kernel: TritonKernel, probs: Tensor, buffers: Tensor) -> Tensor:
    """Sum (B, pixels, channels) at the vertices and blur; buffers (2, images sharing it, rows, channels)."""
    _, images, rows, channels = buffers.shape
    source, target = buffers[0], buffers[1]
    for number, level in enumerate(kernel.levels):
        pixels = number == 0
        values, value_rows = (probs, probs.shape[1]) if pixels else (source, rows)
        grid, blocks, options = _launch(len(level.target), images, channels)
        _kernels().sum_pieces[grid](
            values, kernel.pixels, kernel.pixel_weights, level.begin, level.end, level.target, source,
            len(level.target), value_rows, rows, blocks, LISTED=pixels, **options,
        )  # fmt: skip
    vertices = kernel.neighbours.shape[2]
    for axis in range(len(kernel.neighbours)):
        grid, blocks, options = _launch(vertices, images, channels)
        _kernels().blur[grid](source, kernel.neighbours, target, vertices, axis, rows, blocks, **options)
        source, target = target, source
    return source


def _launch(rows: int, images: int, channels: int) -> tuple[tuple[int], int, dict[str, Any]]:
    """Grid, blocks of an image and options of a kernel that works on each row of channels once."""
    lanes = 1 << (channels - 1).bit_length()
    block = max(_BLOCK // lanes, 1)
    blocks = -(-rows // block)
    # Along one axis, the only one of a grid that may be longer than 65,535.
    return (
        (blocks * images,),
        blocks,
        {
            "CHANNELS": channels,
            "LANES": lanes,
            "BLOCK": block,
            "num_warps": _WARPS,
            # A product and a sum rounded once: said aloud, because Triton's default changes between versions.
            "enable_fp_fusion": True,
        },
    )


@cache
def _kernels() -> Any:
    """Import the kernels, and Triton with them; no type checker can read their language."""
    return importlib.import_module(".kernels", __package__)


def _on(device: torch.device) -> AbstractContextManager[Any]:
    """Triton launches on the current device."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
