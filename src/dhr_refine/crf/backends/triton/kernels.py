# type: ignore  # Triton's language, in Python's grammar only
"""Triton kernels of the dense CRF (launch.py says when they run).

What plain torch operations do with a dozen passes over memory is here one pass each: the sums of the pixels
at the vertices, the blur along one axis, and reading the vertices back up to the softmax. The channels of a
pixel or vertex lie side by side, ``CHANNELS`` in a row, so that one wide load moves several; ``LANES`` is the
next power of two, and a program works on ``BLOCK`` rows. Where the images of a batch share one lattice, the
programs of one image follow those of the image before, ``blocks`` each. Sizes are arguments that Triton must
not specialise on: every image size would compile anew.
"""

import triton
import triton.language as tl

from ...unary import NOWHERE
from ..torch import WHOLE

# Terms that a thread asks memory for at a time.
_AHEAD = tl.constexpr(4)
_NOWHERE, _WHOLE = tl.constexpr(NOWHERE), tl.constexpr(WHOLE)


@triton.jit(do_not_specialize=["pieces", "value_rows", "out_rows", "blocks"])
def sum_pieces(
    values, members, weights, begins, ends, targets, out,
    pieces, value_rows, out_rows, blocks,
    LISTED: tl.constexpr, CHANNELS: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add up pieces of lists: weighted rows of ``values`` named by ``members``, or rows side by side."""
    piece = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, LANES)[None, :]
    image = (tl.program_id(0) // blocks).to(tl.int64)
    values += image * value_rows * CHANNELS
    out += image * out_rows * CHANNELS
    real = piece < pieces
    begin = tl.load(begins + piece, mask=real, other=0)
    end = tl.load(ends + piece, mask=real, other=0)
    total = tl.zeros((BLOCK, LANES), dtype=tl.float32)
    for start in range(0, tl.max(end - begin), _AHEAD):
        for ahead in tl.static_range(_AHEAD):
            term = begin + start + ahead
            there = term < end
            row = term
            if LISTED:
                row = tl.load(members + term, mask=there, other=0)
            at = row.to(tl.int64)[:, None] * CHANNELS + lane
            part = tl.load(values + at, mask=there[:, None] & (lane < CHANNELS), other=0.0)
            if LISTED:
                part *= tl.load(weights + term, mask=there, other=0.0)[:, None]
            total += part
    target = tl.load(targets + piece, mask=real, other=0).to(tl.int64)
    tl.store(out + target[:, None] * CHANNELS + lane, total, mask=real[:, None] & (lane < CHANNELS))


@triton.jit(do_not_specialize=["vertices", "axis", "rows", "blocks"])
def blur(
    values, neighbours, out, vertices, axis, rows, blocks,
    CHANNELS: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Add half of the two neighbours on an axis to each vertex."""
    vertex = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, LANES)[None, :]
    start = (tl.program_id(0) // blocks).to(tl.int64) * rows * CHANNELS
    real = vertex < vertices
    neighbours += axis.to(tl.int64) * 2 * vertices
    after = tl.load(neighbours + vertex, mask=real, other=vertices)[:, None]
    before = tl.load(neighbours + vertices + vertex, mask=real, other=vertices)[:, None]
    own = real[:, None] & (lane < CHANNELS)
    at = vertex.to(tl.int64)[:, None] * CHANNELS + lane
    near = tl.load(
        values + start + after.to(tl.int64) * CHANNELS + lane, mask=own & (after < vertices), other=0.0
    )
    near += tl.load(
        values + start + before.to(tl.int64) * CHANNELS + lane, mask=own & (before < vertices), other=0.0
    )
    here = tl.load(values + start + at, mask=own, other=0.0)
    tl.store(out + start + at, here + 0.5 * near, mask=own)


@triton.jit(do_not_specialize=["pixels", "all_pixels", "shared_rows", "scale", "shared_scale", "blocks"])
def slice_and_normalise(
    values, shared_values, energy, corners, weights, shared_corners, shared_weights, out,
    pixels, all_pixels, shared_rows, scale, shared_scale, blocks,
    CORNERS: tl.constexpr, SHARED: tl.constexpr,
    CHANNELS: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Read both lattices at the pixels, add the unary and take the softmax over the channels."""
    pixel = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    lane = tl.arange(0, LANES)[None, :]
    image = (tl.program_id(0) // blocks).to(tl.int64)
    real = pixel < pixels
    inside = real[:, None] & (lane < CHANNELS)
    number = image * pixels + pixel
    message = tl.zeros((BLOCK, LANES), dtype=tl.float32)
    for corner in tl.static_range(CORNERS):
        entry = corner * all_pixels.to(tl.int64) + number
        vertex = tl.load(corners + entry, mask=real, other=0).to(tl.int64)[:, None]
        weight = tl.load(weights + entry, mask=real, other=0.0)[:, None]
        message += weight * tl.load(values + vertex * CHANNELS + lane, mask=inside, other=0.0)
    shared = tl.zeros((BLOCK, LANES), dtype=tl.float32)
    shared_values += image * shared_rows * CHANNELS
    for corner in tl.static_range(SHARED):
        entry = corner * pixels.to(tl.int64) + pixel
        vertex = tl.load(shared_corners + entry, mask=real, other=0).to(tl.int64)[:, None]
        weight = tl.load(shared_weights + entry, mask=real, other=0.0)[:, None]
        shared += weight * tl.load(shared_values + vertex * CHANNELS + lane, mask=inside, other=0.0)
    at = number[:, None] * CHANNELS + lane
    # Lanes beyond the channels lie as far down as classes that take no part.
    logits = tl.load(energy + at, mask=inside, other=_NOWHERE) + scale * message + shared_scale * shared
    parts = tl.exp(logits - tl.max(logits, axis=1)[:, None]) * _WHOLE
    # In whole numbers, whose sum does not depend on the order of the classes.
    total = tl.sum(parts.to(tl.int64), axis=1).to(tl.float32)
    tl.store(out + at, parts / total[:, None], mask=inside)
