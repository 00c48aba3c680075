"""Speed of the dense CRF against pydensecrf.

``pytest tests/benchmarks/test_crf_speed.py --benchmark-only`` times single calls. Run as a script, this file
measures the tables of docs/dense_crf.md, with all variants interleaved in one run. Keep the machine quiet.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from numba import njit
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness import environment, figures, interleave, peak_of, publish, seconds, table, threads
from photos import LATTICE, PRESETS, photo, scores

from dhr_refine import DenseCRFLattice, dense_crf, pamr, par
from dhr_refine.crf.lattice import gaussian_lattices


def variants(
    image: Tensor, probs: Tensor, preset: dict[str, float], *, slow: bool = True
) -> dict[str, Callable[[], object]]:
    """The calls to compare; "first call" builds both lattices, as on the first image of a size."""
    options = {key: preset[key] for key in LATTICE}
    kept = {name: DenseCRFLattice(image, backend=name, **options) for name in ("numba", "torch")}

    def call(backend: str) -> Callable[[], object]:
        return lambda: dense_crf(image, probs, backend=backend, **preset)

    def first_call() -> object:
        gaussian_lattices.clear()
        return dense_crf(image, probs, backend="numba", **preset)

    calls = {
        "pydensecrf": call("pydensecrf"),
        "numba, first call": first_call,
        "numba, next images": call("numba"),
        "numba, lattice kept": lambda: dense_crf(image, probs, lattice=kept["numba"], **preset),
    }
    if slow:
        calls["torch, next images"] = call("torch")
        calls["torch, lattice kept"] = lambda: dense_crf(image, probs, lattice=kept["torch"], **preset)
    return calls


@pytest.mark.parametrize("number", [1, 2])
@pytest.mark.parametrize("classes", [4, 21])
@pytest.mark.parametrize("preset", ["A", "B", "C"])
@pytest.mark.parametrize("variant", ["pydensecrf", "numba, next images", "numba, lattice kept"])
def test_dense_crf(benchmark, variant, preset, classes, number):
    benchmark.group = f"{preset}, {classes} classes, {number} threads"
    image, probs = photo("astronaut", 512, 512), scores(classes, 512, 512)
    with threads(number):
        benchmark(variants(image, probs, PRESETS[preset])[variant])


def test_pamr(benchmark):
    with threads(1):
        benchmark(pamr, photo("astronaut", 512, 512), scores(4, 512, 512))


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_par(benchmark, scale):
    with threads(1):
        benchmark(par, photo("astronaut", 512, 512), scores(4, 512, 512), scale=scale)


# --- tables -------------------------------------------------------------------------------------------


def speed_table(rounds: int, photos: list[str], presets: list[str], counts: list[int]) -> Iterator[str]:
    """Every variant: preset, classes, threads."""
    rows = []
    for name in photos:
        size = (512, 512) if name == "astronaut" else (400, 512)
        for preset in presets:
            for classes in counts:
                image, probs = photo(name, *size), scores(classes, *size)
                for number in (1, 2):
                    with threads(number):
                        times = interleave(variants(image, probs, PRESETS[preset]), rounds=rounds)
                    reference = times["pydensecrf"]
                    ratios = [
                        f"{reference.wall / times[key].wall:.2f}" for key in times if key != "pydensecrf"
                    ]
                    rows.append([name, preset, str(classes), str(number), seconds(reference), *ratios])
    head = ["photo", "preset", "classes", "threads", "pydensecrf"]
    head += ["numba, first call", "numba, next images", "numba, lattice kept"]
    yield table([*head, "torch, next images", "torch, lattice kept"], rows)


@njit(nogil=True)
def _compute(values: np.ndarray, rounds: int) -> None:
    for _ in range(rounds):
        for i in range(values.size):
            values[i] = values[i] * np.float32(0.99) + np.float32(1)


def _control(number: int) -> None:
    """As many pieces of work as images, which fit the first cache and share nothing, on some threads."""
    pieces = [np.ones(4096, np.float32) for _ in range(16)]
    with ThreadPoolExecutor(number) as pool:
        list(pool.map(_compute, pieces, [25_000] * 16))


def batch_table(rounds: int) -> Iterator[str]:
    """A batch, one image a thread: one thread and two take turns with pydensecrf, which uses one.

    The last column is what the second thread brings to work that needs no memory, in the same run: two
    virtual cores may be one real one.
    """
    rows = []
    images = torch.stack([photo("astronaut", 400, 400), photo("coffee", 400, 400)] * 8)
    probs = scores(4, 400, 400, batch=16)

    def call(preset: str, backend: str, number: int) -> None:
        with threads(number):
            dense_crf(images, probs, backend=backend, **PRESETS[preset])

    for preset in ("A", "B", "C"):
        peers = {
            "pydensecrf": partial(call, preset, "pydensecrf", 1),
            "one": partial(call, preset, "numba", 1),
            "two": partial(call, preset, "numba", 2),
            "control, one": partial(_control, 1),
            "control, two": partial(_control, 2),
        }
        reference, one, two, alone, both = interleave(peers, rounds=rounds, seconds=300).values()
        pairs = [(reference, one), (reference, two), (one, two), (alone, both)]
        cells = [seconds(time) for time in (reference, one, two)]
        rows.append([preset, *cells, *(f"{slow.wall / fast.wall:.2f}" for slow, fast in pairs)])
    head = ["16 images of 400 x 400, preset", "pydensecrf", "numba, 1 thread", "numba, 2 threads"]
    head += ["ratio, 1 thread", "ratio, 2 threads", "gain of the second thread"]
    yield table([*head, "its gain without memory"], rows)


def growth_table(rounds: int) -> Iterator[str]:
    """Pixels, classes and iterations, one thread, preset C."""
    rows = []
    cases = [(side, 4, 10) for side in (128, 256, 384, 512)]
    cases += [(256, classes, 10) for classes in (2, 8, 16, 21, 41, 81)]
    cases += [(256, 4, iterations) for iterations in (1, 5, 20)]
    for side, classes, iterations in cases:
        image, probs = photo("astronaut", side, side), scores(classes, side, side)
        options = {**PRESETS["C"], "iterations": iterations}
        with threads(1):
            times = interleave(
                {
                    backend: lambda b=backend, i=image, p=probs, o=options: dense_crf(i, p, backend=b, **o)
                    for backend in ("pydensecrf", "numba", "torch")
                },
                rounds=rounds,
            )
        cells = [seconds(times[key]) for key in ("pydensecrf", "numba", "torch")]
        rows.append([f"{side} x {side}", str(classes), str(iterations), *cells])
    yield table(["size", "classes", "iterations", "pydensecrf", "numba", "torch"], rows)


def parity_table() -> Iterator[str]:
    """Differences to pydensecrf over photos, presets, classes and odd sizes."""
    rows = []
    for preset, options in PRESETS.items():
        worst = {"numba": [0.0, 1.0], "torch": [0.0, 1.0]}
        for name, size in (
            ("astronaut", (512, 512)),
            ("coffee", (399, 511)),
            ("chelsea", (299, 451)),
            ("rocket", (427, 301)),
        ):
            for classes in (2, 5, 21):
                image, probs = photo(name, *size), scores(classes, *size)
                expected = dense_crf(image, probs, backend="pydensecrf", **options)
                for backend, (largest, equal) in worst.items():
                    result = dense_crf(image, probs, backend=backend, **options)
                    share = float((result.argmax(0) == expected.argmax(0)).double().mean())
                    difference = float((result - expected).abs().max())
                    worst[backend] = [max(largest, difference), min(equal, share)]
        cells = [f"{figures(v[0], 2)}, {100 * v[1]:.4f} %" for v in worst.values()]
        kernel = "/".join(f"{options[key]}" for key in ("sxy", "srgb", "compat"))
        rows.append([f"{preset} ({kernel}; {options['gauss_sxy']}/{options['gauss_compat']})", *cells])
    yield table(["preset (bilateral; Gaussian)", "numba: max abs ΔQ, equal argmax", "torch"], rows)


def lattice_table() -> Iterator[str]:
    """Memory of a lattice."""
    rows = []
    for preset, options in PRESETS.items():
        image = photo("astronaut", 512, 512)
        sizes = []
        for backend in ("numba", "torch"):
            lattice = DenseCRFLattice(image, backend=backend, **{key: options[key] for key in LATTICE})
            sizes.append(f"{lattice.nbytes / 1e6:.0f} + {lattice._gaussian.nbytes / 1e6:.0f} MB")
        rows.append([preset, *sizes])
    yield table(["preset, 512 x 512", "numba: image + shared Gaussian", "torch"], rows)


def memory_table() -> Iterator[str]:
    """Peak memory of a call above what was there before, each in a process of its own."""
    rows = []
    for classes in (4, 21):
        cells = []
        for backend in ("pydensecrf", "numba", "torch"):
            code = f"import test_crf_speed; print(test_crf_speed.peak({backend!r}, {classes}))"
            folder = Path(__file__).parent
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
            )
            cells.append(f"{done.stdout.split()[-1]} MB")
        rows.append([str(classes), *cells])
    yield table(["classes, 512 x 512, preset C", "pydensecrf", "numba", "torch"], rows)


def peak(backend: str, classes: int) -> int:
    """Megabytes at the peak of a call, above the inputs and the libraries."""
    torch.set_num_threads(1)
    image, probs = photo("astronaut", 512, 512), scores(classes, 512, 512)
    dense_crf(image[:, :64, :64], probs[:, :64, :64], backend=backend)  # loads and compiles
    return peak_of(lambda: dense_crf(image, probs, backend=backend))


def boundary_table(rounds: int) -> Iterator[str]:
    """PAMR and PAR beside the CRF."""
    image, probs = photo("astronaut", 512, 512), scores(4, 512, 512)
    with threads(1):
        times = interleave(
            {
                "pydensecrf": lambda: dense_crf(image, probs, backend="pydensecrf"),
                "dense_crf": lambda: dense_crf(image, probs),
                "pamr": lambda: pamr(image, probs),
                "par": lambda: par(image, probs),
                "par, scale=0.5": lambda: par(image, probs, scale=0.5),
            },
            rounds=rounds,
        )
    yield table(
        ["512 x 512, 4 classes, 1 thread", "time"], [[key, seconds(value)] for key, value in times.items()]
    )


def main() -> None:
    """Measure the tables asked for."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page as well")
    parser.add_argument("--photos", nargs="+", default=["astronaut"], help="for speed")
    parser.add_argument("--presets", nargs="+", default=["A", "B", "C"], help="for speed")
    parser.add_argument("--classes", nargs="+", type=int, default=[4, 21], help="for speed")
    parser.add_argument(
        "tables", nargs="*", default=["parity", "speed", "batch", "growth", "lattice", "memory", "pamr"]
    )
    options = parser.parse_args()
    measured = f"{environment('numba', 'pydensecrf2')}; {options.rounds} rounds."
    print(measured)
    actions = {
        "parity": parity_table,
        "speed": lambda: speed_table(options.rounds, options.photos, options.presets, options.classes),
        "batch": lambda: batch_table(options.rounds),
        "growth": lambda: growth_table(options.rounds),
        "lattice": lattice_table,
        "memory": memory_table,
        "pamr": lambda: boundary_table(options.rounds),
    }
    for name in options.tables:
        print(f"\n### {name}")
        publish(name, actions[name](), measured, options.write)


if __name__ == "__main__":
    main()
