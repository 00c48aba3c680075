"""Measure the tables of docs/folders.md: ``report_folders.py [--write docs/folders.md] [speed memory]``.

The images are VOC's of the data beside the checkout, with CAMs and features of the networks that come through
pip; more images than there are come as links to them.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import folder_peers as peers
import numpy as np
import torch
from harness import figures, report, table

sys.path.insert(0, str(Path(__file__).parents[1]))
from places import shared_folder

from dhr_refine.datasets.layouts import find_images
from dhr_refine.datasets.voc import voc_tags
from dhr_refine.files import read_image
from dhr_refine.folders import RunOptions, crf_folder, refine_folder
from dhr_refine.folders.plans import BASE, plan_masks
from dhr_refine.folders.runs.worker import Worker
from dhr_refine.pretrained import Classifier, VisionTransformer
from dhr_refine.pretrained.classifier import read_head

IMAGES = 48
CORES = 2
KINDS = {"images": ".jpg", "cams": ".npy", "uss": ".npy", "wss": ".npz", "base": ".png"}


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """A folder of images with base masks, CAMs and features, made once."""
    folder = tempfile.TemporaryDirectory()
    here, root = Path(folder.name), shared_folder() / "data" / "voc12"
    for name in KINDS:
        (here / name).mkdir()
    head = read_head(shared_folder() / "data" / "voc20_head_effnetlite0.pt", 20)
    classifier, transformer = Classifier.load(head), VisionTransformer.load()
    tags = {key: own for key, own in voc_tags(root, "val").items() if len(own) > 1}
    files = find_images(root)
    for key in sorted(tags)[:IMAGES]:
        image = read_image(files[key])
        cams, levels = classifier(image, [[tag] for tag in tags[key]])
        shutil.copy(files[key], here / "images" / f"{key}.jpg")
        content = {"keys": np.array(tags[key]), "high_res": cams.half().numpy()}
        np.save(here / "cams" / f"{key}.npy", content, allow_pickle=True)  # pyright: ignore[reportArgumentType]
        np.save(here / "uss" / f"{key}.npy", transformer(image)[0].half().numpy())
        np.savez(here / "wss" / f"{key}.npz", *[level[0].half().numpy() for level in levels])
    made = here / "made"
    refine_folder(
        here / "images", **_inputs(here, masks=False), out=made, run=RunOptions(quiet=True), boundary="crf"
    )
    for path in (made / BASE).glob("*.png"):
        shutil.copy(path, here / "base")
    return folder


def _inputs(here: Path, *, masks: bool = True) -> dict[str, Path]:
    given = {"cams": here / "cams", "uss": here / "uss", "wss": here / "wss"}
    return given | ({"masks": here / "base"} if masks else {})


def _links(here: Path, copies: int) -> Path:
    """A folder of links: each image ``copies`` times."""
    there = here / f"links-{copies}"
    if there.is_dir():
        return there
    for name, suffix in KINDS.items():
        (there / name).mkdir(parents=True)
        for path in (here / name).glob(f"*{suffix}"):
            for number in range(copies):
                (there / name / f"{path.stem}-{number}{suffix}").symlink_to(path)
    return there


def _cpu() -> float:
    own, others = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + others.ru_utime + others.ru_stime


def speed(rounds: int) -> Iterator[str]:
    """Images a second from files to files, start of the processes included."""
    here = Path(_folder().name)
    folder = _links(here, 2)
    keys = sorted(path.stem for path in (folder / "images").iterdir())
    torch.set_num_threads(CORES)

    def ours(out: Path, jobs: int) -> None:
        refine_folder(folder / "images", **_inputs(folder), out=out, run=RunOptions(jobs=jobs, quiet=True))

    def threads(out: Path) -> None:
        plan = plan_masks(folder / "images", **_inputs(folder), out=out)
        peers.in_threads(partial(Worker, plan.task), keys, CORES)

    def crf(out: Path) -> None:
        options = {"run": RunOptions(jobs=CORES, quiet=True)}
        crf_folder(folder / "images", masks=folder / "base", out=out, **options)

    calls: dict[str, Callable[[Path], None]] = {
        "a loop around `refine_mask`, one process": lambda out: peers.loop(folder, out, keys),
        "the same in a pool of 2 processes": lambda out: peers.pool(folder, out, keys, CORES),
        "`dhr-refine masks --jobs 1`": lambda out: ours(out, 1),
        "`dhr-refine masks --jobs 2`": lambda out: ours(out, CORES),
        "its workers in 2 threads instead": threads,
        "the CRF alone: pydensecrf in a pool of 2 processes": lambda out: peers.crf_pool(
            folder, out, keys, CORES
        ),
        "the CRF alone: `dhr-refine crf --jobs 2`": crf,
    }
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    masks: dict[str, bytes] = {}
    for _ in range(rounds):
        for name, call in calls.items():
            with tempfile.TemporaryDirectory() as out:
                cpu, start = _cpu(), time.perf_counter()
                call(Path(out))
                wall = time.perf_counter() - start
                times[name].append((wall, (_cpu() - cpu) / wall / CORES))
                masks[name] = b"".join(_pixels(Path(out) / f"{key}.png") for key in keys)
    own = [name for name in calls if "CRF" not in name]
    assert len({masks[name] for name in own}) == 1, "the ways give different masks"
    rows = []
    for name, found in times.items():
        wall, busy = sorted(found)[len(found) // 2]
        rows.append([name, figures(len(keys) / wall), f"{100 * busy:.0f} %"])
    yield table([f"{len(keys)} VOC images, 2 cores", "images a second", "of both cores busy"], rows)


def _pixels(path: Path) -> bytes:
    return np.asarray(peers.Image.open(path)).tobytes() if path.exists() else b""


_MEASURED = """
import resource, sys
from dhr_refine.folders import RunOptions, refine_folder
if __name__ == "__main__":
    here, out, jobs = sys.argv[1], sys.argv[2], int(sys.argv[3])
    given = {name: f"{here}/{name}" for name in ("cams", "uss", "wss")}
    report = refine_folder(
        f"{here}/images", masks=f"{here}/base", **given, out=out, boundary=None,
        run=RunOptions(jobs=jobs, quiet=True),
    )
    # What resource says of this process is the peak of the one that started it.
    lines = open("/proc/self/status").read().splitlines()
    print(next(int(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM")))
    print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e3)
    print(report.done, report.seconds)
"""


def memory(rounds: int) -> Iterator[str]:
    """Memory at the peak, of the first process and of the largest of the others; no boundary tool."""
    here = Path(_folder().name)
    rows = []
    for copies in (4, 42):
        folder = _links(here, copies)
        with tempfile.TemporaryDirectory() as out:
            script = Path(out) / "run.py"
            script.write_text(_MEASURED)
            command = [sys.executable, str(script), str(folder), str(Path(out) / "masks"), str(CORES)]
            answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        first, others, done, seconds = map(float, answer.split())
        rows.append([f"{done:,.0f}", f"{first:,.0f} MB", f"{others:,.0f} MB", f"{done / seconds:.1f}"])
    yield table(["images", "first process", "each of 2 workers", "images a second"], rows)


TABLES = {f.__name__: f for f in (speed, memory)}

if __name__ == "__main__":
    report(TABLES, __doc__, rounds=3, packages=("numba", "pydensecrf2", "pillow"))
