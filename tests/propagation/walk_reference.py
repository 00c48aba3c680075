"""Affinities and walks as the papers write them, pair by pair in NumPy float64: an independent oracle."""

from __future__ import annotations

import math

import numpy as np


def pairs(grid, radius):
    """Numbers and places of all pairs of different cells nearer than the radius, both directions."""
    places = [(y, x) for y in range(grid[0]) for x in range(grid[1])]
    for i, one in enumerate(places):
        for j, other in enumerate(places):
            if i != j and math.dist(one, other) < radius:
                yield i, j, one, other


def on_path(one, other):
    """Cells of the rectangle of two cells whose distance to the line through both is below 1."""
    (a, b), (c, d) = one, other
    for y in range(min(a, c), max(a, c) + 1):
        for x in range(min(b, d), max(b, d) + 1):
            if abs((c - a) * (x - b) - (d - b) * (y - a)) / math.dist(one, other) < 1:
                yield y, x


def edge_weights(edges, radius, beta):
    """IRN: (1 - highest boundary score on the way) ** beta, 1 for the cell itself."""
    weights = np.eye(edges.size)
    for i, j, one, other in pairs(edges.shape, radius):
        weights[i, j] = (1 - max(edges[place] for place in on_path(one, other))) ** beta
    return weights


def feature_weights(features, radius, beta, likeness):
    """Cosines, or exp(-mean absolute difference) as AffinityNet has it, to the power beta."""
    vectors = features.reshape(len(features), -1).T.astype(np.float64)
    weights = np.eye(len(vectors))
    for i, j, _, _ in pairs(features.shape[1:], math.inf if radius is None else radius):
        if likeness == "cosine":
            norm = np.linalg.norm(vectors[i]) * np.linalg.norm(vectors[j])
            weights[i, j] = max(vectors[i] @ vectors[j] / norm, 0) ** beta if norm > 0 else 0
        else:
            weights[i, j] = np.exp(-np.abs(vectors[i] - vectors[j]).mean()) ** beta
    return weights


def transition(weights):
    """Rows divided by their sums; a cell without any weight keeps its own."""
    weights = np.where(weights.sum(1, keepdims=True) > 0, weights, np.eye(len(weights)))
    return weights / weights.sum(1, keepdims=True)


def attention_matrix(layers, rounds=3):
    """CLIP-ES: mean over layers, columns and rows divided by their sums in turn, mean with the transpose."""
    matrix = layers.astype(np.float64).mean(0)
    for _ in range(rounds):
        matrix = matrix / matrix.sum(0, keepdims=True)
        matrix = matrix / matrix.sum(1, keepdims=True)
    return (matrix + matrix.T) / 2


def box_mask(cam, share):
    """1 inside the bounding boxes of the cells above a share of the maximum that touch, also at corners."""
    high = {(y, x) for y, x in np.ndindex(cam.shape) if cam.max() > 0 and cam[y, x] > share * cam.max()}
    inside = np.zeros(cam.shape)
    while high:
        region, border = set(), [next(iter(high))]
        while border:
            y, x = border.pop()
            if (y, x) in high:
                high.remove((y, x))
                region.add((y, x))
                border += [(y + a, x + b) for a in (-1, 0, 1) for b in (-1, 0, 1)]
        ys, xs = zip(*region, strict=True)
        inside[min(ys) : max(ys) + 1, min(xs) : max(xs) + 1] = 1
    return inside


def walk(cams, matrix, steps):
    """(C, h, w) by the power of the matrix, squared again and again."""
    flat = cams.reshape(len(cams), -1).astype(np.float64)
    return (np.linalg.matrix_power(matrix, steps) @ flat.T).T.reshape(cams.shape)
