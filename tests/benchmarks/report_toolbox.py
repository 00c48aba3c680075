"""Measure the tables of docs/pydensecrf.md: ``report_toolbox.py [--write docs/pydensecrf.md] [usual terms]``.

Peers are interleaved in one run, on one thread. Keep the machine quiet; all of it takes about ten minutes.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Before NumPy: its BLAS would keep a second thread spinning.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import torch
from harness import Timing, interleave, report, seconds, table, threads

import dhr_refine.pydensecrf.densecrf as ours
from dhr_refine import DenseCRFLattice, dense_crf
from dhr_refine.crf.kept import kept_kernels
from dhr_refine.pydensecrf import utils

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from photos import LATTICE, PRESETS, photo, scores

original: Any = importlib.import_module("pydensecrf.densecrf")
SIZE = 512, 512


def _scene(classes: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray, np.ndarray]:
    """A photo and smooth scores as tensors, and as what pydensecrf takes."""
    image, probs = photo("astronaut", *SIZE), scores(classes, *SIZE)
    rgb = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    return image, probs, rgb, np.ascontiguousarray(utils.unary_from_softmax(probs.numpy()))


def _ratio(peer: Timing, own: Timing) -> str:
    return f"{peer.cpu / own.cpu:.2f} ({peer.wall / own.wall:.2f})"


def _same(run: Callable[[Any], Any]) -> float:
    """Share of pixels whose label is the original's."""
    return float((np.argmax(run(ours), axis=0) == np.argmax(run(original), axis=0)).mean())


def usual(rounds: int) -> Iterator[str]:
    """The two usual terms: the interface of pydensecrf, dense_crf and the original, image new and known."""
    rows = []
    for name, classes in (("A", 21), ("C", 21), ("A", 4), ("C", 4)):
        image, probs, rgb, unary = _scene(classes)
        options: dict[str, Any] = PRESETS[name]
        lattice = DenseCRFLattice(image, **{key: options[key] for key in LATTICE})

        def run(module: Any, o: dict[str, Any] = options, u: np.ndarray = unary, i: np.ndarray = rgb) -> Any:
            field = module.DenseCRF2D(SIZE[1], SIZE[0], len(u))
            field.setUnaryEnergy(u)
            field.addPairwiseGaussian(sxy=o["gauss_sxy"], compat=o["gauss_compat"])
            field.addPairwiseBilateral(sxy=o["sxy"], srgb=o["srgb"], rgbim=i, compat=o["compat"])
            return field.inference(10)

        def new(f: Callable[[Any], Any] = run) -> Any:
            kept_kernels.clear()
            return f(ours)

        with threads(1):
            times = interleave(
                {
                    "original": lambda f=run: f(original),
                    "new": new,
                    "dense_crf": lambda i=image, p=probs, o=options: dense_crf(i, p, **o),
                    "known": lambda f=run: f(ours),
                    "lattice": lambda i=image, p=probs, o=options, k=lattice: dense_crf(i, p, lattice=k, **o),
                },
                rounds=rounds,
            )
            same = _same(run)
        peer, fresh, call, known, kept = times.values()
        rows.append([f"{name}, {classes} labels", seconds(peer), seconds(fresh), _ratio(peer, fresh)])
        rows[-1] += [_ratio(call, fresh), seconds(known), _ratio(peer, known), _ratio(kept, known)]
        rows[-1].append(f"{100 * same:.4f} %")
    head = ["512 x 512, 10 iterations", "pydensecrf", "here, new image", "ratio CPU (wall)"]
    head += ["dense_crf / here", "known image", "ratio", "dense_crf with lattice / here", "equal labels"]
    yield table(head, rows)


def _programs(rgb: np.ndarray, classes: int) -> dict[str, Callable[[Any, Any], None]]:
    """Terms of other kinds than the usual two, by what they are."""
    grey = rgb.mean(axis=2).astype(np.float32)
    colour = utils.create_pairwise_bilateral((40, 40), (13, 13, 13), rgb, chdim=2)
    single = utils.create_pairwise_bilateral((40, 40), 13, grey)
    extra = np.concatenate([colour, colour[2:3] * 0.5])
    places = utils.create_pairwise_gaussian((3, 3), SIZE)
    generator = np.random.default_rng(0)
    matrix = -(3 * np.eye(classes) + generator.random((classes, classes))).astype(np.float32)

    def features_alone(module: Any, field: Any) -> None:
        field.addPairwiseEnergy(places, compat=3)
        field.addPairwiseEnergy(colour, compat=10)

    def one_channel(module: Any, field: Any) -> None:
        field.addPairwiseEnergy(places, compat=3)
        field.addPairwiseEnergy(single, compat=10)

    def six_features(module: Any, field: Any) -> None:
        field.addPairwiseEnergy(extra, compat=10)

    def with_matrix(module: Any, field: Any) -> None:
        field.addPairwiseGaussian(sxy=3, compat=matrix)
        field.addPairwiseBilateral(sxy=40, srgb=13, rgbim=rgb, compat=matrix)

    def normalised_after(module: Any, field: Any) -> None:
        field.addPairwiseGaussian(sxy=3, compat=3, normalization=module.NORMALIZE_AFTER)
        field.addPairwiseBilateral(
            sxy=40, srgb=13, rgbim=rgb, compat=10, normalization=module.NORMALIZE_AFTER
        )

    def three_terms(module: Any, field: Any) -> None:
        field.addPairwiseGaussian(sxy=3, compat=3)
        field.addPairwiseBilateral(sxy=40, srgb=13, rgbim=rgb, compat=10)
        field.addPairwiseBilateral(sxy=80, srgb=5, rgbim=rgb, compat=4)

    def colours_alone(module: Any, field: Any) -> None:
        field.addPairwiseBilateral(sxy=40, srgb=13, rgbim=rgb, compat=10)

    return {
        "create_pairwise_gaussian and _bilateral, RGB": features_alone,
        "the same, one channel": one_channel,
        "one kernel of six features": six_features,
        "matrix of compatibilities": with_matrix,
        "NORMALIZE_AFTER": normalised_after,
        "three terms": three_terms,
        "bilateral term alone": colours_alone,
    }


def terms(rounds: int) -> Iterator[str]:
    """Other terms than the usual two, against the original, the image new to both."""
    rows = []
    for classes in (21, 4):
        _, _, rgb, unary = _scene(classes)
        for name, add in _programs(rgb, classes).items():

            def run(module: Any, a: Callable[..., None] = add, u: np.ndarray = unary) -> Any:
                kept_kernels.clear()
                field = module.DenseCRF2D(SIZE[1], SIZE[0], len(u))
                field.setUnaryEnergy(u)
                a(module, field)
                return field.inference(10)

            with threads(1):
                times = interleave(
                    {"original": lambda f=run: f(original), "ours": lambda f=run: f(ours)}, rounds=rounds
                )
                same = _same(run)
            peer, own = times.values()
            rows.append([f"{name}, {classes} labels", seconds(peer), seconds(own), _ratio(peer, own)])
            rows[-1].append(f"{100 * same:.4f} %")
    yield table(["512 x 512, 10 iterations", "pydensecrf", "here", "ratio CPU (wall)", "equal labels"], rows)


TABLES = {f.__name__: f for f in (usual, terms)}

if __name__ == "__main__":
    report(TABLES, __doc__, rounds=5, packages=("numba", "pydensecrf2"), note="one thread, ")
