"""Whether a change that must not change results does not: hundreds of random calls, compared bit by bit.

    python tests/same_results.py write before.json      # with the library as it was, on one machine
    python tests/same_results.py compare before.json    # with the library as it is

Calls go through the public functions only, on one thread, and errors count as results by their text. The file
is of use on the machine that wrote it: another processor rounds otherwise.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import warnings
from collections.abc import Callable
from dataclasses import fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scenes import Scene, make_scene, multi_hot, stack
from torch import Tensor

import dhr_refine
from dhr_refine import Recipe
from dhr_refine.metrics import MaskScores, image_counts, inter_class_share
from dhr_refine.training import View, has_labels

CALLS = 360


def digest(value: Any) -> str:
    """Fingerprint of a result: kinds, shapes and every bit."""
    found = hashlib.sha256()

    def add(part: Any) -> None:
        if isinstance(part, Tensor):
            found.update(f"{part.dtype} {tuple(part.shape)}".encode())
            found.update(part.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        elif isinstance(part, np.ndarray):
            found.update(f"{part.dtype} {part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        elif is_dataclass(part) and not isinstance(part, type):
            for field in fields(part):
                add(getattr(part, field.name))
        elif isinstance(part, (list, tuple)):
            found.update(f"{type(part).__name__} {len(part)}".encode())
            for entry in part:
                add(entry)
        else:
            found.update(repr(part).encode())

    add(value)
    return found.hexdigest()[:24]


def numbers_of(value: Any) -> list[Tensor]:
    """All tensors and arrays of a result, in order."""
    if isinstance(value, (Tensor, np.ndarray)):
        return [torch.as_tensor(value).detach()]
    if is_dataclass(value) and not isinstance(value, type):
        return [part for field in fields(value) for part in numbers_of(getattr(value, field.name))]
    if isinstance(value, (list, tuple)):
        return [part for entry in value for part in numbers_of(entry)]
    return [torch.tensor(value)] if isinstance(value, (int, float)) else []


class Draw:
    """Random arguments, the same for the same number."""

    def __init__(self, seed: int):
        """Start from a seed."""
        self.rng = np.random.default_rng(seed)
        self.torch = torch.Generator().manual_seed(seed)

    def __call__(self, *choices: Any) -> Any:
        """One of the choices."""
        return choices[int(self.rng.integers(len(choices)))]

    def rand(self, *size: int) -> Tensor:
        """Uniform numbers."""
        return torch.rand(size, generator=self.torch, dtype=torch.float32)

    def labels(self, high: int, *size: int) -> Tensor:
        """Whole numbers below ``high``."""
        return torch.randint(high, size, generator=self.torch)

    def scene(self, size: tuple[int, int]) -> Scene:
        """A scene of a size."""
        return make_scene(
            int(self.rng.integers(10_000)),
            size=size,
            tags=self((3,), (2, 6), (0, 3, 7), (1, 2, 4, 5)),
            alike=self((), (2, 3), (1, 4)),
            lost=self((), (2,), (3, 7)),
            ignore=bool(self(True, False)),
        )

    def recipe(self) -> Recipe:
        """A preset, or the default with a choice of the released code."""
        released = Recipe.released()
        names = [field.name for field in fields(Recipe)]
        name = names[int(self.rng.integers(len(names)))]
        mixed = replace(Recipe(), **{name: getattr(released, name)})
        return self(Recipe(), Recipe.paper(), released, mixed, mixed)


def refine(draw: Draw) -> Callable[[], Any]:
    """The whole step: batches, single images and lists, all recipes and boundary tools."""
    structure = draw("batch", "batch", "single", "list")
    sizes = [draw((40, 56), (33, 47), (64, 48))]
    sizes += [draw((40, 56), (33, 47)) if structure == "list" else sizes[0]] * (structure != "single")
    scenes = [draw.scene(size) for size in sizes]
    boundary = draw("crf", "crf", "pamr", None)
    options: dict[str, Any] = {"recipe": draw.recipe(), "tau": draw(0.8, 0.8, 0.0, 1.0), "boundary": boundary}
    options["reg"] = draw(0.1, 0.1, 0.03)
    boxes = [(0, 0, s[1], s[0]) if draw(True, False) else (3, 2, s[1] - 5, s[0] - 1) for s in sizes]
    if draw(True, False):
        options |= {"boxes": boxes[0] if structure == "single" else boxes, "box_format": "xyxy"}
    background = draw("first", "first", "none", "last")
    options["background"] = background
    masks = [scene.mask.clone() for scene in scenes]
    if background != "first":
        for mask in masks:
            foreground = (mask > 0) & (mask < 255)
            mask[mask == 0] = 8 if background == "last" else 255
            mask[foreground] -= 1
    call: Callable[..., Any] = draw(dhr_refine.refine_mask, dhr_refine.refine_steps)
    if structure == "batch":
        cams, _, uss, wss, images = stack(scenes)
        form = draw("hot", "lists", "bool", "none")
        tags = [scene.tags for scene in scenes]
        options["labels"] = {
            "hot": multi_hot(tags, 8), "lists": tags, "bool": multi_hot(tags, 8, torch.bool), "none": None,
        }[form]  # fmt: skip
        pixels = draw(images, images.float() / 255, images.movedim(1, -1))
        kind = draw(torch.float32, torch.float16, torch.float64)
        return partial(call, cams.to(kind), torch.stack(masks), uss.to(kind), wss, pixels, **options)
    if structure == "single":
        scene = scenes[0]
        maps = (scene.cams, masks[0], scene.uss, scene.wss, scene.image)
        return partial(call, *maps, labels=scene.tags, **options)
    columns = zip(*((s.cams, s.uss, s.wss, s.image, s.tags) for s in scenes), strict=True)
    cams, uss, wss, images, tags = (list(column) for column in columns)
    return partial(call, cams, masks, uss, wss, images, labels=tags, **options)


def transport(draw: Draw) -> Callable[[], Any]:
    """Optimal transport: methods, masses, masks, gradients, easy and hard."""
    batch, classes, pixels = draw(1, 3), draw(1, 2, 4, 9), draw(60, 1369, 3000)
    scores = draw.rand(batch, classes, pixels) * draw(1.0, 1.0, 5.0)
    options: dict[str, Any] = {"reg": draw(0.1, 0.1, 0.02, 0.005), "tol": draw(1e-3, 1e-5)}
    options["method"] = draw("newton", "newton", "newton", "sinkhorn", "pot")
    if draw(True, False):
        options["class_mass"] = draw.rand(batch, classes) + draw(0.0, 0.1)
    if draw(True, False):
        options["pixel_mass"] = draw.rand(batch, pixels)
    if draw(True, False) and classes > 1:
        options["valid"] = draw.rand(batch, pixels) > 0.3
    scores = scores.to(draw(torch.float32, torch.float32, torch.float64, torch.float16))
    if draw(True, False) and options["method"] != "pot":
        return partial(with_gradient, scores.requires_grad_(), draw.rand(*scores.shape), **options)
    return partial(dhr_refine.sinkhorn_ot, scores, **options)


def with_gradient(scores: Tensor, weights: Tensor, **options: Any) -> Any:
    """A plan and the gradient of a weighted sum of it."""
    plan = dhr_refine.sinkhorn_ot(scores, **options)
    (plan.plan.double() * weights.double()).sum().backward()
    return plan, scores.grad


def crf(draw: Draw) -> Callable[[], Any]:
    """The dense CRF on all backends of a CPU, with and without a lattice, and its neighbours."""
    batch, classes = draw(1, 2), draw(1, 2, 3, 5, 17, 21)
    height, width = draw((33, 47), (64, 80), (96, 128))
    coarse = draw.labels(256, batch, 3, 12, 16).float()
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    images = (images + 8 * draw.rand(*images.shape)).clamp(0, 255).byte()
    probs = (3 * draw.rand(batch, classes, height, width)).softmax(1)
    kind = draw("crf", "crf", "crf", "lattice", "labels", "pamr")
    if kind == "pamr":
        return partial(dhr_refine.pamr, images, probs, iterations=draw(1, 10))
    parameters = draw({}, {"sxy": 80, "srgb": 13, "gauss_sxy": 3}, {"sxy": 50, "srgb": 5, "gauss_sxy": 3})
    options = {"backend": draw("numba", "numba", "torch"), **parameters}
    labels = draw.labels(classes + 1, batch, height, width) if kind == "labels" else None
    compats = draw({}, {"compat": 10, "gauss_compat": 3}, {"min_prob": 0.05}, {"iterations": 3})

    def call() -> Tensor:
        given = probs
        if labels is not None:
            given = dhr_refine.probs_from_labels(labels, num_classes=classes + 1)
        lattice = dhr_refine.DenseCRFLattice(images, **options) if kind == "lattice" else None
        return dhr_refine.dense_crf(images, given, lattice=lattice, **options, **compats)

    return call


def pieces(draw: Draw) -> Callable[[], Any]:
    """Pooling, both rebalancing steps, views of crops, metrics."""
    scene = draw.scene((40, 56))
    mask, labels = scene.mask[None], {"num_classes": 9}
    kind = draw("pool", "rebalance", "view", "metrics")
    if kind == "pool":
        assign = draw("area", "majority")
        return partial(dhr_refine.class_avg_pool, scene.uss[None], mask, **labels, assign=assign)
    if kind == "rebalance":
        return partial(rebalance, scene, draw.recipe(), draw(0.8, 0.0))
    if kind == "view":
        options = {"window": (2, 5, 32, 45), "resized": draw(None, (40, 56)), "flip": draw(True, False)}
        mode = draw("bilinear", "nearest")
        return partial(crop, scene.uss, mask, mode, options)
    predicted = torch.where(draw.rand(*mask.shape) > 0.8, draw.labels(9, *mask.shape), mask)
    return partial(score, predicted, scene.truth, mask)


def rebalance(scene: Scene, recipe: Recipe, tau: float) -> Any:
    """Both steps on the scene's own mask."""
    mask, levels = scene.mask[None], [level[None] for level in scene.wss]
    uss = dhr_refine.uss_rebalance(scene.uss[None], mask, num_classes=9, recipe=recipe)
    return uss, dhr_refine.wss_rebalance(
        uss.scores, levels, mask, uss_centroids=uss.centroids, tau=tau, recipe=recipe
    )


def crop(features: Tensor, mask: Tensor, mode: Any, options: dict[str, Any]) -> Any:
    """Features cut to an augmented crop."""
    view = View.of((50, 60), **options)
    return view, view.crop(features, mode=mode), has_labels(mask)


def score(predicted: Tensor, truth: Tensor, base: Tensor) -> Any:
    """All metrics of a prediction."""
    scores = MaskScores(num_classes=9)
    scores.update(predicted, truth[None], base=base)
    counts = image_counts(predicted[0], truth, num_classes=9)
    return scores.compute(), counts, inter_class_share(base)


def make(number: int) -> Callable[[], Any]:
    """A call with its arguments, ready to be made."""
    kinds = (refine, refine, refine, transport, crf, pieces)
    return kinds[number % len(kinds)](Draw(number))


def run(call: Callable[[], Any]) -> str:
    """Fingerprint of a call's result, or the text of its error."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return digest(call())
        except (ValueError, TypeError) as error:
            return f"{type(error).__name__}: {error}"


def main() -> int:
    """Write or compare; returns the exit code."""
    parser = argparse.ArgumentParser(description="Compare the results of two versions bit by bit.")
    parser.add_argument("job", choices=("write", "compare"))
    parser.add_argument("file", type=Path)
    parser.add_argument("--calls", type=int, default=CALLS, help="random calls (%(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = [run(make(number)) for number in range(arguments.calls)]
    failed = sum(":" in result for result in results)
    print(f"{len(results)} calls, {failed} of them errors, {len(set(results))} different results")
    print(f"library: {Path(dhr_refine.__file__).parent}")
    if arguments.job == "write":
        arguments.file.write_text(json.dumps(results, indent=0))
        return 0
    expected = json.loads(arguments.file.read_text())
    wrong = [n for n, (one, other) in enumerate(zip(results, expected, strict=True)) if one != other]
    print(f"{len(wrong)} differ" + "".join(f"\n{n}: {expected[n]} -> {results[n]}" for n in wrong[:10]))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())
