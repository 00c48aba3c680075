"""The dense CRF in plain torch operations: any device, batched over images of one size.

Sums over pixels are sums over sorted lists, never atomic additions, so results are reproducible.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..geometry import Geometry
from ..terms import Normalization, Term, around
from ..unary import LARGEST_ENERGY, log_probs

# A vertex may gather thousands of pixels: longer lists are summed in pieces, so that no thread of an
# accelerator is left with a long one.
_LIST = 64
# Channels filtered at a time: the values on the lattice take up to twice the memory of the channels.
_CHANNELS = 8
# Exponentials are added up in multiples of its inverse: a sum of whole numbers is exact in any order.
WHOLE = 2.0**36
# Numbers that the softmax works on at a time: what lies between stays in the cache.
_NUMBERS = 2**21


@dataclass(frozen=True)
class TorchKernel:
    """One kernel's lattice for a batch of images; pixels are numbered image last, ``(y * W + x) * B + b``."""

    corners: Tensor  # (pixels, d + 1) int32: vertices of each pixel
    weights: Tensor  # (pixels, d + 1) float32: barycentric weights times the normalisation
    pixels: Tensor  # int32: the pixels of each vertex, one list after the other
    pixel_weights: Tensor  # float32: their weights
    pieces: Tensor  # int32: start of each piece of a list in ``pixels``
    lists: Tensor  # (vertices,) int32: first piece of each vertex
    neighbours: Tensor  # (d + 1, 2, vertices) int32: on each axis; ``vertices`` where there is none
    scale: Tensor  # (pixels,) float32: this normalisation; empty: not kept
    gain: float

    @property
    def nbytes(self) -> int:
        """Memory of the tensors in bytes."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, Tensor))


def build_gaussian(geometry: Geometry, height: int, width: int, device: torch.device) -> TorchKernel:
    """Build the lattice of positions."""
    none = torch.zeros((1, 0, height, width), dtype=torch.uint8, device=device)
    return _build(geometry, none, keep_scale=True)


def build_bilateral(geometry: Geometry, images: Tensor) -> TorchKernel:
    """Build one lattice for all images; their vertices never meet."""
    return _build(geometry, images)


def build_features(geometry: Geometry, images: Tensor) -> TorchKernel:
    """Build one lattice that keeps its normalisation.

    Of images (B, C, H, W) or, where the geometry has no tables, of features (B, d, H, W) of float32 in units
    of their deviations.
    """
    return _build(geometry, images, keep_scale=True)


def _build(geometry: Geometry, images: Tensor, *, keep_scale: bool = False) -> TorchKernel:
    keys, weights = _embed(geometry, images)
    batch, cosets = images.shape[0], geometry.dimension + 1
    strides = torch.from_numpy(geometry.strides).to(images.device)
    if batch * cosets * geometry.cells >= 2**63:
        raise ValueError(
            f"a lattice of 2**{geometry.key_bits} cells is too fine for a batch of {batch} images: "
            "pass larger standard deviations, or fewer images at a time"
        )
    # One number per vertex of the batch: image, then coset, then key.
    group = torch.arange(batch, device=images.device)[:, None] * cosets
    group = group + torch.arange(cosets, device=images.device)
    phantoms = torch.from_numpy(geometry.phantom_keys(images.shape[2] * images.shape[3])).to(images.device)
    every = [(keys + group * geometry.cells).reshape(-1)]
    every += [(phantoms + group * geometry.cells).reshape(-1)] if len(phantoms) else []
    del keys
    # One sort gives the vertices and the pixels of each.
    ordered, order = torch.sort(torch.cat(every), stable=True)
    vertices, numbers, lengths = torch.unique_consecutive(ordered, return_inverse=True, return_counts=True)
    corners = torch.empty(len(order), dtype=torch.int32, device=images.device)
    corners.scatter_(0, order, numbers.int())
    del every, ordered, numbers
    count = len(vertices)
    # Along every axis, a vertex of remainder r has its neighbour among those of remainder r + 1.
    remainder = torch.div(vertices, geometry.cells, rounding_mode="floor") % cosets
    step = torch.where(remainder == cosets - 1, strides.sum() - (cosets - 1) * geometry.cells, geometry.cells)
    neighbours = torch.full((cosets, 2, count + 1), count, dtype=torch.int32, device=images.device)
    own = torch.arange(count, dtype=torch.int32, device=images.device)
    for axis in range(cosets):
        wanted = vertices + step - strides[axis]
        found = torch.searchsorted(vertices, wanted).clamp_(max=count - 1)
        found = torch.where(vertices[found] == wanted, found, count)
        neighbours[axis, 0, :count] = found.int()
        neighbours[axis, 1].scatter_(0, found, own)
    neighbours = neighbours[:, :, :count].contiguous()

    pieces_each, owner, within = cut_lists(lengths, _LIST)
    pieces = (lengths.cumsum(0) - lengths)[owner] + within
    # Phantoms are any pixel with a weight of zero.
    extra = weights.new_zeros(len(order) - weights.numel())
    kernel = TorchKernel(
        corners=corners[: weights.numel()].view_as(weights),
        weights=weights,
        pixels=torch.div(order, cosets, rounding_mode="floor").clamp_(max=len(weights) - 1).int(),
        pixel_weights=torch.cat([weights.view(-1), extra])[order],
        pieces=pieces.int(),
        lists=(pieces_each.cumsum(0) - pieces_each).int(),
        neighbours=neighbours,
        scale=weights.new_empty(0),
        gain=geometry.gain,
    )
    # Symmetric normalisation, folded into the weights of both splat and slice.
    ones = weights.new_ones((len(weights), 1))
    scale = (filter_values(kernel, ones) * geometry.gain + 1e-20).rsqrt_()
    kernel.weights.mul_(scale)
    kernel.pixel_weights.mul_(scale.squeeze(1)[kernel.pixels])
    return replace(kernel, scale=scale.squeeze(1)) if keep_scale else kernel


def cut_lists(lengths: Tensor, longest: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cut lists into pieces, at least one each: how many; the list of each piece, and its start in that."""
    number = torch.div(lengths + longest - 1, longest, rounding_mode="floor").clamp_(min=1)
    owner = torch.repeat_interleave(torch.arange(len(lengths), device=lengths.device), number)
    first = number.cumsum(0) - number
    return number, owner, (torch.arange(len(owner), device=lengths.device) - first[owner]) * longest


def _embed(geometry: Geometry, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return the keys of each pixel's vertices and the barycentric weights, both (pixels, d + 1)."""
    batch, channels, height, width = images.shape
    device, d = images.device, geometry.dimension
    tables = [torch.from_numpy(table).to(device) for table in geometry.tables]
    shape = (height, width, batch)
    parts = []
    if tables:  # else the channels are all there is
        rows = 0 if geometry.rows_first else 1
        parts = [tables[1 - rows][None, :, None].expand(shape)]
        parts.insert(rows, tables[rows][:, None, None].expand(shape))
    for channel in range(channels):
        values = images[:, channel].permute(1, 2, 0)
        if geometry.scales:
            by, times = torch.from_numpy(np.array(geometry.scales[channel])).to(device)
            parts.append(values / by * times)  # not by a number, which an accelerator takes the inverse of
        else:
            parts.append(tables[2 + channel][values.int()])
    # Step by step as the reference does it in float32: no fused or reordered sums.
    elevated = torch.empty((d + 1, height * width * batch), dtype=torch.float32, device=device)
    total = torch.zeros(elevated.shape[1], dtype=torch.float32, device=device)
    for j in range(d, 0, -1):
        part = parts[j - 1].reshape(-1)
        elevated[j] = total - part * j
        total = total + part
    elevated[0] = total
    del parts, total
    down = elevated.new_tensor(1.0) / (d + 1)
    rounded = (elevated * down).round_()
    off = rounded.sum(dim=0).to(torch.int8)  # small integers: exact in any order
    distance = elevated - rounded * (d + 1)
    # Small integers in bytes. The rank of a coordinate counts those above it, of equal ones the earlier.
    rank = torch.arange(d + 1, dtype=torch.int8, device=device)[:, None].repeat(1, elevated.shape[1])
    for i in range(d):
        for j in range(i + 1, d + 1):
            below = (distance[i] < distance[j]).view(torch.int8)
            rank[i] += below
            rank[j] -= below
    del distance
    # Back to the plane where the sum of the rounded coordinates is zero.
    rank += off
    shift = (rank < 0).view(torch.int8) - (rank > d).view(torch.int8)
    rank += shift * (d + 1)
    rounded += shift
    rest = (elevated - rounded * (d + 1)) * down
    order = rank.long()
    ranked = torch.empty_like(rest).scatter_(0, order, rest)
    strides = torch.from_numpy(geometry.strides).to(device)
    ranked_strides = torch.empty_like(order).scatter_(0, order, strides[:, None].expand_as(order))
    weights = torch.empty((elevated.shape[1], d + 1), dtype=torch.float32, device=device)
    keys = torch.empty_like(weights, dtype=torch.int64)
    keys[:, 0] = (rounded.long() * strides[:, None]).sum(dim=0) - geometry.origin
    weights[:, 0] = ranked[d] + (1 - ranked[0])
    for r in range(1, d + 1):
        weights[:, r] = ranked[d - r] - ranked[d + 1 - r]
        keys[:, r] = keys[:, r - 1] - ranked_strides[d + 1 - r]
    # (pixels of an image, B, d + 1): the caller tells the images apart.
    return keys.view(height * width, batch, d + 1), weights


def filter_values(kernel: TorchKernel, values: Tensor, *, backwards: bool = False) -> Tensor:
    """Splat, blur and slice (pixels, channels), without the gain; ``backwards`` is the transpose."""
    splat, weights = kernel.pixel_weights.to(values.dtype), kernel.weights.to(values.dtype)
    pieces = F.embedding_bag(kernel.pixels, values, kernel.pieces, mode="sum", per_sample_weights=splat)
    numbers = torch.arange(len(pieces), dtype=torch.int32, device=values.device)
    # One more row, always zero, stands for missing neighbours.
    lattice = values.new_zeros((len(kernel.lists) + 1, values.shape[1]))
    lattice[:-1] = F.embedding_bag(numbers, pieces, kernel.lists, mode="sum")
    for after, before in kernel.neighbours.flip(0) if backwards else kernel.neighbours:
        near = lattice.index_select(0, after)
        near += lattice.index_select(0, before)
        lattice[:-1].add_(near, alpha=0.5)
    return F.embedding_bag(kernel.corners, lattice, mode="sum", per_sample_weights=weights)


def filter_with(
    kernel: TorchKernel, values: Tensor, normalization: Normalization, *, backwards: bool = False
) -> Tensor:
    """Filter (pixels, channels), a few at a time; ``backwards``: the transpose, normalisation included."""
    before, after = (
        None if power == 0 else kernel.scale.to(values.dtype)[:, None] ** power
        for power in around(normalization, backwards=backwards)
    )
    result = torch.empty_like(values)
    for start in range(0, values.shape[1], _CHANNELS):
        part = values[:, start : start + _CHANNELS]
        part = part.contiguous() if before is None else part * before
        part = filter_values(kernel, part, backwards=backwards).mul_(kernel.gain)
        result[:, start : start + _CHANNELS] = part if after is None else part.mul_(after)
    return result


def softmax_(logits: Tensor) -> Tensor:
    """Softmax of each row (n, K) in place, to the last bit the same wherever a class stands in the row.

    Mean field can amplify the least difference until a tie between classes is decided by their order.
    """
    for part in logits.split(max(_NUMBERS // logits.shape[1], 1)):
        part.sub_(part.amax(dim=1, keepdim=True)).exp_().mul_(WHOLE)
        part.div_(part.long().sum(dim=1, keepdim=True))
    return logits


def mean_field(
    bilateral: TorchKernel,
    gaussian: TorchKernel,
    probs: Tensor,
    *,
    iterations: int,
    compat: float,
    gauss_compat: float,
) -> Tensor:
    """Run mean field inference from probabilities (B, K, H, W) (see unary.py)."""
    batch, classes, height, width = probs.shape
    # Row by row in memory: from a single column that is not, embedding_bag adds up in another way.
    energy = log_probs(probs).permute(2, 3, 0, 1).contiguous().view(-1, classes)
    probs = softmax_(energy.clone())
    blocks = range(0, classes, -(-classes // -(-classes // _CHANNELS)))  # of equal width
    for _ in range(iterations):
        for start in blocks:
            block = slice(start, min(start + blocks.step, classes))
            part = probs[:, block].contiguous()
            message = filter_values(bilateral, part).mul_(bilateral.gain * compat)
            # All images share the positions: one filter over the channels of all.
            shared = filter_values(gaussian, part.view(-1, batch * part.shape[1]))
            message.add_(shared.view_as(part), alpha=gaussian.gain * gauss_compat)
            torch.add(message, energy[:, block], out=probs[:, block])  # read for the last time above
        softmax_(probs)
    return probs.view(height, width, batch, classes).permute(2, 3, 0, 1).contiguous()


def mean_field_terms(
    energies: Tensor, terms: Sequence[Term], *, iterations: int, start: Tensor | None
) -> Tensor:
    """Run mean field inference from the energies (pixels, K) of one image, or go on from ``start``."""
    logits = energies.neg().clamp_(-LARGEST_ENERGY, LARGEST_ENERGY)
    terms = [term._replace(compat=_on_device(term, energies)) for term in terms]  # moved once for all rounds
    probs = softmax_(logits.clone()) if start is None else start
    for _ in range(iterations):
        probs = softmax_(logits - pairwise(probs, terms))
    return probs


def pairwise(probs: Tensor, terms: Sequence[Term]) -> Tensor:
    """Energies (pixels, K) that the terms add for probabilities."""
    total = torch.zeros_like(probs)
    for term in terms:
        message = filter_with(term.kernel, probs, term.normalization)
        compat = _on_device(term, probs)
        if compat.ndim == 2:
            total.addmm_(message, compat.T)
        else:
            total.addcmul_(message, -compat if compat.ndim == 0 else compat)
    return total


def _on_device(term: Term, beside: Tensor) -> Tensor:
    """The weights of a term beside the numbers that they meet."""
    return torch.as_tensor(term.compat, dtype=beside.dtype, device=beside.device)
