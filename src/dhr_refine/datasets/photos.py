"""Five photos that ship in PyPI packages; each tag is an ImageNet class or a group of them."""

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
    source: str
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


PHOTOS = {
    photo.key: photo
    for photo in (
        Photo(
            "coffee",
            "scikit-image",
            {
                "cup": {504: "coffee mug", 968: "cup"},
                "coffee": {967: "espresso"},
                "spoon": {618: "ladle"},
            },
            _skimage("coffee"),
        ),
        Photo(
            "astronaut",
            "scikit-image",
            {
                "helmet": {518: "crash helmet", 560: "football helmet"},
                "shuttle": {812: "space shuttle"},
                "flag": {557: "flagpole"},
                "suit": {465: "bulletproof vest", 652: "military uniform"},
            },
            _skimage("astronaut"),
        ),
        Photo(
            "officer",
            "matplotlib",
            {
                "uniform": {652: "military uniform", 834: "suit"},
                "cap": {439: "bearskin"},
                "glasses": {836: "sunglass", 837: "sunglasses"},
            },
            _grace_hopper,
        ),
        Photo(
            "rocket",
            "scikit-image",
            {
                "rocket": {657: "missile", 744: "projectile"},
                "tower": {517: "crane", 540: "drilling platform"},
            },
            _skimage("rocket"),
        ),
        Photo(
            "cat",
            "scikit-image",
            {"cat": {281: "tabby", 282: "tiger cat", 285: "Egyptian cat"}},
            _skimage("chelsea"),
        ),
    )
}
