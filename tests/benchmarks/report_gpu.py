"""Measure the GPU tables: ``report_gpu.py [crf step toolbox transport kernels count]``.

``count`` needs no GPU: the bytes that the dense CRF has to move. The rest is for a CUDA device; with
``--device cpu`` and a small ``--size`` it only shows that it works.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from harness import environment, figures, interleave, publish, seconds, table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from workloads import cam_scores, voc_like

from dhr_refine import (
    DenseCRFLattice,
    PermutohedralLattice,
    Recipe,
    dense_crf,
    dense_energy_loss,
    pamr,
    par,
    refine_mask,
    sinkhorn_ot,
)
from dhr_refine.crf.backends.triton import TritonKernel, launch
from dhr_refine.crf.kept import kept_kernels
from dhr_refine.crf.lattice import gaussian_lattices, run_on
from dhr_refine.pydensecrf import use_device
from dhr_refine.pydensecrf.densecrf import DenseCRF2D

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from photos import LATTICE, PRESETS, photo, scores

PHOTOS = (("astronaut", 512, 512), ("coffee", 400, 600), ("chelsea", 300, 451), ("rocket", 427, 640))
CASES = (("A", 4), ("C", 4), ("A", 21), ("C", 21))


def scene(options: argparse.Namespace, classes: int) -> tuple[Tensor, Tensor]:
    """A batch of four photos in turn, cut or mirrored at the edge to the size, and smooth scores."""
    crops = [photo(name, *shape) for name, *shape in PHOTOS]
    images = [_fit(crops[i % len(crops)], options.size) for i in range(options.batch)]
    probs = scores(classes, options.size, options.size, batch=options.batch)
    return torch.stack(images).to(options.device), probs.to(options.device)


def _fit(image: Tensor, size: int) -> Tensor:
    for axis in (1, 2):
        places = torch.arange(size) % (2 * image.shape[axis])
        mirrored = torch.minimum(places, 2 * image.shape[axis] - 1 - places)
        image = image.index_select(axis, mirrored)
    return image


def backends(options: argparse.Namespace) -> tuple[str, ...]:
    """What can run on the device."""
    fused = options.device == "cuda" and find_spec("triton") is not None
    return ("torch", "triton") if fused else ("torch",)


# --- bytes --------------------------------------------------------------------------------------------


class Traffic(TorchDispatchMode):
    """Bytes that operators read and write, each tensor once: what moves where no cache helps."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = self.launches = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function.overloadpacket.__name__
        if function.is_view or name in ("empty", "new_empty", "empty_like", "empty_strided", "detach"):
            return result
        out = [value for value in tree_leaves(result) if isinstance(value, Tensor)]
        out = out[:1] if "embedding_bag" in name else out  # the others serve gradients
        written = {id(value) for value in out}
        overwrites = name in ("copy_", "fill_", "zero_") or function._overloadname == "out"
        made = name in ("new_zeros", "new_full", "zeros_like", "full_like")
        read = {id(value): value.nbytes for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)}
        for key in list(read):
            if made or (overwrites and key in written):
                del read[key]
        self.bytes += sum(read.values()) + sum(value.nbytes for value in out)
        self.launches += 1
        return result


def count(options: argparse.Namespace) -> Iterator[str]:
    """Gigabytes of one mean field iteration: each array read or written once a kernel. Runs on the CPU."""
    rows = []
    for preset, classes in CASES:
        images, probs = scene(argparse.Namespace(**{**vars(options), "device": "cpu"}), classes)
        gaussian_lattices.clear()
        with Traffic() as building:
            lattice = DenseCRFLattice(images, backend="torch", **_deviations(preset))
        with Traffic() as converting:
            fused = _converted(lattice)
        totals = []
        for iterations in (1, 2):
            with Traffic() as traffic:
                run_on(lattice, probs, iterations=iterations, compat=4, gauss_compat=3)
            totals.append((traffic.bytes, traffic.launches))
        moved, launches = (after - before for before, after in zip(*totals))
        stages = fused_bytes(*fused, len(images), classes)
        cells = [f"{1e-9 * moved:.3g} in {launches} operators", f"{1e-9 * sum(stages.values()):.3g}"]
        cells += [f"{1e-9 * part:.2g}" for part in stages.values()]
        built = building.bytes, building.bytes + converting.bytes
        cells += [f"{1e-9 * part:.3g}" for part in built]
        rows.append(
            [f"{preset}, {classes}", *cells, f"{_vertices(fused[0]) / len(images) / 1e3:.0f} thousand"]
        )
    head = ["preset, classes", "torch", "triton", "of it sums at the vertices", "blur", "slice and softmax"]
    yield table([*head, "building, torch", "building, triton", "vertices an image"], rows)


def _deviations(preset: str) -> dict[str, Any]:
    return {key: PRESETS[preset][key] for key in LATTICE}


def _converted(lattice: DenseCRFLattice) -> tuple[TritonKernel, TritonKernel]:
    """A torch lattice as the Triton kernels take it."""
    kernels, batches = (lattice._bilateral, lattice._gaussian), (lattice.shape[0], 1)
    bilateral, gaussian = (launch._convert(*pair) for pair in zip(kernels, batches))
    return bilateral, gaussian


def _vertices(kernel: TritonKernel) -> int:
    return kernel.neighbours.shape[2]


def fused_bytes(bilateral: TritonKernel, gaussian: TritonKernel, batch: int, classes: int) -> dict[str, int]:
    """What the Triton kernels read and write in one iteration, array by array."""
    pixels = gaussian.corners.shape[1]
    row = 4 * launch.padded(classes)  # bytes of a pixel's or vertex's channels
    stages = {"sums": 0, "blur": 0, "slice": 2 * batch * pixels * row}
    for kernel, sharing in ((bilateral, 1), (gaussian, batch)):
        axes, vertices = len(kernel.neighbours), _vertices(kernel)
        lists = kernel.pixels.nbytes + kernel.pixel_weights.nbytes
        lists += sum(value.nbytes for level in kernel.levels for value in vars(level).values())
        values = batch * pixels + sharing * (kernel.rows + kernel.rows - vertices)  # a sum is read again
        stages["sums"] += lists + values * row
        stages["blur"] += kernel.neighbours.nbytes + axes * sharing * 2 * vertices * row
        stages["slice"] += kernel.corners.nbytes + kernel.weights.nbytes + sharing * vertices * row
    return stages


# --- times --------------------------------------------------------------------------------------------


def crf(options: argparse.Namespace) -> Iterator[str]:
    """A batch through the dense CRF: lattice, one call on it, bandwidth against a copy, memory."""
    yield f"A copy moves {_bandwidth(options):.2f} TB/s, counting bytes read and written."
    for preset, classes in CASES:
        images, probs = scene(options, classes)
        deviations = _deviations(preset)
        cpu = images[:1].cpu(), probs[:1].cpu()
        calls: dict[str, Callable[[], Any]] = {}
        if find_spec("pydensecrf") is not None:
            calls["pydensecrf"] = partial(dense_crf, *cpu, backend="pydensecrf", **PRESETS[preset])
        lattices = {
            backend: DenseCRFLattice(images, backend=backend, **deviations) for backend in backends(options)
        }
        for backend, lattice in lattices.items():
            calls[f"{backend}, building"] = partial(DenseCRFLattice, images, backend=backend, **deviations)
            calls[backend] = partial(dense_crf, images, probs, lattice=lattice, **PRESETS[preset])
        times = interleave(calls, rounds=options.rounds, seconds=60)
        moved = 10 * sum(fused_bytes(*_converted(lattices["torch"]), options.batch, classes).values())
        expected = calls["torch"]()
        peer = f"{options.batch * times['pydensecrf'].wall:.3g} s" if "pydensecrf" in times else "-"
        rows = []
        for backend in backends(options):
            alone = [calls[f"{backend}, building"], calls[backend]]
            rows.append(
                [
                    f"{preset}, {classes} classes, {backend}",
                    seconds(times[f"{backend}, building"]),
                    seconds(times[backend]),
                    f"{1e3 * times[backend].wall / options.batch:.2f} ms",
                    peer,
                    f"{1e-12 * moved / times[backend].wall:.2f} TB/s",
                    " + ".join(_peak(call, options.device) for call in alone),
                    figures(float((calls[backend]() - expected).abs().max()), 2),
                ]
            )
        head = ["preset", "building the lattice", "one call on it", "an image", "pydensecrf, one core"]
        yield table([*head, "triton's bytes over time", "peak: building, call", "off torch by"], rows)


def _bandwidth(options: argparse.Namespace) -> float:
    source = torch.rand(2**28 if options.device == "cuda" else 2**22, device=options.device)
    target = torch.empty_like(source)
    time = interleave({"copy": partial(target.copy_, source)}, rounds=options.rounds)["copy"].wall
    return 1e-12 * 2 * source.nbytes / time


def _peak(call: Callable[[], object], device: str) -> str:
    if device != "cuda":
        return "-"
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return f"{(torch.cuda.max_memory_allocated() - before) / 1e6:.0f} MB"


def step(options: argparse.Namespace) -> Iterator[str]:
    """The whole step for a batch of 1 to 5 tags: both CRF calls, none, and each boundary tool."""
    given = voc_like(options.batch, size=options.size).to(options.device)
    given = given._replace(images=scene(options, 2)[0])
    calls = {
        "default": partial(given.call, refine_mask),
        "Recipe.released()": partial(given.call, refine_mask, recipe=Recipe.released()),
        "PAMR": partial(given.call, refine_mask, boundary="pamr"),
        "no boundary tool": partial(given.call, refine_mask, boundary=None),
    }
    if "triton" in backends(options):
        calls["triton, each call builds its lattice"] = partial(
            given.call, refine_mask, boundary=partial(dense_crf, backend="triton")
        )
    times = interleave(calls, rounds=options.rounds, seconds=120)
    rows = [
        [name, seconds(time), f"{1e3 * time.wall / options.batch:.2f} ms", _peak(calls[name], options.device)]
        for name, time in times.items()
    ]
    yield table(
        [f"batch {options.batch}, {options.size} x {options.size}", "time", "an image", "peak memory"], rows
    )


def toolbox(options: argparse.Namespace) -> Iterator[str]:
    """PAR, PAMR, the energy loss, the lattice of any features, and a field of pydensecrf's interface."""
    images, probs = scene(options, 21)
    size, batch = options.size, options.batch
    logits = probs.clamp_min(1e-4).log().requires_grad_()
    labels = torch.where(probs.amax(1) > 0.6, probs.argmax(1), 255)
    places = torch.stack(torch.meshgrid(*[torch.arange(float(size))] * 2, indexing="ij")).to(images.device)
    features = torch.cat([places.expand(batch, 2, size, size) / 50, images.float() / 15], dim=1)
    lattice = PermutohedralLattice(features)
    rgb = images[0].permute(1, 2, 0).cpu().numpy()
    unary = -probs[0].clamp_min(1e-5).log().flatten(1).cpu().numpy()

    def loss() -> Tensor:
        value = dense_energy_loss(images, logits, labels)
        return torch.autograd.grad(value, logits)[0]

    def field() -> Any:
        kept_kernels.clear()  # as for an image that is new
        own = DenseCRF2D(size, size, len(unary))
        own.setUnaryEnergy(unary)
        own.addPairwiseGaussian(sxy=3, compat=3)
        own.addPairwiseBilateral(sxy=80, srgb=13, rgbim=rgb, compat=10)
        return own.inference(10)

    calls: dict[str, Callable[[], Any]] = {
        "pamr": partial(pamr, images, probs),
        "par": partial(par, images, probs),
        "par, scale=0.5": partial(par, images, probs, scale=0.5),
        "dense_energy_loss and its gradient": loss,
        "PermutohedralLattice of five features": partial(PermutohedralLattice, features),
        "its filter": partial(lattice.filter, probs),
        "DenseCRF2D of one image": field,
    }
    use_device(options.device)
    try:
        times = interleave(calls, rounds=options.rounds, seconds=120)
        rows = [[name, seconds(time), _peak(calls[name], options.device)] for name, time in times.items()]
    finally:
        use_device("cpu")
    yield table([f"batch {batch}, {size} x {size}, 21 classes", "time", "peak memory"], rows)


def transport(options: argparse.Namespace) -> Iterator[str]:
    """sinkhorn_ot against POT on the device, at a marginal error of 1e-3."""
    import transport_peers  # needs POT

    rows = []
    shapes = ((16, 3, 4096), (16, 10, 4096), (1, 5, 512 * 512))
    for batch, classes, pixels in shapes:
        maps = cam_scores(batch, classes, pixels).to(options.device)
        calls = {"dhr_refine": partial(sinkhorn_ot, maps)}
        calls["POT torch"] = partial(transport_peers.PEERS["POT torch"], maps)
        times = interleave(calls, rounds=options.rounds)
        ratio = times["POT torch"].wall / times["dhr_refine"].wall
        rows.append([f"B{batch} N{pixels} K{classes}", seconds(times["dhr_refine"]), f"{ratio:.1f}"])
    yield table(["case", "dhr_refine", "POT torch over ours"], rows)


def kernels(options: argparse.Namespace) -> Iterator[str]:
    """Where the device's time goes: kernels of the step and of each CRF backend, by total time."""
    from torch.profiler import ProfilerActivity, profile

    activity = ProfilerActivity.CUDA if options.device == "cuda" else ProfilerActivity.CPU
    images, probs = scene(options, 4)
    given = voc_like(options.batch, size=options.size).to(options.device)._replace(images=images)
    calls: dict[str, Callable[[], object]] = {"refine_mask": partial(given.call, refine_mask)}
    for backend in backends(options):
        lattice = DenseCRFLattice(images, backend=backend)
        calls[f"dense_crf, {backend}"] = partial(dense_crf, images, probs, lattice=lattice)
    for name, call in calls.items():
        call()
        with profile(activities=[activity]) as recorded:
            call()
        key = "self_device_time_total" if options.device == "cuda" else "self_cpu_time_total"
        entries = sorted(recorded.key_averages(), key=lambda entry: -getattr(entry, key))[:12]
        rows = [[_short(e.key), str(e.count), f"{getattr(e, key) / 1e3:.2f} ms"] for e in entries]
        yield table([name, "launches", "time"], rows)


def _short(name: str, length: int = 70) -> str:
    name = name.replace("|", " ")
    return name if len(name) <= length else name[: length - 3] + "..."


TABLES = {f.__name__: f for f in (crf, step, toolbox, transport, kernels, count)}


def main(arguments: Iterable[str] | None = None) -> None:
    """Measure the tables asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page as well")
    parser.add_argument("--strict", action="store_true", help="stop where a table fails")
    parser.add_argument("tables", nargs="*", default=[], help=f"of {', '.join(TABLES)}")
    options = parser.parse_args(None if arguments is None else list(arguments))
    measured = f"{environment()}; {options.rounds} rounds."
    print(measured)
    for name in options.tables or TABLES:
        gaussian_lattices.clear()
        print(f"\n### {name}: {TABLES[name].__doc__}", flush=True)
        try:
            publish(name, TABLES[name](options), measured, options.write)
        except Exception:  # the device is rare: the other tables are wanted all the same
            if options.strict:
                raise
            traceback.print_exc()


if __name__ == "__main__":
    main()
