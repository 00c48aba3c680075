"""An independent oracle: slow NumPy loops in float64, written from the paper's equations and the contract.

Nothing here imports the package. One image at a time; classes are listed explicitly. Where the paper is
silent the choices are those that the docstring of ``Recipe`` states.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Array = np.ndarray
Box = tuple[int, int, int, int]


def log_sum_exp(values: Array, axis: int) -> Array:
    top = values.max(axis=axis, keepdims=True)
    return (top + np.log(np.exp(values - top).sum(axis=axis, keepdims=True))).squeeze(axis)


def sinkhorn(
    scores: Array,
    reg: float,
    pixel_mass: Array | None = None,
    class_mass: Array | None = None,
    class_penalty: float = math.inf,
) -> tuple[Array, Array]:
    """Plan (K, N) of the converged transport with cost 1 - S, and each pixel's share per class (K, N).

    Pixels and classes of mass 0 take no part in the transport; the shares of such a pixel are those that
    the class potentials give it. A finite ``class_penalty`` rho relaxes the class masses: the potentials are
    damped by rho / (rho + reg) (Chizat et al. 2018, the proximal step of rho KL), until they stand still.
    """
    damping = 1.0 if math.isinf(class_penalty) else class_penalty / (class_penalty + reg)
    count, size = scores.shape
    scores = scores.astype(np.float64)
    a = np.ones(size) if pixel_mass is None else np.asarray(pixel_mass, dtype=np.float64)
    b = np.ones(count) if class_mass is None else np.asarray(class_mass, dtype=np.float64)
    a, b = a / a.sum(), b / b.sum()
    rows, columns = np.flatnonzero(a > 0), np.flatnonzero(b > 0)
    kernel = -(1.0 - scores[np.ix_(columns, rows)]) / reg
    log_a, log_b = np.log(a[rows]), np.log(b[columns])
    f, g = np.zeros(len(rows)), np.zeros(len(columns))
    for _ in range(200_000):
        f = log_a - log_sum_exp(kernel + g[:, None], axis=0)
        carried = log_sum_exp(kernel + f[None], axis=1) + g
        before, g = g, damping * (g + log_b - carried)
        if np.abs(g - before).max() < 1e-13:
            break
    potentials = np.full(count, -np.inf)
    potentials[columns] = g
    logits = scores / reg + potentials[:, None]
    shares = np.exp(logits - log_sum_exp(logits, axis=0))
    return shares * a, shares


def cell_of(pixel: int, pixels: int, cells: int) -> int:
    """Cell whose nearest-neighbour enlargement covers a pixel."""
    return pixel * cells // pixels


def enlarge_mask(mask: Array, height: int, width: int) -> Array:
    result = np.empty((height, width), dtype=mask.dtype)
    for y in range(height):
        for x in range(width):
            result[y, x] = mask[y * mask.shape[0] // height, x * mask.shape[1] // width]
    return result


def pool_by_area(features: Array, mask: Array, labels: list[int]) -> tuple[Array, Array]:
    """Mean over the pixels of each label of the nearest-enlarged features (D, h, w); counts in cells."""
    depth, height, width = features.shape
    fine = enlarge_mask(mask, max(mask.shape[0], height), max(mask.shape[1], width))
    sums, pixels = np.zeros((len(labels), depth)), np.zeros(len(labels))
    for y in range(fine.shape[0]):
        for x in range(fine.shape[1]):
            if fine[y, x] in labels:
                k = labels.index(fine[y, x])
                cell = cell_of(y, fine.shape[0], height), cell_of(x, fine.shape[1], width)
                sums[k] += features[(slice(None), *cell)]
                pixels[k] += 1
    means = np.divide(sums, pixels[:, None], out=np.zeros_like(sums), where=pixels[:, None] > 0)
    return means, pixels * (height * width) / fine.size


def pool_by_majority(
    features: Array, mask: Array, labels: list[int], ignore: int = 255
) -> tuple[Array, Array]:
    """Mean over the cells that each label wins; the mask is first enlarged to a multiple of the grid."""
    depth, height, width = features.shape
    up = -(-mask.shape[0] // height), -(-mask.shape[1] // width)  # pixels of a window
    fine = enlarge_mask(mask, up[0] * height, up[1] * width)
    sums, cells = np.zeros((len(labels), depth)), np.zeros(len(labels))
    for i in range(height):
        for j in range(width):
            window = fine[i * up[0] : (i + 1) * up[0], j * up[1] : (j + 1) * up[1]]
            votes = Counter(window.ravel().tolist())
            most = max(votes.values())
            # Ties go to the lowest label; "ignore" is no label and loses every tie.
            tied = [label for label, number in votes.items() if number == most]
            winner = min((label for label in tied if label != ignore), default=ignore)
            if winner in labels:
                sums[labels.index(winner)] += features[:, i, j]
                cells[labels.index(winner)] += 1
    means = np.divide(sums, cells[:, None], out=np.zeros_like(sums), where=cells[:, None] > 0)
    return means, cells


def linear_matrix(source: int, target: int, blur: bool) -> Array:
    """(target, source) linear resizing with half-pixel centres; ``blur`` widens the tent when it shrinks."""
    matrix = np.zeros((target, source))
    reach = max(source / target, 1.0) if blur else 1.0
    for i in range(target):
        centre = (i + 0.5) * source / target
        for j in range(source):
            matrix[i, j] = max(0.0, 1.0 - abs(j + 0.5 - centre) / reach)
    return matrix / matrix.sum(axis=1, keepdims=True)


def resize(maps: Array, size: tuple[int, int], blur: bool = False) -> Array:
    rows = linear_matrix(maps.shape[-2], size[0], blur)
    columns = linear_matrix(maps.shape[-1], size[1], blur)
    return rows @ maps @ columns.T


def cosine_heatmaps(features: Array, centroids: Array) -> Array:
    """ReLU of the cosine between every cell and every centroid, (C, h, w)."""
    _, height, width = features.shape
    heat = np.zeros((len(centroids), height, width))
    for k, centroid in enumerate(centroids):
        for i in range(height):
            for j in range(width):
                cell = features[:, i, j].astype(np.float64)
                length = np.linalg.norm(cell) * np.linalg.norm(centroid)
                if length > 0:
                    heat[k, i, j] = max(0.0, float(cell @ centroid) / length)
    return heat


def cosine_table(centroids: Array) -> Array:
    table = np.zeros((len(centroids), len(centroids)))
    for i, one in enumerate(centroids):
        for j, other in enumerate(centroids):
            length = np.linalg.norm(one) * np.linalg.norm(other)
            if length > 0:
                table[i, j] = one @ other / length
    return table


def connected_groups(alike: Array, tau: float) -> list[list[int]]:
    """Connected components of cos > tau, by depth-first search."""
    seen: set[int] = set()
    groups = []
    for start in range(len(alike)):
        if start in seen:
            continue
        group, stack = [], [start]
        while stack:
            k = stack.pop()
            if k in seen:
                continue
            seen.add(k)
            group.append(k)
            stack += [other for other in range(len(alike)) if alike[k, other] > tau and other != k]
        groups.append(sorted(group))
    return groups


def class_masses(
    mask: Array, labels: list[int], background: int | None, marginal: str, inside: Array
) -> Array:
    """Class marginal of the transport: uniform over the labels at hand, or background by area share.

    Of the pixels inside the box that carry none of the labels, half count as background.
    """
    area = np.array([(mask == label).sum() for label in labels], dtype=np.float64)
    if area.sum() == 0:
        return area
    mass = (area > 0).astype(np.float64)
    if marginal == "background" and background is not None:
        where = labels.index(background)
        things = mass.sum() - mass[where]
        unknown = (inside & ~np.isin(mask, labels)).sum()
        share = (area[where] + unknown / 2) / (area.sum() + unknown) if area[where] > 0 else 0.0
        mass *= (1 - share) / max(things, 1)
        mass[where] = share
    return mass / mass.sum()


def cell_masses(inside: Array, grid: tuple[int, int]) -> Array:
    """Mass of each cell, flattened: how much of the cell lies inside the box, brought to sum 1.

    Relative to the cell's own pixels: a whole image weighs evenly even where its size is no multiple of the
    grid, so an image gives the same beside one that has a box.
    """
    mass = class_share_of_cells(inside, grid)
    return (mass / max(mass.sum(), 1e-12)).ravel()


def plan_shares(
    maps: Array, pixel_mass: Array, class_mass: Array, reg: float, class_penalty: float = math.inf
) -> Array:
    flat = maps.reshape(len(maps), -1)
    return sinkhorn(flat, reg, pixel_mass, class_mass, class_penalty)[1].reshape(maps.shape)


def pool_with_seed(
    features: Array, mask: Array, seed: Array | None, labels: list[int], weight: float, inside: Array
) -> tuple[Array, Array]:
    """Class averages of the mask, with those of the seed mixed in where both have the class."""
    centroids, counts = pool_by_area(features, mask, labels)
    if seed is not None:
        own, own_counts = pool_by_area(features, np.where(inside, seed, -1), labels)
        for k in range(len(labels)):
            if counts[k] > 0 and own_counts[k] > 0:
                centroids[k] = (1 - weight) * centroids[k] + weight * own[k]
    return centroids, counts


def uss_step(
    features: Array,
    mask: Array,
    labels: list[int],
    *,
    background: int | None,
    marginal: str,
    seed: Array | None = None,
    seed_weight: float = 0.0,
    inside: Array | None = None,
    reg: float = 0.1,
    class_penalty: float = math.inf,
) -> tuple[Array, Array]:
    """Eq. 3: scores f_OT(S) * S and the centroids."""
    inside = np.ones(mask.shape, dtype=bool) if inside is None else inside
    mask = np.where(inside, mask, -1)
    centroids, counts = pool_with_seed(features, mask, seed, labels, seed_weight, inside)
    heat = cosine_heatmaps(features, centroids)
    masses = class_masses(mask, labels, background, marginal, inside)
    if masses.sum() > 0:
        cells = cell_masses(inside, features.shape[1:])
        heat = heat * plan_shares(heat, cells, masses, reg, class_penalty)
    return heat * (counts > 0)[:, None, None], centroids


def wss_step(
    scores: Array,
    levels: list[Array],
    mask: Array,
    labels: list[int],
    uss_centroids: Array,
    *,
    tau: float,
    background: int | None,
    marginal: str,
    seed: Array | None = None,
    seed_weight: float = 0.0,
    inside: Array | None = None,
    reg: float = 0.1,
    class_penalty: float = math.inf,
) -> tuple[Array, list[list[int]]]:
    """Eq. 4: inside each group of alike classes, multiply by the plan of the WSS similarities."""
    inside = np.ones(mask.shape, dtype=bool) if inside is None else inside
    mask = np.where(inside, mask, -1)
    grid = scores.shape[1:]
    heat = np.zeros_like(scores)
    for level in levels:
        centroids, _ = pool_with_seed(level, mask, seed, labels, seed_weight, inside)
        own = cosine_heatmaps(level, centroids)
        shrinks = own.shape[1] > grid[0] or own.shape[2] > grid[1]
        heat += resize(own, grid, blur=shrinks) / len(levels)
    masses = class_masses(mask, labels, background, marginal, inside)
    groups = connected_groups(cosine_table(uss_centroids), tau)
    result = scores.copy()
    for group in groups:
        if len(group) > 1:
            own = np.zeros_like(masses)
            own[group] = masses[group]
            shares = plan_shares(heat, cell_masses(inside, grid), own, reg, class_penalty)
            result[group] *= shares[group]
    return result, groups


class Step(NamedTuple):
    """What the reference computes for one image; class axes in the order of ``labels``."""

    labels: list[int]
    seed: Array
    init_mask: Array
    uss: Array
    uss_centroids: Array
    wss: Array
    groups: list[list[int]]
    probs: Array
    mask: Array


def refine(
    cams: Array,
    mask: Array,
    uss: Array,
    levels: list[Array],
    *,
    tag_labels: list[int],
    background: int | None,
    marginal: str,
    merge: str,
    seed_weight: float,
    prior: float | Callable[[list[int]], float],
    normalise: bool,
    subtract_floor: bool = False,
    class_penalty: float = math.inf,
    keep: float = 0.0,
    box: Box | None = None,
    tau: float = 0.8,
    reg: float = 0.1,
    ignore: int = 255,
    boundary: Callable[[Array], Array] | None = None,
    rebalance: Callable[..., tuple[Array, Array]] = uss_step,
) -> Step:
    """The whole step for one image with at least one tag.

    ``cams`` (T, h, w) are those of the tags, whose mask labels are ``tag_labels``; ``boundary`` maps
    probabilities (k, h, w) of the crop to probabilities. ``rebalance`` stands in for :func:`uss_step`, and
    ``prior`` may depend on the labels that M_init has.
    """
    height, width = mask.shape
    x0, y0, x1, y1 = (0, 0, width, height) if box is None else box
    crop = np.s_[y0:y1, x0:x1]
    inside = np.zeros(mask.shape, dtype=bool)
    inside[crop] = True
    base = np.where(inside, mask, ignore)
    tool = boundary or (lambda maps: maps)

    # Step 1 (Eq. 2): normalised CAMs times their plan; pixels that no CAM claims stay unassigned.
    grid = cams.shape[1:]
    masses = cell_masses(inside, grid)
    maps = np.maximum(cams.astype(np.float64), 0)
    if subtract_floor:
        maps = without_floor(maps, masses.reshape(grid) > 0, (base == background) & inside)
    maps *= masses.reshape(grid) > 0
    for k in range(len(maps)):
        maps[k] /= max(maps[k].max(), 1e-5)
    if len(maps) > 1:
        maps = maps * plan_shares(maps, masses, np.ones(len(maps)), reg)
    maps = resize(maps, (height, width))[(slice(None), *crop)]
    winner = tool(np.concatenate([maps, 1 - maps.max(axis=0, keepdims=True)])).argmax(axis=0)
    seed = np.full(mask.shape, ignore)
    seed[crop] = np.array([*tag_labels, ignore])[winner]
    init = base.copy()
    for label in tag_labels:
        if merge == "all" or (base == label).sum() < (seed == label).sum():
            init[seed == label] = label

    # Steps 2 and 3 (Eq. 3, 4) on the tags and the background.
    labels = ([] if background is None else [background]) + list(tag_labels)
    sure = np.where(seed == ignore, np.where((base == background) & inside, base, -1), seed)
    options = {"background": background, "marginal": marginal, "inside": inside, "reg": reg}
    options |= {"seed": sure, "seed_weight": seed_weight, "class_penalty": class_penalty}
    known = np.where(np.isin(init, labels), init, -1)
    first, centroids = rebalance(uss, known, labels, **options)
    second, groups = wss_step(first, levels, known, labels, centroids, tau=tau, **options)
    present = np.array([(known == label).any() for label in labels])

    # What enters the boundary tool.
    scores = second.copy()
    if normalise:
        scores = scores + 1e-6 * present[:, None, None]
        scores = scores / np.maximum(scores.sum(axis=0), 1e-12)
    prior = prior([label for label, own in zip(labels, present) if own]) if callable(prior) else prior
    if prior > 0:
        own = np.stack([class_share_of_cells(known == label, scores.shape[1:]) for label in labels])
        scores = (1 - prior * own.sum(axis=0)) * scores + prior * own

    # Step 4 (Eq. 5).
    rough = resize(scores, (height, width))[(slice(None), *crop)] * present[:, None, None]
    final = tool(rough) * present[:, None, None]
    probs = np.zeros((len(labels), height, width))
    probs[(slice(None), *crop)] = final
    refined = np.where(np.isin(init, labels), init, ignore)
    # Where nothing scores, the pixel keeps its label of M_init.
    winner = final.argmax(axis=0)
    if boundary is not None:
        before = np.where(rough.max(axis=0) > 0, rough.argmax(axis=0), -1)
        shrunk = [k for k in range(len(labels)) if (winner == k).sum() < keep * (before == k).sum()]
        winner = np.where(np.isin(before, shrunk), before, winner)
    chosen = np.array(labels)[winner]
    refined[crop] = np.where(final.max(axis=0) > 0, chosen, refined[crop])
    if keep > 0:
        claims = np.zeros((len(labels), height, width))
        claims[(slice(None), *crop)] = rough
        for k, label in enumerate(labels):
            if not present[k]:
                claims[k] = base == label
        entitled = [bool(p or (base == label).any()) for p, label in zip(present, labels)]
        refined = give_back(refined, labels, claims, entitled)
    return Step(labels, seed, init, first, centroids, second, groups, probs, refined)


def without_floor(cams: Array, inside: Array, background: Array) -> Array:
    """CAMs (T, h, w) less their minimum inside, or their mean over the background if they claim most of it.

    ``background`` (H, W) is read at the pixel under the centre of each cell.
    """
    _, height, width = cams.shape
    result = np.zeros_like(cams)
    for k, cam in enumerate(cams):
        values, empty = [], []
        for y, x in np.ndindex(height, width):
            pixel = (
                int((y + 0.5) * background.shape[0] / height),
                int((x + 0.5) * background.shape[1] / width),
            )
            if inside[y, x]:
                values.append(cam[y, x])
            if background[pixel]:
                empty.append(cam[y, x])
        low, high = min(values), max(values)
        if sum(v > low + 0.2 * (high - low) for v in empty) > len(empty) / 2:
            low = np.mean(empty)
        if high - low > 1e-3 * high:
            result[k] = np.maximum(cam - low, 0)
    return result


def give_back(mask: Array, labels: list[int], claims: Array, entitled: list[bool]) -> Array:
    """Give each entitled label without a pixel the one where its claim (> 0) is highest, the first of equals.

    Labels are served in order, and no entitled label loses its last pixel.
    """
    due = [label for label, own in zip(labels, entitled) if own]
    mask = mask.copy()
    for k, label in enumerate(labels):
        if not entitled[k] or (mask == label).any():
            continue
        best, place = 0.0, None
        for y, x in np.ndindex(mask.shape):
            last = mask[y, x] in due and (mask == mask[y, x]).sum() == 1
            if claims[k, y, x] > best and not last:
                best, place = claims[k, y, x], (y, x)
        if place is not None:
            mask[place] = label
    return mask


def class_share_of_cells(region: Array, grid: tuple[int, int]) -> Array:
    """Share of the pixels of each cell that lie in a region."""
    fine = enlarge_mask(region, max(region.shape[0], grid[0]), max(region.shape[1], grid[1]))
    hits, pixels = np.zeros(grid), np.zeros(grid)
    for y in range(fine.shape[0]):
        for x in range(fine.shape[1]):
            cell = cell_of(y, fine.shape[0], grid[0]), cell_of(x, fine.shape[1], grid[1])
            hits[cell] += fine[y, x]
            pixels[cell] += 1
    return hits / pixels
