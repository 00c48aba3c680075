"""What all runs that write masks share: the labels, the folder, and what is refused before the work."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..checks import check_choice, check_positive, check_range
from ..datasets.cache import digest
from ..datasets.classes import ClassSet
from ..datasets.tags import read_tags
from ..errors import UsageError
from ..palettes import palette
from .runs.options import PathLike
from .work.outputs import COLOUR, PROBS, Outputs
from .work.sources import CamBackground, Sources

MOST_LABELS = 256
"""Of an 8-bit mask."""


@dataclass(frozen=True)
class Settings:
    """The labels of a run's masks, and where they go."""

    out: Path
    classes: ClassSet
    ignore_index: int = 255
    device: str = "cpu"
    palette: bool = False
    elsewhere: bool = False
    """Whether the work is done on other machines, by Ray."""

    def check(self) -> None:
        """Raise a UsageError for what no image could be written with."""
        if not 0 <= self.ignore_index < MOST_LABELS:
            raise UsageError(
                f"ignore_index (--ignore-index) must be from 0 to 255, as masks are 8-bit, got "
                f"{self.ignore_index}"
            )
        if self.classes.num_classes > MOST_LABELS:
            raise UsageError(f"masks are 8-bit: at most 256 labels, got {self.classes.num_classes}")
        if self.ignore_index < self.classes.num_classes:
            raise UsageError(
                f"ignore_index (--ignore-index) {self.ignore_index} is the label of a class of "
                f"{self.classes.num_classes}: pass one that no class has"
            )
        if self.elsewhere:
            return
        try:
            torch.zeros(1, device=self.device)
        except (RuntimeError, AssertionError) as error:
            raise UsageError(
                f"device (--device) {self.device!r} cannot be used: {str(error)[:200]}"
            ) from error

    def outputs(self, *, probs: bool = False) -> Outputs:
        """Where masks are written."""
        colours = palette(min(self.classes.num_classes, 255)) if self.palette else None
        return Outputs(self.out, colours, probs)

    def check_apart(self, name: str, path: Path) -> None:
        """Raise a UsageError if results would be written among what is read."""
        for written in (self.out, self.out / COLOUR, self.out / PROBS):
            check_apart(written, name, path)

    def sources(
        self,
        images: PathLike,
        *,
        tags: PathLike | Mapping[str, Sequence[int]] | None,
        cam_background: CamBackground | None,
        allow_pickle: bool,
        cams: PathLike | None = None,
        masks: PathLike | None = None,
        uss: PathLike | None = None,
        wss: PathLike | Sequence[PathLike] = (),
        segments: PathLike | None = None,
    ) -> Sources:
        """The folders that are read; a UsageError if results would be written among what is read."""
        if cam_background is not None:
            check_choice(cam_background, "cam_background", ("first", "none"))
        given = {"cams": cams, "masks": masks, "uss": uss, "segments": segments}
        paths = {name: own_path(path) for name, path in given.items() if path is not None}
        levels = [wss] if isinstance(wss, (str, os.PathLike)) else [*wss]
        for name, path in {"images": own_path(images), **paths}.items():
            self.check_apart(name, path)
        for path in map(own_path, levels):
            self.check_apart("wss", path)
        sources = Sources(
            own_path(images),
            cams=paths.get("cams"),
            masks=paths.get("masks"),
            uss=paths.get("uss"),
            wss=tuple(map(own_path, levels)),
            classes=self.classes,
            ignore_index=self.ignore_index,
            cam_background=cam_background,
            allow_pickle=allow_pickle,
            segments=paths.get("segments"),
        )
        for name, files in sources.files().items():
            for place in files.places:  # where a data set keeps them
                self.check_apart(name, place)
        return sources if tags is None else replace(sources, tags=self._read_tags(tags, sources))

    def _read_tags(
        self, tags: PathLike | Mapping[str, Sequence[int]], sources: Sources
    ) -> Mapping[str, tuple[int, ...]]:
        """Tags by id, from wherever they are."""
        foreground = len(self.classes.foreground)
        if isinstance(tags, Mapping):
            table = {str(key): tuple(map(int, row)) for key, row in tags.items()}
        else:
            options: Any = {"classes": self.classes, "ignore_index": self.ignore_index}
            keys = sources.image_files.keys()
            table = read_tags(Path(tags), keys=keys, allow_pickle=sources.allow_pickle, **options).table
        for key, row in table.items():
            wrong = [tag for tag in row if not 0 <= tag < foreground]
            if wrong:
                raise UsageError(
                    f"tags has the tag {wrong[0]} for {key}, but the foreground classes are 0 to "
                    f"{foreground - 1}: pass the classes of this data set (--classes)"
                )
        return table


def check_apart(out: Path, name: str, path: Path) -> None:
    """Raise a UsageError if a folder for results is one that is read."""
    if os.path.realpath(path) == os.path.realpath(out):
        raise UsageError(
            f"out (--out) would be written to the folder of {name}, {path}: name another one, which may be "
            "new"
        )


def check_score(score: object, alpha: float | None) -> None:
    """Raise unless a background score is one that ``base_mask`` takes, or None, and its exponent too."""
    if isinstance(score, str):
        check_choice(score, "base_score", ("power",))
    elif score is not None:
        check_range(score, "base_score", 0.0, 1.0)  # pyright: ignore
    if alpha is not None:
        check_positive(alpha, "alpha")


def own_path(path: PathLike) -> Path:
    """A path that means the same in other processes."""
    return Path(os.path.abspath(os.path.expanduser(path)))


def arguments_of(task: Any) -> dict[str, Any]:
    """What the results of a task depend on, as JSON keeps it."""
    result = {
        field.name: _plain(getattr(task, field.name)) for field in fields(task) if field.name not in _BESIDE
    }
    result |= result.pop("sources")
    if task.sources.tags is not None:  # too many to keep
        result["tags"] = digest(sorted(task.sources.tags.items()))[:16]
    return result


# What changes no label: the same masks may be made elsewhere, and with more files beside them.
_BESIDE = {"device", "outputs"}


def _plain(value: Any) -> Any:
    if isinstance(value, ClassSet):
        return f"{value.name}: {value.num_classes} labels, background {value.background}"
    if isinstance(value, partial):
        return [_plain(value.func), [_plain(part) for part in value.args], _plain(value.keywords)]
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value) if field.repr}
    if isinstance(value, Mapping):
        return {str(key): _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has none
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, Callable):
        return (
            f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__qualname__)}"
        )
    return str(value)
