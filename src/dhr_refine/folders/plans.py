"""What refining a folder comes to: all arguments read and checked, before any image is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..checks import check_choice, check_count, check_positive, check_range
from ..datasets.classes import Background, ClassSet, class_set
from ..edges import Boundary, PlacedTool, check_boundary
from ..errors import UsageError, reading, usage, writing
from ..files.writing import write_atomic
from ..memory import ClassMemory
from ..recipe import Recipe
from .features import FeatureFiles, FeaturesTask, own_name
from .runs.options import PathLike, RunOptions
from .settings import Settings, arguments_of, check_score, own_path
from .work.base import BaseTask
from .work.learn import ROUNDS
from .work.outputs import Outputs
from .work.refine import RefineTask
from .work.sources import CamBackground

BASE = "base"
"""Folder beside the masks for the base masks that a run made."""
SEGMENTS = "sam:"
"""What a boundary tool begins with that is the CRF and votes of the segments of a folder."""
USS = "uss"
"""Folder for the USS features that a network made."""
RECIPES = {"default": Recipe, "paper": Recipe.paper, "released": Recipe.released}


@dataclass(frozen=True)
class MemoryWish:
    """What the caller wants of a memory."""

    given: PathLike | None
    rounds: int
    save: PathLike | None

    @property
    def is_learned(self) -> bool:
        """Whether it is learned from the images."""
        return self.given == "auto"

    def check(self, classes: ClassSet) -> None:
        """Raise before the work if the given memory is none of the data set, or nothing is to be kept."""
        if self.save is not None and not self.is_learned:
            raise UsageError("save_memory (--save-memory) keeps what memory='auto' learns: pass both")
        if self.given is None or self.is_learned:
            return
        with usage(), reading(Path(self.given), "pass a file of ClassMemory.save or --save-memory"):
            memory = ClassMemory.load(self.given)
        if (memory.num_classes, memory.background) != (classes.num_classes, classes.background):
            raise UsageError(
                f"{self.given} is a memory of {memory.num_classes} labels with background "
                f"{memory.background!r}, the classes {classes.name} have {classes.num_classes} and "
                f"{classes.background!r}: pass the memory of this data set"
            )

    def keep(self, path: Path) -> None:
        """Write a copy of what was learned where the caller wants it."""
        if self.save is not None:
            with writing(Path(self.save), "--save-memory"):
                write_atomic(Path(self.save), path.read_bytes())


@dataclass(frozen=True)
class MaskPlan:
    """The tasks of a run that refines masks, and how it is carried out."""

    task: RefineTask
    base: BaseTask
    memory: MemoryWish
    run: RunOptions

    @property
    def out(self) -> Path:
        """Folder of the masks."""
        return self.task.outputs.folder

    @property
    def features(self) -> FeaturesTask:
        """Saving the USS features, which a memory is learned from in several passes."""
        task = self.task
        files = FeatureFiles(self.out / USS)
        return FeaturesTask(task.sources.images, files, task.uss_model or "", device=task.device)

    @property
    def arguments(self) -> dict[str, Any]:
        """What the masks depend on."""
        given = self.memory.given
        result = arguments_of(self.task)
        result |= {"memory": None if given is None else str(given), "rounds": self.memory.rounds}
        if self.task.sources.masks is None:
            result |= {"base_score": self.base.background, "alpha": self.base.alpha}
        return result


def plan_masks(
    images: PathLike,
    *,
    cams: PathLike,
    out: PathLike,
    masks: PathLike | None = None,
    uss: PathLike | None = None,
    uss_model: str | None = None,
    wss: PathLike | Sequence[PathLike] = (),
    wss_model: str | None = None,
    tags: PathLike | Mapping[str, Sequence[int]] | None = None,
    classes: str | int | ClassSet = "voc",
    background: Background | None = None,
    ignore_index: int = 255,
    cam_background: CamBackground | None = None,
    base_score: float | Literal["power"] = 0.2,
    alpha: float = 1.0,
    boundary: Boundary | str = "crf",
    recipe: Recipe | Literal["default", "paper", "released"] = "default",
    tau: float = 0.8,
    reg: float = 0.1,
    memory: PathLike | Literal["auto"] | None = None,
    rounds: int = ROUNDS,
    save_memory: PathLike | None = None,
    palette: bool = False,
    save_probs: bool = False,
    allow_pickle: bool = False,
    device: str = "cpu",
    run: RunOptions | None = None,
) -> MaskPlan:
    """Read the arguments of :func:`refine_folder`; a UsageError where they do not go together."""
    run = run or RunOptions()
    labels = class_set(classes, background=background)
    settings = Settings(own_path(out), labels, ignore_index, device, palette, run.ray is not None)
    settings.check()
    check_score(base_score, alpha)
    tool, segments = _read_step(tau, reg, rounds, boundary, recipe)
    _check_features(uss, uss_model, wss, wss_model)
    maps: dict[str, Any] = {"cams": cams, "masks": masks, "uss": uss, "wss": wss, "segments": segments}
    sources = settings.sources(
        images, tags=tags, cam_background=cam_background, allow_pickle=allow_pickle, **maps
    )
    task = RefineTask(
        sources,
        settings.outputs(probs=save_probs),
        uss_model=uss_model and own_name(uss_model),
        wss_model=wss_model and own_name(wss_model),
        tau=tau,
        reg=reg,
        boundary=tool,
        recipe=RECIPES[recipe]() if isinstance(recipe, str) else recipe,
        device=device,
    )
    base = BaseTask(sources, Outputs(settings.out / BASE), base_score, alpha, tool, device)
    return MaskPlan(task, base, MemoryWish(memory, rounds, save_memory), run)


def _read_boundary(boundary: Boundary | str) -> tuple[Any, str | None]:
    """The boundary tool (the caller checks what it is), and the folder of segments that vote after it."""
    if isinstance(boundary, str) and boundary.startswith(SEGMENTS):
        folder = boundary.removeprefix(SEGMENTS)
        if not folder:
            raise UsageError(f"boundary (--boundary) {boundary!r} names no folder: pass sam:DIR")
        return "crf", folder
    if isinstance(boundary, PlacedTool):
        raise UsageError(
            "boundary cannot be segment_voting, which holds the segments of one call: pass 'sam:DIR' with a "
            "folder of segments"
        )
    return boundary, None


def _check_features(uss: object, uss_model: object, wss: object, wss_model: object) -> None:
    """Raise unless features come from one place each."""
    if (uss is None) == (uss_model is None):
        raise UsageError("USS features come from uss (--uss DIR) or uss_model (--uss-model NAME): pass one")
    if wss and wss_model is not None:
        raise UsageError("WSS features come from wss (--wss DIR) or wss_model (--wss-model NAME): pass one")


def _read_step(
    tau: float, reg: float, rounds: int, boundary: Boundary | str, recipe: Recipe | str
) -> tuple[Any, str | None]:
    """The boundary tool and the folder of segments; raise for what no image could be refined with."""
    tool, segments = _read_boundary(boundary)
    check_range(tau, "tau", -1.0, 1.0)
    check_positive(reg, "reg")
    check_count(rounds, "rounds", 0)
    check_boundary(tool, "boundary")
    if isinstance(recipe, str):
        check_choice(recipe, "recipe", tuple(RECIPES))
    return tool, segments
