"""Measure the tables of docs/benchmarks.md: ``report.py [--write docs/benchmarks.md] [transport step ...]``.

Peers are interleaved in one run. Keep the machine quiet; all of it takes about ten minutes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# One thread means one: NumPy's BLAS would keep a second one spinning, on everybody's CPU time. Before NumPy.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import energy_peer
import torch
import torch.nn.functional as F
import transport_peers
from harness import Timing, figures, interleave, peak_of, report, seconds, table, threads
from torch import Tensor
from workloads import Step, cam_scores, saturated, voc_like

from dhr_refine import (
    ClassMemory,
    Recipe,
    class_avg_pool,
    dense_crf,
    dense_energy_loss,
    refine_mask,
    sinkhorn_ot,
)
from dhr_refine.compiled import lookup
from dhr_refine.inputs.images import IMAGENET_MEAN, IMAGENET_STD

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import released
from photos import photo


def _transport_cases() -> dict[str, Tensor]:
    return {
        "B16 N4096 K3": cam_scores(16, 3, 4096),
        "B16 N4096 K10": cam_scores(16, 10, 4096),
        "B1 N262144 K5": cam_scores(1, 5, 262144),
        "B16 N1369 K4": cam_scores(16, 4, 1369),
        "B16 N4096 K5 saturated": saturated(cam_scores(16, 5, 4096)),
    }


def transport(rounds: int) -> Iterator[str]:
    """sinkhorn_ot against its peers at a largest relative marginal error of 1e-3, one thread."""
    rows = []
    for name, scores in _transport_cases().items():
        with threads(1):
            peers = {key: lambda f=f, s=scores: f(s) for key, f in transport_peers.PEERS.items()}
            peers["torch path"] = lambda s=scores: _torch_path(s)
            times = interleave(peers, rounds=rounds)
        rows.append(_ratios(name, times))
    scores, valid = cam_scores(16, 8, 4096), torch.arange(8) < (2 + torch.arange(16) % 7)[:, None]
    with threads(1):
        times = interleave(
            {
                "dhr_refine": lambda: sinkhorn_ot(scores, valid=valid),
                **{
                    key: lambda f=transport_peers.PEERS[key]: [
                        f(one[None, : int(count)]) for one, count in zip(scores, valid.sum(1))
                    ]
                    for key in ("POT numpy", "POT torch", "POT ot.batch", "Sinkhorn loop")
                },
                "torch path": lambda: _torch_path(scores, valid=valid),
            },
            rounds=rounds,
        )
    rows.append(_ratios("B16 N4096 K2..8", times))
    yield table(["case", "dhr_refine", *[f"{k}, CPU (wall)" for k in times if k != "dhr_refine"]], rows)


def relaxed(rounds: int) -> Iterator[str]:
    """sinkhorn_ot with class_penalty=0.1 against the balanced plan and its peers, one thread."""
    rows = []
    for name, scores in _transport_cases().items():
        with threads(1):
            peers = {key: lambda f=f, s=scores: f(s) for key, f in transport_peers.RELAXED_PEERS.items()}
            peers["torch path"] = lambda s=scores: _torch_path(s, class_penalty=transport_peers.PENALTY)
            times = interleave(peers, rounds=rounds)
            # Alone with each other: what a peer leaves in the caches decides more than the penalty.
            both = {"dhr_refine": peers["dhr_refine"], "balanced": lambda s=scores: transport_peers.ours(s)}
            balanced = interleave(both, rounds=10 * rounds)
        rows.append(_ratios(name, times) + _ratios(name, balanced)[2:])
    heads = [f"{key}, CPU (wall)" for key in (*times, "balanced") if key != "dhr_refine"]
    yield table(["case", "dhr_refine", *heads], rows)


def _torch_path(scores: Tensor, **options: Any) -> object:
    """sinkhorn_ot as it runs without numba."""
    before = lookup.usable
    lookup.usable = lambda: False  # type: ignore[assignment]
    try:
        return sinkhorn_ot(scores, **options)
    finally:
        lookup.usable = before


def _ratios(name: str, times: dict[str, Timing]) -> list[str]:
    """Peer over ours: CPU time first, wall-clock time in brackets."""
    ours = times["dhr_refine"]
    cells = [
        f"{t.cpu / ours.cpu:.1f} ({t.wall / ours.wall:.1f})" for k, t in times.items() if k != "dhr_refine"
    ]
    return [name, seconds(ours), *cells]


def pooling(rounds: int) -> Iterator[str]:
    """Pooling and cosine against the naive forms, one thread."""
    rows = []
    for dims, side, classes in ((384, 37, 4), (2048, 64, 6)):
        generator = torch.Generator().manual_seed(0)
        features = torch.randn(1, dims, side, side, generator=generator)
        mask = F.interpolate(
            torch.randint(0, classes, (1, 1, 16, 16), generator=generator).float(), (512, 512)
        )[:, 0].long()
        centroids = class_avg_pool(features, mask, num_classes=classes).vectors

        def naive_pool(features: Tensor = features, mask: Tensor = mask, classes: int = classes) -> Tensor:
            enlarged = F.interpolate(features, mask.shape[-2:])[0]
            return torch.stack([enlarged[:, mask[0] == c].mean(1) for c in range(classes)])

        def naive_cosine(features: Tensor = features, centroids: Tensor = centroids) -> Tensor:
            return F.cosine_similarity(features, centroids[0][:, :, None, None], dim=1)

        from dhr_refine.maps import compare
        from dhr_refine.pooling import cell_weights

        weights = cell_weights(mask, features.shape[-2:], num_classes=classes)
        weights = weights / weights.sum(-1, keepdim=True)
        with threads(1):
            times = interleave(
                {
                    "pool": lambda f=features, m=mask, c=classes: class_avg_pool(f, m, num_classes=c),
                    "naive pool": naive_pool,
                    "pool and cosine": lambda f=features, w=weights: compare(f, w),
                    "naive cosine": naive_cosine,
                },
                rounds=rounds,
            )
        rows.append(
            [f"{dims} x {side} x {side}, {classes} classes"]
            + [seconds(times[k]) for k in ("pool", "naive pool", "pool and cosine", "naive cosine")]
        )
    yield table(
        [
            "features, mask 512 x 512",
            "class_avg_pool",
            "enlarge and average",
            "class averages and cosine",
            "broadcast cosine",
        ],
        rows,
    )


def step(rounds: int) -> Iterator[str]:
    """The whole step per image against the straightforward released arithmetic, one thread and two."""
    rows = []
    parity = Recipe.released()
    shapes = {
        "USS 90 x 37 x 37": {"uss": (90, 37)},
        "USS 384 x 37 x 37": {"uss": (384, 37)},
    }
    for name, options in shapes.items():
        for tags in (1, 3, 5):
            scene = voc_like(1, tags=tags, photo=photo("astronaut", 512, 512), **options)
            for number in (1, 2):
                with threads(number):
                    times = interleave(
                        {
                            "released, straightforward": lambda s=scene: s.call(released.refine),
                            "Recipe.released()": lambda s=scene: s.call(refine_mask, recipe=parity),
                            "default": lambda s=scene: s.call(refine_mask),
                            "default, no CRF": lambda s=scene: s.call(refine_mask, boundary=None),
                        },
                        rounds=rounds,
                    )
                peer, ours, best, bare = times.values()
                same = _agreement(scene)
                cells = [name, str(tags), str(number), seconds(peer), seconds(ours)]
                cells += [f"{peer.cpu / ours.cpu:.1f} ({peer.wall / ours.wall:.1f})", f"{100 * same:.3f} %"]
                rows.append([*cells, seconds(best), f"{peer.wall / best.wall:.1f}", seconds(bare)])
    head = ["features", "tags", "threads", "straightforward", "Recipe.released()", "ratio CPU (wall)"]
    yield table([*head, "equal pixels", "default", "ratio wall", "default without CRF"], rows)


def _agreement(scene: Step) -> float:
    mask = scene.call(refine_mask, recipe=Recipe.released())
    return float((mask == scene.call(released.refine)).float().mean())


def growth(rounds: int) -> Iterator[str]:
    """Growth with pixels, tags, batch and number of classes, one thread."""
    rows = []
    cases: list[tuple[str, dict[str, int]]] = []
    cases += [(f"{size} x {size} pixels", {"size": size}) for size in (128, 256, 512, 1024)]
    cases += [(f"{tags} tags", {"tags": tags, "size": 256}) for tags in (1, 2, 5, 10, 20)]
    cases += [(f"batch {batch}", {"batch": batch, "size": 128}) for batch in (1, 4, 16, 32)]
    cases += [(f"{n} classes", {"num_classes": n, "size": 256}) for n in (21, 171)]
    for name, given in cases:
        options = {"batch": 1, "tags": 3, "size": 256, **given}
        batch, size = options.pop("batch"), options["size"]
        scene = voc_like(batch, **options, photo=_photo(size))
        with threads(1):
            times = interleave(
                {
                    "with CRF": lambda s=scene: s.call(refine_mask),
                    "without": lambda s=scene: s.call(refine_mask, boundary=None),
                },
                rounds=rounds,
            )
        rows.append([name, *(f"{1e3 * t.wall / batch:.3g}" for t in times.values())])
    yield table(
        ["256 x 256 (batch rows: 128 x 128), 3 tags, batch 1, 20 classes, but", "ms an image", "without CRF"],
        rows,
    )


def _photo(size: int) -> Tensor:
    """The photo at a size, enlarged beyond its own 512 pixels."""
    image = photo("astronaut", min(size, 512), min(size, 512))
    if size <= 512:
        return image
    return F.interpolate(image[None].float(), (size, size), mode="bilinear")[0].byte()


def memory(rounds: int) -> Iterator[str]:
    """Peak memory of a call above its inputs, in a process of its own."""
    del rounds
    rows = []
    for batch in (1, 16):
        cells = []
        for boundary in ("None", "'crf'"):
            code = f"import report; print(report.peak({batch}, {boundary}))"
            folder = Path(__file__).parent
            done = subprocess.run(
                [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
            )
            cells.append(f"{done.stdout.split()[-1]} MB")
        rows.append([f"batch {batch}", *cells])
    yield table(
        ["512 x 512, 5 tags, USS 90 x 37 x 37, WSS 1024 and 2048 x 64 x 64", "without CRF", "with CRF"], rows
    )


def peak(batch: int, boundary: str | None) -> int:
    """Megabytes at the peak of refine_mask."""
    torch.set_num_threads(2)
    scene = voc_like(batch, tags=5, photo=photo("astronaut", 512, 512))
    small = voc_like(1, tags=2, size=64, wss=((8, 4),), uss=(8, 4))
    small.call(refine_mask, boundary=boundary)  # loads and compiles
    return peak_of(lambda: scene.call(refine_mask, boundary=boundary))


def shares(rounds: int) -> Iterator[str]:
    """Where the time of one image goes, one thread."""
    from dhr_refine import DenseCRFLattice

    scene = voc_like(1, tags=3, photo=photo("astronaut", 512, 512))
    probs = torch.rand(1, 4, 512, 512, generator=torch.Generator().manual_seed(0))
    lattice = DenseCRFLattice(scene.images)
    with threads(1):
        times = interleave(
            {
                "whole step": lambda: scene.call(refine_mask),
                "without boundary tool": lambda: scene.call(refine_mask, boundary=None),
                "building the lattice": lambda: DenseCRFLattice(scene.images),
                "one CRF call on it, 4 classes": lambda: dense_crf(scene.images, probs, lattice=lattice),
            },
            rounds=rounds,
        )
    yield table(["512 x 512, 3 tags, 1 thread", "time"], [[key, seconds(t)] for key, t in times.items()])


def class_memory(rounds: int) -> Iterator[str]:
    """What a class memory costs: an update and a solution, and the step with and without it, one thread."""
    rows = []
    cases: list[tuple[str, dict[str, Any]]] = [
        ("384 x 37 x 37, 21 classes", {"uss": (384, 37)}),
        ("384 x 37 x 37, 171 classes, pooled", {"uss": (384, 37), "num_classes": 170}),
        ("768 x 32 x 32, 21 classes", {"uss": (768, 32)}),
    ]
    for name, options in cases:
        scene = voc_like(1, tags=3, photo=photo("astronaut", 512, 512), **options)
        count, form = options.get("num_classes", 20) + 1, "pooled" if "pooled" in name else "class"
        memory = ClassMemory(count, scene.uss.shape[1], covariance=form, least_images=1)

        def update(s: Step = scene, m: ClassMemory = memory, known: Any = None) -> None:
            m.update(s.uss, s.masks, labels=s.labels, known=known)

        def solve(s: Step = scene, m: ClassMemory = memory) -> None:
            m.load_state_dict(m.state_dict())  # forgets the solution
            m.solve()

        update()
        known = memory.solve()
        with threads(1):
            times = interleave(
                {
                    "class_avg_pool": lambda s=scene, c=count: class_avg_pool(s.uss, s.masks, num_classes=c),
                    "update": update,
                    "update(known=...)": lambda f=update, k=known: f(known=k),
                    "solve": solve,
                    "step": lambda s=scene: s.call(refine_mask),
                    "step, memory": lambda s=scene, k=known: s.call(refine_mask, memory=k),
                    "without CRF": lambda s=scene: s.call(refine_mask, boundary=None),
                    "without CRF, memory": lambda s=scene, k=known: s.call(
                        refine_mask, boundary=None, memory=k
                    ),
                },
                rounds=rounds,
            )
        rows.append([name, *map(seconds, times.values())])
        heads = list(times)
    yield table(["USS features", *heads], rows)


def energy(rounds: int) -> Iterator[str]:
    """dense_energy_loss, forward and backward, against the same arithmetic on pydensecrf's lattice."""
    rows = []
    images = torch.stack([photo("astronaut", 448, 448), photo("coffee", 400, 448).repeat(1, 2, 1)[:, :448]])
    images = torch.cat([images, images.flip(3)])
    generator = torch.Generator().manual_seed(0)
    logits = 4 * F.interpolate(torch.randn(4, 21, 28, 28, generator=generator), (448, 448), mode="bilinear")
    labels = logits.argmax(1).masked_fill_(logits.softmax(1).amax(1) < 0.5, 255)
    mean, std = (255 * torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    normalised = {"mean": mean.flatten().tolist(), "std": std.flatten().tolist()}
    for name, given, options in (
        ("uint8", images, {}),
        ("normalised", (images - mean) / std, normalised),
    ):
        found, gradient = _energy(given, logits, labels, **options)
        loss, wanted = energy_peer.follow(images, logits, labels, exact=True)
        error = float((gradient - wanted).abs().max() / wanted.abs().max())
        # Undoing the normalisation rounds, and moves a few pixels between the simplices of the lattice.
        if abs(found / loss - 1) > 1e-4 or error > (1e-3 if options else 1e-4):
            raise RuntimeError(f"{name}: loss {found} and {loss}, gradients differ by {error:.1e}")
        for number in (1, 2):
            with threads(number):
                times = interleave(
                    {
                        "dhr_refine": lambda g=given, o=options: _energy(g, logits, labels, **o),
                        "pydensecrf": lambda: energy_peer.follow(images, logits, labels),
                        "torch": lambda g=given, o=options: _energy(g, logits, labels, backend="torch", **o),
                    },
                    rounds=rounds,
                )
            rows.append([*_ratios(f"{name}, {number} thread{'s' * (number > 1)}", times), figures(error, 1)])
    yield table(
        [
            "images",
            "dhr_refine",
            "pydensecrf's lattice, CPU (wall)",
            "torch path, CPU (wall)",
            "gradient error",
        ],
        rows,
    )


def _energy(images: Tensor, logits: Tensor, labels: Tensor, **options: Any) -> tuple[float, Tensor]:
    """The loss and its gradient."""
    leaf = logits.detach().requires_grad_()
    loss = dense_energy_loss(images, leaf, labels, **options)
    return float(loss.detach()), torch.autograd.grad(loss, leaf)[0]


TABLES = {
    f.__name__: f for f in (transport, relaxed, pooling, step, class_memory, shares, growth, memory, energy)
}

if __name__ == "__main__":
    report(TABLES, __doc__, rounds=7, packages=("numba", "POT", "pydensecrf2"))
