"""An independent oracle for base masks and PAR: slow NumPy in float64, one image at a time.

Written from the formulas of the papers and of the codebases that use them; nothing here imports the package.
"""

from __future__ import annotations

import numpy as np

Array = np.ndarray
Box = tuple[int, int, int, int]  # x0, y0, x1, y1


def softmax(values: Array) -> Array:
    """Softmax over the first axis."""
    powers = np.exp(values - values.max(axis=0, keepdims=True))
    return powers / powers.sum(axis=0, keepdims=True)


def spread(before: int, after: int) -> Array:
    """(after, before) matrix of bilinear resizing of one axis, half-pixel centres."""
    matrix = np.zeros((after, before))
    for place in range(after):
        centre = min(max((place + 0.5) * before / after - 0.5, 0.0), before - 1.0)
        low = int(centre)
        matrix[place, low] += 1 - (centre - low)
        matrix[place, min(low + 1, before - 1)] += centre - low
    return matrix


def resize(maps: Array, height: int, width: int) -> Array:
    """Bilinear resizing of (C, h, w)."""
    return spread(maps.shape[1], height) @ maps @ spread(maps.shape[2], width).T


def par(
    image: Array,
    probs: Array,
    *,
    iterations: int = 10,
    dilations: tuple[int, ...] = (1, 2, 4, 8, 12, 24),
    w1: float = 0.3,
    w2: float = 0.01,
) -> Array:
    """PAR: (3, H, W) and (K, H, W), neighbour by neighbour and pixel by pixel."""
    image, probs = image.astype(np.float64), probs.astype(np.float64)
    _, height, width = image.shape
    steps = [(d * y, d * x) for d in dilations for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)]
    distances = np.array([np.hypot(*step) for step in steps])
    near = softmax(-((distances / (distances.std(ddof=1) * w1)) ** 2))
    for _ in range(iterations):
        result = np.zeros_like(probs)
        for y in range(height):
            for x in range(width):
                rows = [min(max(y + dy, 0), height - 1) for dy, _ in steps]
                columns = [min(max(x + dx, 0), width - 1) for _, dx in steps]
                around = image[:, rows, columns]  # (3, neighbours)
                deviation = around.std(axis=1, ddof=1, keepdims=True)
                unlike = np.abs(around - image[:, y, x, None]) / ((deviation + 1e-8) * w1)
                weights = softmax(-(unlike**2).mean(axis=0)) + w2 * near
                result[:, y, x] = probs[:, rows, columns] @ weights
        probs = result
    return probs


def scale_cams(cams: Array, height: int, width: int, box: Box | None, divide: bool) -> Array:
    """ReLU, enlarged to (K, H, W), divided by the maximum of each class inside the box."""
    maps = resize(np.maximum(cams.astype(np.float64), 0), height, width)
    if divide:
        x0, y0, x1, y1 = box or (0, 0, width, height)
        top = maps[:, y0:y1, x0:x1].max(axis=(1, 2), keepdims=True)
        maps = np.minimum(maps / np.maximum(top, 1e-12), 1)
    return maps


def paste(labels: Array, box: Box | None, ignore_index: int) -> Array:
    """A mask outside whose box nothing is known."""
    result = np.full(labels.shape, ignore_index)
    x0, y0, x1, y1 = box or (0, 0, labels.shape[1], labels.shape[0])
    result[y0:y1, x0:x1] = labels[y0:y1, x0:x1]
    return result


def base_mask(
    cams: Array,
    tags: list[int],
    height: int,
    width: int,
    *,
    background: float | None,
    alpha: float = 1.0,
    divide: bool = True,
    box: Box | None = None,
    ignore_index: int = 255,
) -> Array:
    """Labels (H, W) of CAMs (K, h, w) of the tags; ``background`` None is the power."""
    maps = scale_cams(cams, height, width, box, divide)
    labels = np.zeros((height, width), dtype=int)
    for y in range(height):
        for x in range(width):
            best = max((maps[k, y, x] for k in range(len(tags))), default=0.0)
            empty = (1 - best) ** alpha if background is None else background
            if tags and best > empty:
                labels[y, x] = tags[int(maps[:, y, x].argmax())] + 1
    return paste(labels, box, ignore_index)


def two_threshold_mask(
    cams: Array,
    tags: list[int],
    image: Array,
    *,
    high: float,
    low: float,
    refine: bool,
    scale: float = 0.5,
    divide: bool = True,
    box: Box | None = None,
    ignore_index: int = 255,
    iterations: int = 10,
) -> Array:
    """The base masks of AFA and ToCo, image by image as their code goes, PAR as the boundary tool."""
    _, height, width = image.shape
    if not tags:
        return paste(np.zeros((height, width), dtype=int), box, ignore_index)
    maps = scale_cams(cams, height, width, box, divide)
    small = (int(height * scale), int(width * scale)) if refine else (height, width)
    maps = resize(maps, *small)
    keys = np.array([0, *(tag + 1 for tag in tags)])
    found = []
    for threshold in (high, low):
        scores = np.concatenate([np.full((1, *small), threshold), maps])
        if refine:
            scores = par(resize(image.astype(np.float64), *small), softmax(scores), iterations=iterations)
            scores = resize(scores, height, width)
        found.append(keys[scores.argmax(axis=0)])
    labels = found[0].copy()
    labels[found[0] == 0] = ignore_index
    labels[(found[0] == 0) & (found[1] == 0)] = 0
    return paste(labels, box, ignore_index)
