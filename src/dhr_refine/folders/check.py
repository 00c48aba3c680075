"""``check_folder``: what would go wrong in a run, found by reading everything and writing nothing."""

from __future__ import annotations

import html
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple, ParamSpec, TypeVar

from ..inputs import Evidence, warn_about_slips
from ..inputs.boxes import Boxes
from ..inputs.names import Names
from .plans import MaskPlan, plan_masks
from .runs.job import given_up
from .runs.options import CHUNK, PathLike
from .runs.outcomes import Outcome, one_line
from .runs.pool import Pool
from .runs.progress import Progress
from .runs.record import Record
from .runs.report import images_of
from .work.base import empty_label, label_of
from .work.dialect import find_dialect
from .work.refine import Maps, RefineTask

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_SHOWN = 3


@dataclass(frozen=True, repr=False)
class CheckReport:
    """Result of :func:`check_folder`."""

    images: int
    """Number of images that were looked at."""
    failed: tuple[Outcome, ...]
    """The images that would fail, with stage and message."""
    warnings: list[str] = field(default_factory=list)
    """What would go on and give masks that are hardly meant."""
    notes: list[str] = field(default_factory=list)
    """What was found out: how CAM files count, what base masks have lost."""

    @property
    def exit_code(self) -> int:
        """What a command line returns: 0, or 3 if an image would fail."""
        return 3 if self.failed else 0

    def __repr__(self) -> str:
        """A few lines."""
        bad = len(self.failed)
        state = f"{bad:,} of {self.images:,} images would fail" if bad else f"{images_of(self.images)} ready"
        lines = [state if not self.warnings else f"{state}, {len(self.warnings)} to look at"]
        lines += [f"failing, {images_of(count)}: {text}" for text, count in self.reasons()]
        lines += [f"look at this: {text}" for text in self.warnings]
        lines += [f"note: {text}" for text in self.notes]
        return "\n".join(lines)

    def reasons(self) -> list[tuple[str, int]]:
        """What fails, with the first images by name, and how many images each reason has."""
        kinds: dict[tuple[str, str], list[Outcome]] = {}
        for one in self.failed:
            # Of one kind: the same words but for what differs from image to image.
            kind = " ".join(word for word in one.message.replace(one.key, "").split() if word.isalpha())
            kinds.setdefault((one.stage, kind), []).append(one)
        return [
            (f"{', '.join(one.key for one in some[:_SHOWN])} ({stage}): {some[0].message}", len(some))
            for (stage, _), some in sorted(kinds.items(), key=lambda item: -len(item[1]))
        ]

    def _repr_html_(self) -> str:
        """The same lines as a list, for notebooks."""
        first, *rest = repr(self).split("\n")
        items = "".join(f"<li>{html.escape(line)}</li>" for line in rest)
        return f"<p>{html.escape(first)}</p>" + (f"<ul>{items}</ul>" if items else "")


def _arguments_of(
    other: Callable[Arguments, object],
) -> Callable[[Callable[..., Result]], Callable[Arguments, Result]]:
    """Type checkers take a function's arguments to be those of another."""
    return lambda function: function


@_arguments_of(plan_masks)
def check_folder(images: PathLike, **options: Any) -> CheckReport:
    """Look at all that :func:`refine_folder` would read, and say what would go wrong; nothing is written.

    Parameters
    ----------
    images : str or path
        As in :func:`refine_folder`.
    **options
        All other arguments of :func:`refine_folder`; ``run`` says which images to look at.

    Returns
    -------
    CheckReport
        Failures, what is hardly meant, and what was found out.

    Raises
    ------
    UserError
        Something that is wrong for all images.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import numpy as np
    >>> import torch
    >>> from dhr_refine.files import write_mask
    >>> from dhr_refine.folders import check_folder
    >>> folder = tempfile.TemporaryDirectory()
    >>> here = Path(folder.name)
    >>> for name in ("images", "cams", "uss"):
    ...     (here / name).mkdir()
    >>> write_mask(here / "images" / "a.png", torch.zeros(32, 32))
    >>> np.save(here / "cams" / "a.npy", {14: np.random.rand(8, 8)})
    >>> check_folder(here / "images", cams=here / "cams", uss=here / "uss", out=here / "out")
    Traceback (most recent call last):
    ...
    dhr_refine.errors.UsageError: ... has no file with one of .npy, .npz, .pt, .pth, .pkl: pass another --uss
    >>> np.save(here / "uss" / "a.npy", np.random.rand(16, 8, 8))
    >>> check_folder(here / "images", cams=here / "cams", uss=here / "uss", out=here / "out")
    1 image ready
    note: CAM files: no file has the number 0, so they count from the first class
    >>> folder.cleanup()
    """
    plan = plan_masks(images, **options)
    sources, run = plan.task.sources, plan.run
    plan.memory.check(sources.classes)
    keys = run.choose(lambda: sources.cam_files.keys())
    dialect = find_dialect(sources, sources.cam_files.keys())
    task = replace(plan.task, sources=replace(sources, cam_background=dialect.background))
    failed: list[Outcome] = []
    looks: list[Look] = []
    jobs = run.processes(len(keys), "cpu")
    with (
        Pool(partial(Checker, task), jobs, _give_up) as pool,
        Progress(len(keys), "looking", quiet=run.quiet) as progress,
    ):
        for results in pool.run([keys[start : start + CHUNK] for start in range(0, len(keys), CHUNK)]):
            for result in results:
                progress.advance("failed" if isinstance(result, Outcome) else "done")
                (failed if isinstance(result, Outcome) else looks).append(result)  # pyright: ignore
    notes = [f"CAM files: {dialect.why}" + _meaning(dialect.background), *_base_notes(looks)]
    return CheckReport(len(keys), tuple(failed), [*_slips(plan, looks), *_places(plan, keys)], notes)


class Look(NamedTuple):
    """What one image tells."""

    evidence: Evidence
    lost: int  # tags without a pixel in the base mask
    foreign: list[int]  # foreground labels of the base mask that are no tags


class Checker:
    """Reads what the step would read of some images."""

    def __init__(self, task: RefineTask):
        """Look for the files."""
        self.task = task
        self.steps = task.open()

    def __call__(self, keys: Sequence[str]) -> list[Look | Outcome]:
        """What each image tells, or why it would fail."""
        return [self._look(key) for key in keys]

    def close(self) -> None:
        """Nothing is held."""

    def _look(self, key: str) -> Look | Outcome:
        try:
            maps = self.steps.read(key)
        except Exception as error:
            return Outcome(key, "failed", "read", one_line(error))
        return self._tell(maps)

    def _tell(self, maps: Maps) -> Look:
        sources, classes = self.task.sources, self.task.sources.classes
        own = {label_of(tag, classes) for tag in maps.tags}
        known = sources.masks is not None
        beside = {sources.ignore_index, empty_label(classes, sources.ignore_index)}
        found = sorted(set(maps.mask.unique().tolist()) - {sources.ignore_index}) if known else []
        shapes = [("cams", "", maps.cams.shape)] if maps.tags else []
        shapes += [] if maps.uss is None else [("uss_features", "", maps.uss.shape)]
        shapes += [("wss_features", f"[{number}]", level.shape) for number, level in enumerate(maps.wss)]
        size = tuple(maps.mask.shape)
        evidence = Evidence(
            names=Names("single", [0]),
            size=size,
            maps=[(name, level, tuple(shape)) for name, level, shape in shapes],
            found=[found],
            tags=[sorted(own)],
            foreground=len(classes.foreground),
            boxes=Boxes([(0, 0, size[1], size[0])], [None], floating=False),
            extent=None,
            mean=None,
        )
        return Look(evidence, len(own - set(found)) if known else 0, sorted(set(found) - own - beside))


def _slips(plan: MaskPlan, looks: Sequence[Look]) -> list[str]:
    """Input that is allowed but hardly meant, in the words of ``refine_mask``."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_about_slips([look.evidence for look in looks], plan.task.sources.classes.background, None)
    found = [" ".join(str(one.message).split()) for one in caught]
    foreign = [look for look in looks if look.foreign]
    if foreign:
        labels = sorted({label for look in foreign for label in look.foreign})
        found.append(
            f"{len(foreign):,} base masks have labels that are no tags of their image ({labels[:5]}): these "
            "pixels get another label"
        )
    return found


def _places(plan: MaskPlan, keys: Sequence[str]) -> list[str]:
    """What is wrong with files that are there: several of one image, images that nothing is asked of."""
    sources = plan.task.sources
    found = []
    indices = {"images": sources.image_files, "CAMs": sources.cam_files}
    indices |= {} if sources.masks is None else {"masks": sources.mask_files}
    indices |= {} if sources.uss is None else {"USS features": sources.uss_files}
    for name, index in indices.items():
        double = index.duplicates
        if double:
            first = next(iter(double.values()))
            found.append(
                f"{len(double):,} {name} have several files, {first[0].name} and {first[1].name} say"
            )
    if plan.out.is_dir():
        different = Record.read_differences(plan.out, "masks", plan.arguments)
        if different:
            found.append(
                f"{plan.out} holds results of another run ({'; '.join(different)}): a run would be refused"
            )
    return found


def _base_notes(looks: Sequence[Look]) -> list[str]:
    tags = sum(len(look.evidence.tags[0]) for look in looks if look.evidence.tags)
    lost = sum(look.lost for look in looks)
    without = sum(not look.evidence.tags[0] for look in looks if look.evidence.tags)
    notes = [f"{without:,} images have no tags and keep their base mask"] if without else []
    if lost:
        notes.append(f"{lost:,} of {tags:,} image-tag pairs have no pixel in the base masks")
    return notes


def _meaning(background: str | None) -> str:
    return {"first": ", so it is the background", "none": ", so it is the first class", None: ""}[background]


def _give_up(key: str, why: str) -> list[Look | Outcome]:
    return [given_up(key, why)]
