"""The class memory against an independent oracle: NumPy loops in float64, written from docs/method.md."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest
import reference
import torch
from scenes import make_scene

from dhr_refine import ClassMemory, Recipe, refine_steps
from dhr_refine.discriminant import recall, standardise

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = 9
DIM = 12
LAST = {"first": 0, "last": CLASSES - 1, "none": None}


def tokens_of(features):
    """(N, D) tokens, each of mean 0 and variance 1 over its channels."""
    rows = features.reshape(len(features), -1).T.astype(np.float64)
    return np.array([(row - row.mean()) / row.std() for row in rows])


def area_weights(mask, labels, grid):
    """(K, N) weight of each cell in each class, in cells."""
    fine = reference.enlarge_mask(mask, max(mask.shape[0], grid[0]), max(mask.shape[1], grid[1]))
    weights = np.zeros((len(labels), *grid))
    for y in range(fine.shape[0]):
        for x in range(fine.shape[1]):
            if fine[y, x] in labels:
                k = labels.index(fine[y, x])
                cell = reference.cell_of(y, len(fine), grid[0]), reference.cell_of(x, len(fine[0]), grid[1])
                weights[(k, *cell)] += grid[0] * grid[1] / fine.size
    return weights.reshape(len(labels), -1)


def softmax(logits):
    powers = np.exp(logits - max(logits))
    return powers / powers.sum()


def posterior_of(tokens, labels, known, among=None):
    """(K, N) probability of each class of ``labels`` for each token; 1 for classes that are not known."""
    means, precision, sure = known
    result = np.ones((len(labels), len(tokens)))
    asked = [k for k, label in enumerate(labels) if sure[label] and (among is None or among[k])]
    directions = [means[labels[k]] @ precision for k in asked]
    offsets = [0.5 * direction @ means[labels[k]] for k, direction in zip(asked, directions)]
    for n, token in enumerate(tokens):
        if asked:
            result[asked, n] = softmax(np.array([(d @ token - o) / 2 for d, o in zip(directions, offsets)]))
    return result


def sum_up(images, background, pooled, known=None):
    """Images, weights, sums and second moments of the classes; images are (tokens, weights, labels)."""
    seen, weight = np.zeros(CLASSES), np.zeros(CLASSES)
    first, second = np.zeros((CLASSES, DIM)), np.zeros((2 if pooled else CLASSES, DIM, DIM))
    for tokens, weights, labels in images:
        if known is not None:
            weights = weights * posterior_of(tokens, labels, known)
        for label, own in zip(labels, weights):
            if own.sum() < 2:
                continue
            seen[label] += 1
            slot = (0 if label == LAST[background] else 1) if pooled else label
            for n in own.nonzero()[0]:
                w, token = own[n], tokens[n]
                weight[label] += w / own.sum() ** 0.5
                first[label] += w * token / own.sum() ** 0.5
                second[slot] += w * np.outer(token, token) / own.sum() ** 0.5
    return seen, weight, first, second


def solve(sums, background, pooled, least=5.0, shrinkage=0.1):
    """Class means, inverse covariance, and which classes are known."""
    seen, weight, first, second = sums
    sure = (seen >= least) & (weight > 0)
    means = np.zeros((CLASSES, DIM))
    means[sure] = first[sure] / weight[sure][:, None]
    behind = LAST[background]
    parts = []  # of the background, of the others
    for side in ([behind], [k for k in range(CLASSES) if k != behind]):
        side = [k for k in side if k is not None and sure[k]]
        if not side:
            continue
        if pooled:
            # One sum for all classes of the slot, those of too few images among them.
            members = [behind] if side == [behind] else [k for k in range(CLASSES) if k != behind]
            slot = 0 if side == [behind] else 1
            total = second[slot].copy()
            for k in members:
                if weight[k] > 0:
                    total -= np.outer(first[k], first[k]) / weight[k]
            parts.append(total / weight[members].sum())
        else:
            own = [second[k] / weight[k] - np.outer(means[k], means[k]) for k in side]
            parts.append(sum(own) / len(own))
    within = sum(parts) / len(parts) if parts else np.zeros((DIM, DIM))
    spread = np.trace(within) / DIM if parts else 1.0
    return means, np.linalg.inv(within + shrinkage * spread * np.eye(DIM)), sure


def clean(weights, tokens, labels, known, mass, reach=1.0):
    """Weights of the class averages after the memory, the posterior, and what it left of each class."""
    present = [bool(own.sum() > 0) for own in weights]
    posterior = posterior_of(tokens, labels, known, present)
    weights = np.array([own / own.sum() if own.sum() > 0 else own for own in weights])
    purity = (weights * posterior).sum(1)
    sure = [k for k, label in enumerate(labels) if present[k] and known[2][label]]
    if len(sure) < 2:
        return weights, posterior, purity
    cleaned = weights.copy()
    for k in range(len(labels)):
        spread = reach * mass if k in sure else 0.0
        cleaned[k] = (weights[k] + spread) * posterior[k]
        if cleaned[k].sum() > 0:
            cleaned[k] /= cleaned[k].sum()
    return cleaned, posterior, purity


def agreement(weights, tokens, labels, known):
    """(K, N) factor of the similarities, of the image's classes, all present and at least two known."""
    means, precision, sure = known
    own = weights @ tokens
    mixed = [0.5 * (own[k] + means[label]) if sure[label] else own[k] for k, label in enumerate(labels)]
    logits = np.array([[(m @ precision @ x - 0.5 * m @ precision @ m) / 10 for x in tokens] for m in mixed])
    return np.array([softmax(column) for column in logits.T]).T + 0.05


def moved(scene, background):
    """A mask of make_scene with the background where it is, and the labels of the image's classes."""
    labels = [tag + 1 for tag in scene.tags]
    mask = scene.mask.numpy()
    if background == "first":
        return mask, [0, *labels]
    if background == "last":
        return np.where(mask == 255, 255, (mask - 1) % CLASSES), [*scene.tags, CLASSES - 1]
    return np.where((mask == 0) | (mask == 255), 255, mask), labels


@pytest.fixture(scope="module")
def scenes():
    """Two classes in every image and one in too few; ignored pixels; a mask without one of its classes."""
    tags = [(2, 6), (2, 6), (6, 2, 4), (2, 6), (2, 6), (2, 4, 6), (2, 6)]
    return [
        make_scene(seed, tags=own, lost=(6,) if seed == 1 else (), ignore=seed == 3)
        for seed, own in enumerate(tags)
    ]


@pytest.fixture(scope="module")
def both(scenes):
    """The memory of the library, and the sums and the solution of the reference, made once for each case."""
    return cache(partial(make_both, scenes))


def make_both(scenes, background, pooled, rounds):
    images, samples = [], []
    for scene in scenes:
        mask, labels = moved(scene, background)
        weights = area_weights(mask, labels, scene.uss.shape[1:])
        images.append((tokens_of(scene.uss.numpy()), weights, labels))
        own = labels if background == "none" else scene.tags
        samples.append({"uss_features": scene.uss, "masks": torch.from_numpy(mask), "labels": own})
    memory = ClassMemory.fit(
        samples,
        CLASSES,
        rounds=rounds,
        background=background,
        covariance="pooled" if pooled else "class",
    )
    sums = sum_up(images, background, pooled)
    for _ in range(rounds):
        sums = sum_up(images, background, pooled, solve(sums, background, pooled))
    return memory, sums, solve(sums, background, pooled)


@pytest.mark.parametrize("rounds", [0, 2])
@pytest.mark.parametrize("pooled", [False, True], ids=["class", "pooled"])
@pytest.mark.parametrize("background", ["first", "last", "none"])
def test_sums_and_solution(scenes, both, background, pooled, rounds):
    memory, sums, (means, precision, sure) = both(background, pooled, rounds)
    state = memory.state_dict()
    assert state["seen"] == len(scenes)
    for name, expected in zip(("images", "weight", "first", "second"), sums):
        assert np.abs(state[name].numpy() - expected).max() < 1e-5 * max(1.0, np.abs(expected).max()), name
    solved = memory.solve()
    assert solved.known.tolist() == sure.tolist()
    assert sure.sum() == (2 if background == "none" else 3)
    assert (sums[0][~sure] > 0).any()  # a class seen in too few images
    assert np.abs(solved.means.numpy() - means).max() < 1e-5
    assert np.abs(solved.precision.numpy() - precision).max() < 1e-5 * np.abs(precision).max()
    directions = means @ precision
    assert np.abs(solved.directions.numpy() - directions).max() < 1e-4 * np.abs(directions).max()
    offsets = 0.5 * (directions * means).sum(1)
    assert np.abs(solved.offsets.numpy() - offsets).max() < 1e-4 * np.abs(offsets).max()


def test_rounds_change_the_memory(both):
    plain, purer = (both("first", False, rounds)[2][0] for rounds in (0, 2))
    assert np.abs(plain - purer).max() > 1e-3


@pytest.mark.parametrize("reach", [0.0, 1.0, 3.0])
def test_cleaned_weights_and_agreement(scenes, both, reach):
    memory, _, known = both("first", False, 1)
    scene = scenes[2]
    labels = [0, 3, 5, 7]  # that of too few images among them
    tokens = tokens_of(scene.uss.numpy())
    weights = area_weights(scene.mask.numpy(), labels, scene.uss.shape[1:])
    mass = np.full(len(tokens), 1 / len(tokens))
    cleaned, posterior, purity = clean(weights, tokens, labels, known, mass, reach)
    about = recall(memory.solve(), standardise(scene.uss[None]), torch.tensor([labels]))
    own = torch.from_numpy(weights / weights.sum(1, keepdims=True)).float()[None]
    present = torch.ones(1, 4, dtype=torch.bool)
    everywhere = torch.from_numpy(mass).float()[None]
    results = about.clean(own, present, everywhere, reach)
    for result, expected in zip(results, (cleaned, posterior, purity)):
        assert np.abs(result[0].numpy() - expected).max() < 1e-4
    factor = about.agreement(results[0], present)[0].numpy()
    assert np.abs(factor - agreement(cleaned, tokens, labels, known)).max() < 1e-4
    assert known[2][labels].tolist() == [True, True, False, True]
    assert (posterior[2] == 1).all()


@pytest.mark.parametrize("box", [None, (5, 3, 50, 37)], ids=["whole", "boxed"])
@pytest.mark.parametrize("background", ["first", "last"])
@pytest.mark.parametrize("position", [0, 1, 2], ids=["plain", "lost", "one unknown"])
def test_the_uss_step(scenes, both, background, box, position):
    memory, _, known = both(background, False, 1)
    scene = scenes[position]
    mask, labels = moved(scene, background)
    grid = scene.uss.shape[1:]
    recipe = replace(Recipe(), seed_weight=0.0, transport="last")
    steps, plain = (
        refine_steps(
            scene.cams,
            torch.from_numpy(mask),
            scene.uss,
            scene.wss,
            labels=scene.tags,
            boxes=box,
            box_format=box and "xyxy",
            background=background,
            recipe=recipe,
            memory=given,
            boundary=None,
        )
        for given in (memory, None)
    )
    order = steps.classes.tolist()
    assert sorted(order) == sorted(labels)
    inside = np.ones(mask.shape, dtype=bool)
    if box is not None:
        inside[:] = False
        inside[box[1] : box[3], box[0] : box[2]] = True
    tokens = tokens_of(scene.uss.numpy())
    init = np.where(inside, steps.init_mask.numpy(), 255)
    weights = area_weights(init, order, grid)
    mass = reference.cell_masses(inside, grid).reshape(-1)
    cleaned, posterior, purity = clean(weights, tokens, order, known, mass / mass.sum())
    centroids = cleaned @ scene.uss.numpy().reshape(DIM, -1).T
    assert np.abs(steps.uss_centroids.numpy() - centroids).max() < 1e-4
    assert np.abs(steps.posterior.numpy() - posterior.reshape(-1, *grid)).max() < 1e-4
    assert np.abs(steps.purity.numpy() - purity).max() < 1e-4
    assert (steps.uss_centroids - plain.uss_centroids).abs().max() > 1e-2
    # Without the transport of the step its scores are the similarities and their factor alone.
    heat = reference.cosine_heatmaps(scene.uss.numpy(), centroids)
    factor = agreement(cleaned, tokens, order, known).reshape(-1, *grid)
    assert np.abs(steps.uss.numpy() - heat * factor).max() < 1e-4
