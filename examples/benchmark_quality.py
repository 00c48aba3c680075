r"""Quality of refined masks on images with ground truth: each stage, each recipe, with standard errors.

On a VOC-like folder, with CAMs of a linear head on EfficientNet-lite0 and features of pretrained networks::

    python examples/benchmark_quality.py --root VOCdevkit/VOC2012 --head head.pt --min-classes 2

On index masks of any data set, with CAMs, features and base masks from your own files (one per image)::

    python examples/benchmark_quality.py --images val2017 --targets val_masks --classes 81 \
        --cams cams --uss dino --wss fmap --masks pseudo_masks

How each row is made:

- base mask: CAMs of the tags over their maximum, a constant background score, argmax. base + crf: the same
  with the boundary step before the argmax. With ``--masks`` there is one row instead, the masks as given.
  Every recipe refines the second row (or the given masks), and the differences are against it.
- seed: M_init, the base mask with the OT seed (after its boundary step) merged in.
- + USS: argmax of the scores after the USS step, without a boundary step. The step is run with tau = 1, which
  makes no group, so that the WSS step changes nothing. + WSS: the same with tau as it is.
- final without WSS, final: the two after the boundary step. final is what ``refine_mask`` returns.

The seed's boundary step runs once per recipe, and the CRF's lattice is built once per image. CAMs, features
and masks are kept in the cache folder, so that a stopped run goes on where it was. The networks' CAMs
and features are kept and used in half precision. Masks are made anew when the library's code or their inputs
change.

The parts are in the folder ``quality``, for research scripts to import:
``evaluate(samples, {"mine": Variant(replace(Recipe(), prior=0.5))}, ...)`` of ``quality.evaluation``.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from early_stop import end_at_ctrl_c

if __name__ == "__main__":
    hear_again = end_at_ctrl_c("benchmark_quality")

import torch
from quality.evaluation import (
    Edges,
    Variant,
    ablations,
    base_row,
    evaluate,
    masks_of,
    memory_of,
    memory_variants,
)
from quality.figures import TITLES, caption, cells, extremes, markdown, summarise, tau_figure
from quality.samples import Sample, Source, prepare

import dhr_refine
from dhr_refine import ClassMemory, Recipe, viz
from dhr_refine.commands.arguments import Parser, number, whole
from dhr_refine.commands.cam_options import BOUNDARIES
from dhr_refine.datasets.cache import Cache
from dhr_refine.datasets.classes import class_set
from dhr_refine.datasets.items import Item, read_list, select
from dhr_refine.datasets.layouts import find_masks
from dhr_refine.datasets.tags import read_tags
from dhr_refine.datasets.voc import voc_halves, voc_split
from dhr_refine.errors import UserError, reading, require, run_command, writing
from dhr_refine.files.writing import figure_png, without_nan, write_atomic
from dhr_refine.folders.work.learn import ROUNDS
from dhr_refine.folders.work.sources import Sources
from dhr_refine.pretrained.fetch import VIT_REQUIREMENT, cache_dir

RECIPES = {"default": Recipe(), "released": Recipe.released(), "paper": Recipe.paper()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; returns the exit code."""
    arguments = parser().parse_args(argv)
    refuse(arguments, parser().error)
    stopped = "stopped; the same command goes on from here"
    return run_command("benchmark_quality", lambda: run(arguments), stopped=stopped)


def parser() -> argparse.ArgumentParser:
    """The arguments."""
    result = Parser("benchmark_quality", description="Quality of refined masks on images with ground truth.")
    data = result.add_argument_group("data set")
    data.add_argument("--root", type=Path, help="VOC-like folder, or --images and --targets")
    data.add_argument("--images", type=Path, help="folder of images")
    data.add_argument("--targets", type=Path, help="folder of index PNGs of the same names")
    data.add_argument("--list", type=Path, help="text file of image ids (all targets)")
    data.add_argument("--split", default="val", help="split of --root, or some with commas (%(default)s)")
    data.add_argument(
        "--classes", type=whole(2, 65536), default=21, help="labels with background (%(default)s)"
    )
    data.add_argument(
        "--ignore-index", type=whole(-(2**31)), default=255, help="label left out (%(default)s)"
    )
    data.add_argument(
        "--tags",
        type=Path,
        help="cls_labels.npy, or what `dhr-refine tags` reads (default: tags of the ground truth)",
    )
    data.add_argument(
        "--min-classes", type=whole(0), default=1, help="foreground classes in the ground truth"
    )
    data.add_argument("--limit", type=whole(1), help="only the first images")
    data.add_argument(
        "--half",
        choices=("tune", "check"),
        help="the half of index.json if it has any, else the first, third, ... image, or the others",
    )
    data.add_argument(
        "--miou-labels", type=_numbers, help="labels that mIoU, mFPR and mFNR average over, as 0,8,15 (all)"
    )
    made = result.add_argument_group("CAMs, features and masks")
    made.add_argument("--head", type=Path, help="linear CAM head for EfficientNet-lite0, of torch.save")
    made.add_argument("--cams", type=Path, help="folder of CAM files, in any form that read_cams takes")
    made.add_argument("--cam-background", choices=("first", "none"), help="what number 0 means in --cams")
    made.add_argument("--uss", type=Path, help="folder of features (D, h, w): .npy, .npz or .pt")
    made.add_argument("--wss", type=Path, help="folder of features, one or several levels in a file")
    made.add_argument("--masks", type=Path, help="folder of base masks (default: made of the CAMs)")
    score = number(0, 1)
    made.add_argument("--background", type=score, default=0.2, help="background score (%(default)s)")
    made.add_argument("--vit", type=Path, help=f"the {VIT_REQUIREMENT} wheel or its ONNX file")
    made.add_argument(
        "--allow-pickle", action="store_true", help="unpickle files, which can run any code that they hold"
    )
    work = result.add_argument_group("refinement")
    work.add_argument("--boundary", choices=BOUNDARIES, default="crf", help="boundary tool (%(default)s)")
    work.add_argument(
        "--recipes", type=_recipes, default=tuple(RECIPES), help=f"of {','.join(RECIPES)} (all of them)"
    )
    work.add_argument(
        "--ablate", action="store_true", help="also the default with one choice at a time as released"
    )
    work.add_argument(
        "--taus", type=_floats, default=(), help="also the default recipe at these tau, as 0.6,0.8,1 (none)"
    )
    work.add_argument(
        "--memory",
        metavar="own|FILE",
        help="also the default with a class memory: of these images, or a file of ClassMemory.save",
    )
    work.add_argument(
        "--rounds", type=whole(0, 1000), default=ROUNDS, help="rounds of --memory own (%(default)s)"
    )
    work.add_argument("--save-memory", type=Path, metavar="FILE", help="keep the memory of --memory own")
    work.add_argument(
        "--draws", type=whole(1, 10**7), default=1000, help="resamples of the bootstrap (%(default)s)"
    )
    work.add_argument("--threads", type=whole(1, 4096), help="CPU threads of PyTorch")
    work.add_argument(
        "--cache",
        type=Path,
        default=cache_dir() / "quality",
        help="folder of what was computed (%(default)s)",
    )
    work.add_argument("--json", type=Path, help="file for all figures")
    work.add_argument("--markdown", type=Path, help="file for the table")
    work.add_argument(
        "--figures", type=Path, metavar="DIR", help="folder for extremes.png and, with --taus, tau.png"
    )
    return result


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be numbers with commas, got {text!r}") from None


def _floats(text: str) -> tuple[float, ...]:
    return tuple(map(number(-1, 1), text.split(",")))


def _recipes(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if set(names) - set(RECIPES):
        raise argparse.ArgumentTypeError(f"must be of {', '.join(RECIPES)}, with commas, got {text!r}")
    return names


def refuse(arguments: argparse.Namespace, complain: Callable[[str], object]) -> None:
    """Complain of arguments that do not go together."""
    labels = arguments.miou_labels or ()
    if len(set(labels)) < len(labels) or not all(0 <= label < arguments.classes for label in labels):
        complain(f"--miou-labels must be different labels below --classes {arguments.classes}, got {labels}")
    if arguments.ignore_index == 0:
        complain("--ignore-index 0 is the background: name the label of pixels to leave out, 255 as a rule")
    files = [path.absolute() for path in (arguments.json, arguments.markdown) if path is not None]
    if len(set(files)) < len(files):
        complain(f"--json and --markdown are both {arguments.json}: name two files")
    if arguments.save_memory is not None and arguments.memory != "own":
        complain("--save-memory keeps what --memory own makes: pass both")


def make_room(arguments: argparse.Namespace) -> None:
    """Make the folders of the files to write, before hours of work rather than after."""
    for option in ("json", "markdown", "figures", "save_memory"):
        path = getattr(arguments, option)
        if path is None:
            continue
        folder = path if option == "figures" else path.parent
        with writing(path, f"--{option.replace('_', '-')}"):
            folder.mkdir(parents=True, exist_ok=True)
            if path.is_dir() and option != "figures":
                raise IsADirectoryError(errno.EISDIR, "it is a folder")
            if not os.access(folder, os.W_OK):
                raise PermissionError(errno.EACCES, "permission denied")
    if arguments.figures is not None:
        require("matplotlib.pyplot")


def source_of(arguments: argparse.Namespace) -> Source:
    """Where images, CAMs and features come from."""
    if arguments.root is None and None in (arguments.images, arguments.targets):
        raise UserError("the data set is missing: pass --root VOC2012, or --images DIR and --targets DIR")
    files = Sources(
        images=arguments.root or arguments.images,
        cams=arguments.cams,
        masks=arguments.masks,
        uss=arguments.uss,
        wss=() if arguments.wss is None else (arguments.wss,),
        classes=class_set(arguments.classes),
        ignore_index=arguments.ignore_index,
        cam_background=arguments.cam_background,
        allow_pickle=arguments.allow_pickle,
    )
    return Source(files, Cache(arguments.cache), arguments.head, arguments.vit)


def items_of(arguments: argparse.Namespace, files: Sources) -> list[Item]:
    """The images that the command line selects."""
    images, targets = files.image_files, find_masks(arguments.root or arguments.targets)
    if arguments.list is not None:
        keys = read_list(arguments.list)
    elif arguments.root is not None:
        keys = [key for split in arguments.split.split(",") for key in voc_split(arguments.root, split)]
    else:
        keys = targets.keys()
    half = arguments.half
    if half is not None and arguments.root is not None and (halves := voc_halves(arguments.root)):
        keys, half = [key for key in keys if halves.get(key) == half], None
    tags = None
    if arguments.tags is not None:
        options: Any = {"ignore_index": files.ignore_index, "allow_pickle": files.allow_pickle}
        with reading(arguments.tags, "pass a cls_labels.npy, or what `dhr-refine tags` reads"):
            tags = read_tags(arguments.tags, classes=files.classes, keys=keys, **options).table
    items = select(
        keys,
        images,
        targets,
        classes=arguments.classes,
        ignore_index=arguments.ignore_index,
        tags=tags,
        min_classes=arguments.min_classes,
        part=half,
        limit=arguments.limit,
    )
    for item in items:
        if arguments.ignore_index - 1 in item.tags:
            raise UserError(
                f"{item.key} has the tag of --ignore-index {arguments.ignore_index}: leave one out"
            )
    return items


def variants(arguments: argparse.Namespace, boundary: Any) -> dict[str, Variant]:
    """What the command line asks to compare, the first against all others."""
    chosen = {name: Variant(RECIPES[name], boundary) for name in arguments.recipes}
    if arguments.ablate:
        chosen |= {name: replace(variant, boundary=boundary) for name, variant in ablations().items()}
    for tau in arguments.taus:
        chosen[f"tau={tau:g}"] = Variant(RECIPES["default"], boundary, tau=tau, stages=("final",))
    return chosen


def memory_for(arguments: argparse.Namespace, samples: Callable[[], Iterable[Sample]]) -> ClassMemory:
    """The class memory that the command line asks for."""
    if arguments.memory != "own":
        with reading(arguments.memory, "pass a file of ClassMemory.save, or --memory own"):
            memory = ClassMemory.load(arguments.memory)
        if memory.num_classes != arguments.classes:
            raise UserError(
                f"{arguments.memory} is a memory of {memory.num_classes} labels, --classes is "
                f"{arguments.classes}: pass the memory of this data set"
            )
        return memory
    memory = memory_of(samples, arguments.classes, arguments.ignore_index, arguments.rounds)
    if arguments.save_memory is not None:
        with writing(arguments.save_memory, "--save-memory"):
            memory.save(arguments.save_memory)
    return memory


def extremes_figure(samples: Sequence[Sample], variant: Variant, ignore_index: int, cache: Cache) -> Any:
    """Samples with their base masks and what a variant makes of them."""
    if not samples:
        raise UserError(
            "--figures: no image has an IoU, its ground truth is all --ignore-index: leave it out"
        )
    after = [masks_of(one, variant, Edges(variant.boundary), ignore_index, cache) for one in samples]
    return viz.show_extremes(
        [sample.image for sample in samples],
        [sample.target for sample in samples],
        [sample.base for sample in samples],
        [masks["final"] for masks in after],
        titles=[sample.key for sample in samples],
        ignore_index=ignore_index,
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that the command line asks for; returns the summary."""
    console = require("rich.console").Console()
    make_room(arguments)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    boundary = None if arguments.boundary == "none" else arguments.boundary
    source = source_of(arguments)
    with console.status("reading the ground truth"):
        items = items_of(arguments, source.files)
    reference = base_row(boundary, arguments.masks)
    ignore_index = arguments.ignore_index
    compared = variants(arguments, boundary)

    def load(item: Item) -> Sample:
        return prepare(item, source, background=arguments.background, boundary=boundary)

    with require("rich.progress").Progress(console=console) as progress:
        if arguments.memory is not None:
            memory = memory_for(arguments, lambda: map(load, progress.track(items, description="memory")))
            compared |= memory_variants(memory, boundary)
        counts = evaluate(
            map(load, progress.track(items, description=f"{len(items)} images")),
            compared,
            reference=reference,
            classes=arguments.classes,
            ignore_index=ignore_index,
            cache=source.cache,
        )
    summary = summarise(counts, reference, labels=arguments.miou_labels, draws=arguments.draws)
    table = require("rich.table").Table()
    for title in ("recipe", "stage", *TITLES):
        table.add_column(title)
    for texts in cells(summary, ("miou", "per_image_miou")):
        table.add_row(*texts)
    console.print(table)
    console.print(caption(summary), markup=False, highlight=False)
    summary |= {
        "ids": [item.key for item in items],
        "arguments": {name: str(value) for name, value in vars(arguments).items() if value is not None},
        "versions": {
            "dhr_refine": dhr_refine.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
    }
    outputs = [
        ("--json", arguments.json, json.dumps(without_nan(summary), indent=1).encode()),
        ("--markdown", arguments.markdown, markdown(summary).encode()),
    ]
    if arguments.figures is not None:
        name, variant = next(iter(compared.items()))
        picked = [load(items[place]) for place in extremes(summary, name)]
        figures = {"extremes": extremes_figure(picked, variant, ignore_index, source.cache)}
        if arguments.taus:
            figures["tau"] = tau_figure(summary, arguments.taus)
        outputs += [
            ("--figures", arguments.figures / f"{name}.png", figure_png(figure))
            for name, figure in figures.items()
        ]
    for option, path, content in outputs:
        if path is not None:
            with writing(path, option):
                write_atomic(path, content)
    return summary


if __name__ == "__main__":
    hear_again()
    sys.exit(main())
