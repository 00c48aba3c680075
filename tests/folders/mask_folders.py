"""Folders of masks for tests, and slow scores of them as an independent oracle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_masks(folder: Path, masks: dict[str, np.ndarray], suffix: str = ".png") -> Path:
    """Write masks by their ids as index PNGs or arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    for key, mask in masks.items():
        if suffix == ".png":
            Image.fromarray(mask.astype(np.uint8)).save(folder / f"{key}.png")
        elif suffix == ".npz":
            np.savez(folder / f"{key}.npz", mask=mask)
        else:
            np.save(folder / f"{key}.npy", mask)
    return folder


def random_masks(
    seed: int, *, classes: int, images: int = 12, absent: tuple[int, ...] = ()
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Ground truth, base masks and better masks with 255s; the truth lacks some classes."""
    rng = np.random.default_rng(seed)
    there = [label for label in range(classes) if label not in absent]
    truths, bases, masks = {}, {}, {}
    for number in range(images):
        key, size = f"photo_{number:02d}", tuple(rng.integers(9, 30, 2))
        few = rng.choice(there, min(3, len(there)), replace=False)
        truth = np.kron(rng.choice(few, (4, 4)), np.ones((8, 8), int))[: size[0], : size[1]]
        truths[key] = np.where(rng.random(truth.shape) < 0.1, 255, truth)
        for noise, target in ((0.8, bases), (0.3, masks)):
            share = noise * rng.random()
            noisy = np.where(rng.random(truth.shape) < share, rng.integers(0, classes, truth.shape), truth)
            gone = rng.choice(few)
            noisy = np.where((noisy == gone) & (rng.random() < noise), few[0], noisy)
            target[key] = np.where(rng.random(truth.shape) < 0.05, 255, noisy)
    return truths, bases, masks


def slow_scores(
    masks: dict[str, np.ndarray],
    truths: dict[str, np.ndarray],
    classes: int,
    *,
    background: int | None = 0,
    zero: bool = False,
) -> dict[str, object]:
    """Every figure by loops over pixels, from its definition; also which pairs vanish."""
    hits, predicted, true = (np.zeros(classes) for _ in range(3))
    per_image, pairs, vanishing, vanished = [], set(), set(), set()
    for key, truth in truths.items():
        own = np.zeros((3, classes))
        for said, is_ in zip(masks[key].ravel(), truth.ravel()):
            if is_ == 255:
                continue
            own[2, is_] += 1
            if said != 255:
                own[1, said] += 1
                own[0, said] += said == is_
        ious = []
        for label in range(classes):
            if own[2, label] > 0 or (zero and own[1, label] > 0):
                ious.append(own[0, label] / (own[1, label] + own[2, label] - own[0, label]))
            if own[2, label] > 0 and label != background:
                pairs.add((key, label))
                if own[0, label] / own[2, label] < 0.1:
                    vanishing.add((key, label))
                if own[0, label] == 0:
                    vanished.add((key, label))
        if ious:
            per_image.append(sum(ious) / len(ious))
        hits, predicted, true = hits + own[0], predicted + own[1], true + own[2]
    union = predicted + true - hits
    counted = [k for k in range(classes) if true[k] > 0 or (zero and predicted[k] > 0)]
    return {
        "miou": np.mean([hits[k] / union[k] for k in counted]),
        "mfpr": np.mean([(predicted[k] - hits[k]) / union[k] for k in counted]),
        "mfnr": np.mean([(true[k] - hits[k]) / union[k] for k in counted]),
        "per_image_miou": np.mean(per_image),
        "vanishing": len(vanishing) / len(pairs),
        "vanished": len(vanished) / len(pairs),
        "iou": {k: hits[k] / union[k] for k in counted},
        "lost": vanishing,
    }
