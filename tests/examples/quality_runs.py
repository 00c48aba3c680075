"""How the tests run examples/benchmark_quality.py on the small data set."""

from __future__ import annotations

import benchmark_quality
from quality.samples import Source, prepare
from scene_folder import CLASSES, FOLDERS, KEYS

from dhr_refine.datasets.cache import Cache
from dhr_refine.datasets.classes import class_set
from dhr_refine.datasets.index import IMAGES, FileIndex
from dhr_refine.datasets.items import select
from dhr_refine.folders.work.sources import Sources


def arguments(folder, *more, leave_out=()):
    """The command line for a folder; later arguments win."""
    own = [part for name in FOLDERS if name not in leave_out for part in (f"--{name}", str(folder / name))]
    options = ["--classes", str(CLASSES), "--boundary", "none", "--draws", "50"]
    return [*own, *options, "--cache", str(folder / "cache"), *map(str, more)]


def run(folder, *more, **options):
    """Run the command line; its summary."""
    return benchmark_quality.run(benchmark_quality.parser().parse_args(arguments(folder, *more, **options)))


def sources(folder, masks=None):
    """CAMs and features of own files."""
    wss = (folder / "wss",)
    own = {name: folder / name for name in ("images", "cams", "uss")}
    return Source(Sources(**own, wss=wss, masks=masks, classes=class_set(CLASSES)), Cache(folder / "cache"))


def samples(folder, masks=None, **options):
    """The samples of all four images."""
    items = select(
        KEYS, *(FileIndex(folder / name, IMAGES) for name in ("images", "targets")), classes=CLASSES
    )
    return [prepare(item, sources(folder, masks), **options) for item in items]


def find(summary, variant, stage):
    """A row of a summary."""
    (row,) = (r for r in summary["rows"] if (r["variant"], r["stage"]) == (variant, stage))
    return row
