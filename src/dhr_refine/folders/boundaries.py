"""``crf_folder``: the boundary step alone, on a folder of CAMs, masks or probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..checks import check_choice, check_range
from ..crf import probs_from_labels
from ..datasets.classes import Background, ClassSet, class_set
from ..datasets.index import ARRAYS, FileIndex
from ..errors import UsageError, UserError
from ..files.contents import read_arrays, read_numbers
from .runs.job import Run
from .runs.options import PathLike, RunOptions
from .runs.report import FolderReport
from .settings import Settings, arguments_of, check_score, own_path
from .work.base import BaseTask
from .work.dialect import find_dialect
from .work.outputs import Outputs, Result
from .work.presets import PRESETS, Method, PresetName, tool_of
from .work.sources import CamBackground, Sources


def crf_folder(
    images: PathLike,
    *,
    out: PathLike,
    cams: PathLike | None = None,
    masks: PathLike | None = None,
    probs: PathLike | None = None,
    preset: PresetName | None = None,
    method: Method = "crf",
    tags: PathLike | Mapping[str, Sequence[int]] | None = None,
    classes: str | int | ClassSet = "voc",
    background: Background | None = None,
    ignore_index: int = 255,
    cam_background: CamBackground | None = None,
    base_score: float | Literal["power"] | None = None,
    alpha: float | None = None,
    gt_prob: float | None = None,
    palette: bool = False,
    save_probs: bool = False,
    allow_pickle: bool = False,
    device: str = "cpu",
    run: RunOptions | None = None,
) -> FolderReport:
    """Refine the edges of a folder of CAMs, masks or probabilities with a boundary tool.

    Parameters
    ----------
    images : str or path
        Folder of images, or of a data set, as in :func:`refine_folder`.
    out : str or path
        Folder for the masks, 8-bit PNGs whose values are the labels.
    cams, masks, probs : str or path
        One of them. CAM files become base masks by ``base_score`` with the tool (:func:`base_mask`); masks
        are trusted by ``gt_prob`` (:func:`probs_from_labels`), unknown pixels not at all; probabilities are
        arrays (K, H, W) of all labels, or .npz and dictionaries with ``keys`` (K,) labels and ``prob``.
    preset : {"dhr", "seam", "irn", "toco", "weaktr"}, optional
        Kernels of the CRF in these codebases, and the background score beside CAMs. Default: "dhr".
    method : {"crf", "par", "pamr"}
        The tool.
    tags, classes, background, ignore_index, cam_background
        As in :func:`refine_folder`.
    base_score, alpha : float, optional
        Background score beside CAMs, or "power" and its exponent; default: the preset's.
    gt_prob : float, optional
        Trust in ``masks``, between 0 and 1. Default: 0.7.
    palette, save_probs, allow_pickle, device, run
        As in :func:`refine_folder`.

    Returns
    -------
    FolderReport
        As of :func:`refine_folder`.

    Raises
    ------
    UserError
        Something that is wrong for all images.
    ValueError, TypeError
        A number or a choice that no image could be refined with.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> from dhr_refine.files import read_mask, write_mask
    >>> from dhr_refine.folders import crf_folder
    >>> folder = tempfile.TemporaryDirectory()
    >>> here = Path(folder.name)
    >>> mask = torch.zeros(24, 24, dtype=torch.long)
    >>> mask[:, 12:] = 15
    >>> for name in ("images", "masks"):
    ...     (here / name).mkdir()
    ...     write_mask(here / name / "a.png", mask)
    >>> report = crf_folder(here / "images", masks=here / "masks", out=here / "out", preset="irn")
    >>> read_mask(here / "out" / "a.png").unique().tolist()
    [0, 15]
    >>> folder.cleanup()
    """
    run = run or RunOptions()
    if preset is not None:
        check_choice(preset, "preset", tuple(PRESETS))
    check_choice(method, "method", ("crf", "par", "pamr"))
    if sum(given is not None for given in (cams, masks, probs)) != 1:
        raise UsageError("pass one of cams (--cams), masks (--masks) and probs (--probs)")
    if preset is not None and method != "crf" and cams is None:
        raise UsageError(
            f"preset (--preset) has no part in method={method!r} without cams (--cams): leave it out"
        )
    if gt_prob is not None and masks is None:
        raise UsageError("gt_prob (--gt-prob) is the trust in masks (--masks): leave it out")
    for name, value in (("base_score", base_score), ("alpha", alpha), ("cam_background", cam_background)):
        if value is not None and cams is None:
            option = name.replace("_", "-")
            raise UsageError(f"{name} (--{option}) says how cams (--cams) are read: leave it out")
    preset, gt_prob = preset or "dhr", 0.7 if gt_prob is None else gt_prob
    labels = class_set(classes, background=background)
    settings = Settings(own_path(out), labels, ignore_index, device, palette, run.ray is not None)
    settings.check()
    check_range(gt_prob, "gt_prob", 0.0, 1.0)
    if gt_prob in (0, 1):  # no class would be possible, or no other
        raise ValueError(f"gt_prob must lie between 0 and 1, got {gt_prob}: pass 0.7, or 0.99 to trust more")
    check_score(base_score, alpha)
    if probs is not None:
        settings.check_apart("probs", own_path(probs))
    sources = settings.sources(
        images, cams=cams, masks=masks, tags=tags, cam_background=cam_background, allow_pickle=allow_pickle
    )
    outputs, tool = settings.outputs(probs=save_probs), tool_of(method, preset)
    if cams is None:
        task = EdgeTask(sources, outputs, None if probs is None else own_path(probs), tool, gt_prob, device)
        return _run(task, task.files.keys(), settings, run)
    chosen = PRESETS[preset]
    score = chosen.base_score if base_score is None else base_score
    task = BaseTask(sources, outputs, score, chosen.alpha if alpha is None else alpha, tool, device)
    return _run(task, sources.cam_files.keys(), settings, run)


def _run(
    task: BaseTask | EdgeTask, there: Sequence[str], settings: Settings, run: RunOptions
) -> FolderReport:
    keys = run.choose(lambda: there)
    with Run("crf", settings.out, arguments_of(task), run) as started:
        started.make_room(keys, [task.outputs])
        if isinstance(task, BaseTask):
            dialect = find_dialect(task.sources, there)
            started.record.extra["cam_background"] = dialect._asdict()
            task = replace(task, sources=replace(task.sources, cam_background=dialect.background))
        started.step(task, keys, device=task.device, what="boundaries", last=True)
    return started.report()


class Probs(NamedTuple):
    """An image with the probabilities of some labels."""

    image: Tensor
    probs: Tensor
    labels: tuple[int, ...]


@dataclass(frozen=True)
class EdgeTask:
    """The boundary tool on each image's mask, or on its probabilities if ``probs`` is their folder."""

    sources: Sources
    outputs: Outputs
    probs: Path | None
    boundary: object
    gt_prob: float
    device: str = "cpu"
    together: bool = False

    @cached_property
    def files(self) -> FileIndex:
        """Files of masks, or of probabilities."""
        if self.probs is None:
            return self.sources.mask_files
        return FileIndex(self.probs, ARRAYS)

    def open(self) -> EdgeTask:
        """Nothing to load."""
        return self

    def finished(self, key: str) -> bool:
        """Whether all files of an image are there."""
        return self.outputs.finished(key)

    def read(self, key: str) -> Probs:
        """Image and probabilities."""
        image = self.sources.image(key)
        size = tuple(image.shape[1:])
        if self.probs is not None:
            return Probs(image, *self._read_probs(self.files[key], size))
        mask = self.sources.mask(key, size)
        labels = sorted({*mask.unique().tolist()} - {self.sources.ignore_index})
        if len(labels) < 2:  # nothing to part
            return Probs(image, (mask == (labels[0] if labels else -1))[None].float(), tuple(labels or [0]))
        table = torch.full((max(256, self.sources.ignore_index + 1),), 255)
        table[torch.tensor(labels)] = torch.arange(len(labels))
        local = table[mask]
        return Probs(
            image, probs_from_labels(local, num_classes=len(labels), gt_prob=self.gt_prob), tuple(labels)
        )

    def work(self, items: Sequence[Probs]) -> list[Result]:
        """Refine the edges."""
        return [self._refine(item) for item in items]

    def write(self, key: str, result: Result) -> None:
        """Write the mask of an image."""
        self.outputs.write(key, result)

    def _refine(self, item: Probs) -> Result:
        labels = torch.tensor(item.labels)
        if len(labels) < 2:
            mask = torch.where(item.probs[0] > 0, labels[0], self.sources.ignore_index)
            return Result(mask, item.probs, item.labels)
        probs = self.boundary(item.image.to(self.device), item.probs.to(self.device)).cpu()  # pyright: ignore
        return Result(labels[probs.argmax(dim=0)], probs, item.labels)

    def _read_probs(self, path: Path, size: tuple[int, ...]) -> tuple[Tensor, tuple[int, ...]]:
        content = read_arrays(path, allow_pickle=self.sources.allow_pickle)
        keys = None
        if isinstance(content, Mapping) and "keys" in content:
            rest = [name for name in content if name != "keys"]
            if len(rest) != 1:
                raise UserError(f"{path} has the entries {rest} beside keys: one, prob, is needed")
            keys, content = content["keys"], content[rest[0]]
        elif isinstance(content, Mapping) and len(content) == 1:
            content = next(iter(content.values()))
        probs = read_numbers(content, path).float()
        count = self.sources.classes.num_classes
        if probs.ndim != 3 or tuple(probs.shape[1:]) != size:
            raise UserError(
                f"{path} holds {tuple(probs.shape)}: (K, {size[0]}, {size[1]}) is needed, as the image"
            )
        if keys is None and len(probs) != count:
            raise UserError(
                f"{path} has {len(probs)} maps for {count} labels: save keys beside them, or pass --classes"
            )
        labels = list(range(count)) if keys is None else read_numbers(keys, path).ravel().tolist()
        known = {*range(count)}
        if not labels or len(labels) != len(probs) or len({*labels} & known) != len(labels):
            raise UserError(
                f"{path} has {len(probs)} maps and the keys {labels[:10]}: one label below {count} for each, "
                "another for every map"
            )
        return probs, tuple(map(int, labels))
