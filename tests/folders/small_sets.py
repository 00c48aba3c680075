"""Small data sets on disk for runs over folders, and the masks that a plain loop over their images gives."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from scenes import Scene, make_scene, multi_hot
from torch import Tensor

from dhr_refine import ClassMemory, base_mask, refine_mask
from dhr_refine.folders import RunOptions

FOREGROUND = 8
QUIET = RunOptions(quiet=True)
_TAGS = ((2, 6), (2, 6), (2, 4, 6), (0, 2, 7))


class SmallSet(NamedTuple):
    """Where the files of a data set are, and what they hold."""

    root: Path
    scenes: dict[str, Scene]
    """Masks of them are the base masks that were written."""
    num_classes: int
    background: str

    @property
    def inputs(self) -> dict[str, Any]:
        """The arguments of ``refine_folder`` that say where the files are, but for the images."""
        return {
            **{name: self.root / name for name in ("cams", "masks", "uss")},
            "wss": [self.root / "wss0", self.root / "wss1"],
            "classes": self.num_classes,
            "background": self.background,
            "boundary": None,
        }

    @property
    def images(self) -> Path:
        """Folder of the images."""
        return self.root / "images"


def write_set(
    root: Path, count: int, *, background: str = "first", classes: int = FOREGROUND, shift: int = 0
) -> SmallSet:
    """Write a data set: CAMs as IRN keeps them, of the tags alone.

    Parameters
    ----------
    root : folder for all
    count : number of images
    background : where the label of the background is
    classes : number of foreground classes
    shift : added to the tags of the scenes, which are from 0 to 7
    """
    for name in ("images", "cams", "masks", "uss", "wss0", "wss1"):
        (root / name).mkdir(parents=True)
    scenes = {}
    for number in range(count):
        key = f"photo_{number:02d}"
        size = (40, 48) if number % 3 else (36, 50)
        tags, lost = _TAGS[number % len(_TAGS)], (6,) if number == 5 else ()
        scene = make_scene(number, tags=tags, size=size, lost=lost, ignore=number % 2 == 0)
        scene = scene._replace(
            mask=relabelled(scene.mask, background, classes, shift),
            tags=[tag + shift for tag in scene.tags],
            uss=alike_features(scene, number),
        )
        scenes[key] = scene
        Image.fromarray(scene.image.permute(1, 2, 0).numpy()).save(root / "images" / f"{key}.png")
        Image.fromarray(scene.mask.numpy().astype(np.uint8)).save(root / "masks" / f"{key}.png")
        keys = np.array(scene.tags)
        np.save(root / "cams" / f"{key}.npy", {"keys": keys, "high_res": own_cams(scene, shift).numpy()})
        np.save(root / "uss" / f"{key}.npy", scene.uss.numpy())
        for level, features in enumerate(scene.wss):
            np.save(root / f"wss{level}" / f"{key}.npy", features.numpy())
    return SmallSet(root, scenes, classes + (background != "none"), background)


def alike_features(scene: Scene, seed: int) -> Tensor:
    """USS features (12, 8, 11) of which a class has the same in all images, but for noise."""
    prototypes = np.random.default_rng(99).normal(size=(FOREGROUND + 1, 12))
    height, width = scene.truth.shape
    cells = scene.truth.numpy()[np.ix_((np.arange(8) * height) // 8, (np.arange(11) * width) // 11)]
    noise = np.random.default_rng(seed).normal(scale=0.8, size=(12, 8, 11))
    return torch.from_numpy(prototypes[cells].transpose(2, 0, 1) + noise).float()


def own_cams(scene: Scene, shift: int = 0) -> Tensor:
    """CAMs of the tags alone."""
    return scene.cams[[tag - shift for tag in scene.tags]]


def relabelled(mask: Tensor, background: str, classes: int, shift: int = 0) -> Tensor:
    """A mask with the background 0 and tags counted from 1 as a data set of another kind has it."""
    empty = {"first": 0, "last": classes, "none": 255}[background]
    first = 0 if background == "first" else 1
    labels = torch.where(mask > 0, mask + shift - first, empty)
    return torch.where(mask == 255, 255, labels)


def memory_of(data: SmallSet, keys: Iterable[str], rounds: int) -> ClassMemory:
    """The memory of images, one after the other."""
    samples = [
        {"uss_features": scene.uss, "masks": scene.mask, "labels": scene.tags}
        for scene in map(data.scenes.__getitem__, keys)
    ]
    return ClassMemory.fit(samples, data.num_classes, rounds=rounds, background=data.background)


def refined(data: SmallSet, key: str, **options: Any) -> Tensor:
    """The mask of an image by ``refine_mask``."""
    scene = data.scenes[key]
    shift = 0 if max(scene.tags) < FOREGROUND else min(scene.tags) - min(_TAGS[int(key[-2:]) % 4])
    given = {"wss": scene.wss, "mask": scene.mask, "boundary": None, **options}
    wss, mask = given.pop("wss"), given.pop("mask")
    labels = multi_hot([scene.tags], data.num_classes - (data.background != "none"))[0]
    return refine_mask(
        own_cams(scene, shift),
        mask,
        scene.uss,
        wss,
        scene.image,
        labels=labels,
        background=data.background,
        **given,
    )


def made_base(data: SmallSet, key: str, **options: Any) -> Tensor:
    """The base mask of an image by ``base_mask``, with the labels of a data set whose background is 0."""
    scene = data.scenes[key]
    mask = base_mask(own_cams(scene), range(len(scene.tags)), scene.image, **options)
    return torch.tensor([0, *(tag + 1 for tag in scene.tags)])[mask]


def read_png(path: Path) -> Tensor:
    """Labels of a mask, read by Pillow alone."""
    with Image.open(path) as picture:
        assert picture.mode == "L"
        return torch.from_numpy(np.asarray(picture).astype(np.int64))


def files_of(out: Path) -> dict[str, bytes]:
    """What a run has left, by the path in its folder: without records and hidden files."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and not path.name.startswith((".", "dhr_refine"))
    }


def command(data: SmallSet, out: Path, *more: str) -> list[str]:
    """The command line of ``dhr-refine masks`` on a data set."""
    where = [word for name in ("cams", "masks", "uss") for word in (f"--{name}", str(data.root / name))]
    wss = ["--wss", *(str(path) for path in data.inputs["wss"])]
    labels = ["--classes", str(data.num_classes), "--background", data.background, "--boundary", "none"]
    start = ["masks", str(data.images), *where, *wss, "--quiet", "--jobs", "1"]
    return [*start, *labels, "--out", str(out), *more]
