"""Four photos that ship in PyPI packages; each tag is an ImageNet class or a group of them.

They were chosen so that every step has something to do on one of them: classes that vanish from the base mask
of the officer come back, and on the temple and the astronaut the USS features take two classes for alike. On
the coffee neither happens. What the method gains is measured on whole data sets, not here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import require
from ..files.pictures import read_picture


@dataclass(frozen=True)
class Photo:
    """A photo with its image-level tags."""

    key: str
    source: str  # the package that ships it; who made it, licence
    tags: Mapping[str, Mapping[int, str]]  # tag -> ImageNet-1k class index -> that class's name
    read: Callable[[], np.ndarray]  # (H, W, 3) uint8

    @property
    def names(self) -> list[str]:
        """Names of the labels 0 (background) to C."""
        return ["background", *self.tags]

    def load(self) -> Tensor:
        """The photo as a (3, H, W) uint8 tensor."""
        return torch.from_numpy(np.array(self.read()[..., :3])).permute(2, 0, 1).contiguous()


def _skimage(name: str) -> Callable[[], np.ndarray]:
    return lambda: getattr(require("skimage.data"), name)()


def _grace_hopper() -> np.ndarray:
    path = Path(require("matplotlib.cbook").get_sample_data("grace_hopper.jpg", asfileobj=False))
    return read_picture(path).permute(1, 2, 0).numpy()


def _china() -> np.ndarray:
    return require("sklearn.datasets").load_sample_image("china.jpg")


PHOTOS = {
    photo.key: photo
    for photo in (
        Photo(
            "officer",
            "matplotlib; United States Navy, public domain",
            {
                "uniform": {652: "military uniform", 834: "suit"},
                "cap": {439: "bearskin"},
                "glasses": {836: "sunglass", 837: "sunglasses"},
                "tie": {457: "bow tie", 906: "Windsor tie"},
            },
            _grace_hopper,
        ),
        Photo(
            "temple",
            "scikit-learn; danielbuechele, CC BY 2.0",
            {
                "temple": {663: "monastery", 698: "palace"},
                "roof": {858: "tile roof"},
                "lake": {975: "lakeside"},
            },
            _china,
        ),
        Photo(
            "astronaut",
            "scikit-image; NASA, public domain",
            {
                "helmet": {518: "crash helmet", 560: "football helmet"},
                "shuttle": {812: "space shuttle"},
                "rocket": {657: "missile", 744: "projectile"},
                "flag": {557: "flagpole"},
                "suit": {465: "bulletproof vest", 652: "military uniform"},
            },
            _skimage("astronaut"),
        ),
        Photo(
            "coffee",
            "scikit-image; Rachel Michetti, public domain",
            {
                "cup": {504: "coffee mug", 968: "cup"},
                "coffee": {967: "espresso"},
                "spoon": {618: "ladle"},
            },
            _skimage("coffee"),
        ),
    )
}
