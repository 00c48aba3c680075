"""Placing pixels: the simplex of each, as the keys of its vertices and the pixel's barycentric weights.

A group of pixels goes through the steps of Adams et al. (2010) side by side: from scaled features to a
point of the lattice's plane (d + 1 coordinates whose sum is zero), to the nearest point of remainder 0, to
the order of the differences between the two, to the vertices.
"""

from __future__ import annotations

import numpy as np

from dhr_refine.compiled import simd
from dhr_refine.compiled.jit import compiled

from .tiles import tile_box

_GROUP = 16  # pixels placed together
_TAG = (0,) * _GROUP


@compiled
def scratch_size(corners):
    """Numbers of working memory that :func:`place_tile` takes."""
    return 6 * len(corners) * _GROUP


@compiled
def _elevate(features, rest, corners):
    """Coordinates of pixels in the lattice's plane, left in ``rest``, from their scaled features."""
    sum_ = simd.fill(np.float32(0), _TAG)
    for j in range(len(corners) - 1, 0, -1):
        part = simd.load(features, (j - 1) * _GROUP, _TAG)
        scale = simd.fill(np.float32(j), _TAG)
        simd.store(rest, j * _GROUP, simd.sub(sum_, simd.mul(scale, part)))
        sum_ = simd.add(sum_, part)
    simd.store(rest, 0, sum_)


@compiled
def _rank(rest, rounded, rank, corners):
    """Round coordinates to multiples of d + 1, and count for each difference those that are larger.

    Leaves the rounded coordinates, divided by d + 1, in ``rounded``, and the counts in ``rank``. Returns the
    sum of the rounded coordinates, which may not be zero yet.
    """
    d1 = len(corners)
    zero, one = simd.fill(np.float32(0), _TAG), simd.fill(np.float32(1), _TAG)
    up, down = simd.fill(np.float32(d1), _TAG), simd.fill(np.float32(1) / np.float32(d1), _TAG)
    magic = simd.fill(np.float32(12582912), _TAG)  # 1.5 * 2**23: adding it rounds half to even
    off = zero
    for i in range(d1):
        value = simd.load(rest, i * _GROUP, _TAG)
        near = simd.sub(simd.add(simd.mul(down, value), magic), magic)
        off = simd.add(off, near)
        simd.store(rounded, i * _GROUP, near)
        simd.store(rank, i * _GROUP, zero)
    for i in range(d1 - 1):
        near = simd.mul(simd.load(rounded, i * _GROUP, _TAG), up)
        distance = simd.sub(simd.load(rest, i * _GROUP, _TAG), near)
        place = simd.load(rank, i * _GROUP, _TAG)
        for j in range(i + 1, d1):
            near = simd.mul(simd.load(rounded, j * _GROUP, _TAG), up)
            before = simd.less(distance, simd.sub(simd.load(rest, j * _GROUP, _TAG), near))
            place = simd.add(place, before)
            other = simd.load(rank, j * _GROUP, _TAG)
            simd.store(rank, j * _GROUP, simd.add(other, simd.sub(one, before)))
        simd.store(rank, i * _GROUP, place)
    return off


@compiled
def _return_to_plane(rest, rounded, rank, off, corners):
    """Move rounded coordinates from a sum ``off`` to zero; keep the differences, over d + 1, in ``rest``."""
    d1 = len(corners)
    zero, one = simd.fill(np.float32(0), _TAG), simd.fill(np.float32(1), _TAG)
    up, down = simd.fill(np.float32(d1), _TAG), simd.fill(np.float32(1) / np.float32(d1), _TAG)
    for i in range(d1):
        place = simd.add(simd.load(rank, i * _GROUP, _TAG), off)
        shift = simd.sub(simd.less(place, zero), simd.sub(one, simd.less(place, up)))
        near = simd.add(simd.load(rounded, i * _GROUP, _TAG), shift)
        simd.store(rank, i * _GROUP, simd.add(place, simd.mul(shift, up)))
        simd.store(rounded, i * _GROUP, near)
        far = simd.sub(simd.load(rest, i * _GROUP, _TAG), simd.mul(near, up))
        simd.store(rest, i * _GROUP, simd.mul(far, down))


@compiled
def _order(rest, rank, steps, shares, corners):
    """Find the axis from each vertex to the next one, and the barycentric weights, from ranks.

    Vertex r lies one step from vertex r - 1 along the axis of rank d + 1 - r.
    """
    d1 = len(corners)
    zero, one = simd.fill(np.float32(0), _TAG), simd.fill(np.float32(1), _TAG)
    previous, first = zero, zero
    for place in range(d1):
        wanted = simd.fill(np.float32(place), _TAG)
        far, axis = zero, zero
        for i in range(d1):
            own = simd.load(rank, i * _GROUP, _TAG)
            far = simd.where_equal(own, wanted, simd.load(rest, i * _GROUP, _TAG), far)
            axis = simd.where_equal(own, wanted, simd.fill(np.float32(i), _TAG), axis)
        if place == 0:
            first = simd.sub(one, far)
        else:
            simd.store(steps, (d1 - place) * _GROUP, axis)
            simd.store(shares, (d1 - place) * _GROUP, simd.sub(previous, far))
        previous = far
    simd.store(shares, 0, simd.add(previous, first))


@compiled
def place_tile(
    corners, tile, height, width, given, image, columns, rows, levels, strides, origin, weights, keys, scratch
):
    """Find the vertices of a tile's pixels: their keys (pixels, d + 1) and their weights.

    Their scaled features are ``given`` (d, pixels), or None: then ``columns``, ``rows`` and ``levels`` hold
    them by position and by grey level of the image. ``scratch`` is working memory. Returns where the tile's
    weights begin, and the number of its pixels.
    """
    d1 = len(corners)
    room = d1 * _GROUP
    features, rest = scratch[:room], scratch[room : 2 * room]
    rounded, rank = scratch[2 * room : 3 * room], scratch[3 * room : 4 * room]
    steps, shares = scratch[4 * room : 5 * room], scratch[5 * room :]
    y0, tall, x0, wide = tile_box(tile, height, width)
    first = (y0 * width + x0 * tall) * d1
    places = np.empty(_GROUP, np.int64)
    x, y = x0, y0
    for start in range(0, tall * wide, _GROUP):
        lanes = min(_GROUP, tall * wide - start)
        for lane in range(lanes):
            if given is None:
                simd.poke(features, lane, simd.peek(columns, x))
                simd.poke(features, _GROUP + lane, simd.peek(rows, y))
            simd.poke(places, lane, y * width + x)
            y += 1
            if y == y0 + tall:
                x, y = x + 1, y0
        if given is None:
            for c in range(d1 - 3):
                for lane in range(lanes):
                    level = np.int64(simd.peek(image, c * height * width + simd.peek(places, lane)))
                    simd.poke(features, (2 + c) * _GROUP + lane, simd.peek(levels, c * 256 + level))
        else:
            for c in range(d1 - 1):
                for lane in range(lanes):
                    at = c * height * width + simd.peek(places, lane)
                    simd.poke(features, c * _GROUP + lane, simd.peek(given, at))
        _elevate(features, rest, corners)
        off = _rank(rest, rounded, rank, corners)
        _return_to_plane(rest, rounded, rank, off, corners)
        _order(rest, rank, steps, shares, corners)
        for lane in range(lanes):
            key = -origin
            for i in range(d1):
                key += np.int64(np.int32(simd.peek(rounded, i * _GROUP + lane))) * simd.peek(strides, i)
            at = (start + lane) * d1
            for r in range(d1):
                if r > 0:
                    axis = np.int64(np.int32(simd.peek(steps, r * _GROUP + lane)))
                    key -= simd.peek(strides, axis)
                simd.poke(weights, first + at + r, simd.peek(shares, r * _GROUP + lane))
                simd.poke(keys, at + r, key)
    return first, tall * wide
