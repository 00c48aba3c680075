"""Every public function of the package's top on tensors alone, to be run as PyTorch can run a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

import dhr_refine as dr

_SEEDED = torch.Generator().manual_seed(0)
SIZE = (32, 40)
TAGS = [[2, 6], [1, 2]]


def _rand(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=_SEEDED)


CAMS, USS, WSS = _rand(2, 8, 4, 5), _rand(2, 6, 4, 5), _rand(2, 5, 4, 5)
IMAGES = (_rand(2, 3, *SIZE) * 255).byte()
MASKS = torch.zeros(2, *SIZE, dtype=torch.long)
MASKS[0, 5:20, 5:20], MASKS[0, 20:, 20:] = 3, 7
MASKS[1, 5:20, 5:20], MASKS[1, 20:, 20:] = 3, 2
LABELS = MASKS.clamp(max=2)
PROBS = _rand(2, 3, *SIZE).softmax(1)
SCORES = _rand(2, 3, 60)


class Call(NamedTuple):
    """A function of tensors, and tensors for it."""

    run: Callable[..., Any]
    tensors: tuple[Tensor, ...]
    names: tuple[str, ...]


def _remembered(uss: Tensor, masks: Tensor) -> Tensor:
    memory = dr.ClassMemory(9, 6, least_images=1)
    memory.update(uss, masks, labels=TAGS)
    return memory.solve().means


def _discriminant() -> dr.ClassDiscriminant:
    memory = dr.ClassMemory(9, 6, least_images=1)
    memory.update(USS, MASKS, labels=TAGS)
    return memory.solve()


_VIEW = dr.View.of(SIZE, window=(0, 0, 20, 20))
_AFFINITY = dr.propagation.feature_affinity(USS)
_STEP = ("cams", "masks", "uss_features", "wss_features", "images")

CALLS = {
    "base_mask": Call(
        lambda cams, images: dr.base_mask(cams, TAGS, images, background=0.3, refine="par"),
        (CAMS, IMAGES),
        ("cams", "images"),
    ),
    "two_threshold_mask": Call(
        lambda cams, images: dr.two_threshold_mask(cams, TAGS, images, high=0.7, low=0.3, refine="par"),
        (CAMS, IMAGES),
        ("cams", "images"),
    ),
    "class_avg_pool": Call(
        lambda features, mask: dr.class_avg_pool(features, mask, num_classes=3).vectors,
        (USS, LABELS),
        ("features", "mask"),
    ),
    "dense_crf": Call(
        lambda images, probs: dr.dense_crf(images, probs, iterations=2), (IMAGES, PROBS), ("images", "probs")
    ),
    "dense_energy_loss": Call(
        lambda images, logits, labels: dr.dense_energy_loss(images, logits, labels),
        (IMAGES, 9 * PROBS, LABELS),
        ("images", "logits", "labels"),
    ),
    "pamr": Call(
        lambda images, probs: dr.pamr(images, probs, iterations=2), (IMAGES, PROBS), ("images", "probs")
    ),
    "par": Call(
        lambda images, probs: dr.par(images, probs, iterations=2), (IMAGES, PROBS), ("images", "probs")
    ),
    "probs_from_labels": Call(
        lambda labels: dr.probs_from_labels(labels, num_classes=3), (LABELS,), ("labels",)
    ),
    "random_walk": Call(lambda cams: dr.random_walk(cams, _AFFINITY), (CAMS,), ("cams",)),
    "refine_mask": Call(
        lambda *step: dr.refine_mask(*step, labels=TAGS), (CAMS, MASKS, USS, WSS, IMAGES), _STEP
    ),
    "refine_steps": Call(
        lambda *step: dr.refine_steps(*step, labels=TAGS).mask, (CAMS, MASKS, USS, WSS, IMAGES), _STEP
    ),
    "sinkhorn_ot": Call(lambda scores: dr.sinkhorn_ot(scores).plan, (SCORES,), ("scores",)),
    "tokens_to_map": Call(lambda tokens: dr.tokens_to_map(tokens, prefix=0), (_rand(2, 16, 6),), ("tokens",)),
    "uss_rebalance": Call(
        lambda features, mask: dr.uss_rebalance(features, mask, num_classes=3).scores,
        (USS, LABELS),
        ("features", "mask"),
    ),
    "wss_rebalance": Call(
        lambda scores, features, mask, centroids: (
            dr.wss_rebalance(scores, features, mask, uss_centroids=centroids).scores
        ),
        (_rand(2, 3, 4, 5), WSS, LABELS, _rand(2, 3, 6)),
        ("scores", "features", "mask", "uss_centroids"),
    ),
    "has_labels": Call(lambda masks: dr.has_labels(masks), (MASKS,), ("masks",)),
    "has_split_labels": Call(lambda masks: dr.has_split_labels(masks).background, (MASKS,), ("masks",)),
    "View.crop": Call(lambda features: _VIEW.crop(features, (5, 5)), (USS[0],), ("features",)),
    "ClassMemory": Call(_remembered, (USS, MASKS), ("uss_features", "masks")),
    "DenseCRFLattice": Call(
        lambda images, probs: dr.dense_crf(images, probs, iterations=2, lattice=dr.DenseCRFLattice(images)),
        (IMAGES, PROBS),
        ("images", "probs"),
    ),
    "PermutohedralLattice": Call(
        lambda features, values: dr.PermutohedralLattice(features).filter(values),
        (_rand(2, 3, 60), _rand(2, 4, 60)),
        ("features", "values"),
    ),
}
