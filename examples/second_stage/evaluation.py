"""Scores of a trained segmenter, and of the masks that it was trained on; all numbers as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dhr_refine.datasets.classes import class_set
from dhr_refine.datasets.tags import read_tags
from dhr_refine.errors import UserError, explained, reading, require, writing
from dhr_refine.files import write_mask
from dhr_refine.files.writing import without_nan, write_atomic
from dhr_refine.metrics import ImageCounts, image_counts, scores_of
from second_stage.data import Pair, find_pairs
from second_stage.networks import Network, build
from second_stage.prediction import predict

TRAINED_ON = "masks trained on"


def load(run: Path, device: torch.device) -> tuple[Network, dict[str, str]]:
    """The network of a run's last checkpoint, and the options that the run had."""
    path = run / "checkpoint.pt"
    fix = "pass the --out of a training run"
    with reading(path, fix):
        state = torch.load(path, map_location="cpu", weights_only=True)
        told = {**state["options"], "step": str(state["step"])}
        name, classes = told["network"], int(told["classes"])
        weights = state["model"]
    network = build(name, classes, untrained=True)
    with reading(path, fix):
        network.load_state_dict(weights)
    return network.eval().to(device), told


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Score a run as the command line asks for, print it, and write what is asked for."""
    device = torch.device(options.device)
    network, told = load(options.run, device)
    classes = int(told["classes"])
    pairs, skipped = find_pairs(options.images, options.targets, options.list, classes)
    pairs = pairs[: options.limit]
    if wrong := [label for label in options.labels or () if label >= classes]:
        raise UserError(f"--labels has {wrong[0]}, but the run has {classes} labels: pass some from 0 on")
    if skipped:
        print(f"{skipped} images have no ground truth and are left out")
    tags = None if options.tags is None else tags_of(options.tags, pairs, classes)
    if options.save_masks is not None:
        with writing(options.save_masks, "--save-masks"):
            options.save_masks.mkdir(parents=True, exist_ok=True)
    parts: dict[str, list[ImageCounts]] = {}
    track = require("rich.progress").track
    console = require("rich.console").Console(stderr=True)
    for pair in track(pairs, "evaluation", console=console, disable=not console.is_terminal):
        image, target = pair.load()
        with explained(pair.key):
            masks = predict(network, image.to(device), options, None if tags is None else tags[pair.key])
        for kind, mask in masks.items():
            parts.setdefault(kind, []).append(image_counts(mask.cpu(), target, num_classes=classes))
        if options.save_masks is not None:
            path = options.save_masks / f"{pair.key}.png"
            with explained(pair.key), writing(path, "--save-masks"):
                write_mask(path, [*masks.values()][-1])
    rows = {kind: joined(several) for kind, several in parts.items()}
    trained_on = {}
    if options.trained_on:
        trained_on = {TRAINED_ON: score_training_masks(told, options.targets)}
    result = {
        "run": {**told, "out": str(options.run)},
        "options": {name: str(value) for name, value in vars(options).items()},
        "images": [pair.key for pair in pairs],
        "scores": {kind: scored(counts, options.labels) for kind, counts in (trained_on | rows).items()},
    }
    for kind, row in result["scores"].items():
        print(f"{kind:16s} mIoU {row['miou']:6.1%}  per-image {row['per_image_miou']:6.1%}")
    if options.json is not None:
        with writing(options.json, "--json"):
            write_atomic(options.json, json.dumps(without_nan(result)).encode())
    return result


def tags_of(path: Path, pairs: Iterable[Pair], classes: int) -> dict[str, tuple[int, ...]]:
    """Tags of the images, foreground classes from 0."""
    keys = [pair.key for pair in pairs]
    with reading(path, "pass a cls_labels.npy, or what `dhr-refine tags` reads"):
        table = read_tags(path, classes=class_set(classes), keys=keys).table
    if missing := [key for key in keys if key not in table]:
        raise UserError(f"{path} has no tags of {missing[0]}: add them, or leave out --tags")
    return {key: tuple(table[key]) for key in keys}


def score_training_masks(told: Mapping[str, str], targets: Path) -> ImageCounts:
    """The masks that a run was trained on, against the ground truth of their images."""
    classes, listed = int(told["classes"]), None if told["list"] == "None" else Path(told["list"])
    masks, _ = find_pairs(Path(told["images"]), Path(told["masks"]), listed, classes)
    true, _ = find_pairs(Path(told["images"]), targets, listed, classes)
    by_key = {pair.key: pair for pair in true}
    if missing := [pair.key for pair in masks if pair.key not in by_key]:
        raise UserError(f"{targets} has no ground truth of {missing[0]}: leave out --trained-on")
    counts = []
    for pair in masks:
        mask, target = pair.load_mask(), by_key[pair.key].load_mask()
        with explained(pair.key):
            counts.append(image_counts(mask, target, num_classes=classes))
    return joined(counts)


def joined(parts: Iterable[ImageCounts]) -> ImageCounts:
    """Counts of many images out of those of each."""
    return ImageCounts(*map(np.concatenate, zip(*parts)))


def scored(counts: ImageCounts, labels: tuple[int, ...] | None) -> dict[str, Any]:
    """Figures, and the counts that they and their errors come from."""
    scores = scores_of(counts, labels=labels)
    figures = {name: float(getattr(scores, name)) for name in ("miou", "per_image_miou", "vanishing")}
    arrays = {name: array.tolist() for name, array in counts._asdict().items()}
    return {**figures, "iou": np.asarray(scores.iou).tolist(), "counts": arrays}
