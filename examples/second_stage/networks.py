"""Segmenters by name: of transformers, of torchvision, and a small one on EfficientNet-lite0.

All are one kind of module, so that the loop and DistributedDataParallel know none of them: called with images
0..255 and masks it gives the loss, called with images and a size the probabilities (B, C, H, W).
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from wss.loop import IGNORE, pixel_loss
from wss.networks import Pyramid

from dhr_refine.errors import UserError, reason, require
from dhr_refine.pretrained.preparing import normalise

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet, for images in [0, 1]: what these networks of both libraries were trained with."""
TORCHVISION = (
    "deeplabv3_resnet50",
    "deeplabv3_resnet101",
    "deeplabv3_mobilenet_v3_large",
    "fcn_resnet50",
    "fcn_resnet101",
)
OWN = {"lite0": "pretrained", "tiny": "tiny"}
NAMES = f"{', '.join((*OWN, *TORCHVISION))}, or a model of transformers (a name with a slash, or its folder)"


class Network(nn.Module):
    """A network of any library that gives logits; its parts of these names learn ten times slower."""

    multiple = 32
    all_used = True
    """Whether every weight takes part in the loss, so that processes need not look for those that do not."""
    slow: tuple[str, ...] = ("net.backbone.",)

    def __init__(self, net: nn.Module):
        """Wrap what a library has built."""
        super().__init__()
        self.net: Any = net

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """The loss of crops (B, 3, H, W) of 0..255 with masks (B, H, W), 255 ignored."""
        return pixel_loss(self.logits(images), masks)

    def probabilities(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Probabilities (B, C, H, W) of that size, the background first."""
        return F.interpolate(self.logits(images).float(), size, mode="bilinear").softmax(1)

    def logits(self, images: Tensor) -> Tensor:
        """Logits (B, C, h, w)."""
        return self.net(normalise(images.float(), MEAN, STD))["out"]  # as torchvision has them


class Lite0(Network):
    """EfficientNet-lite0 with a light decoder; the first two thirds of the backbone are frozen."""

    def __init__(self, classes: int, networks: str):
        """Build the backbone and the decoder."""
        super().__init__(Pyramid(networks))
        self.net.add_decoder(classes)

    def train(self, mode: bool = True) -> Lite0:
        """Batch norms keep ImageNet's statistics, and nothing is dropped."""
        return super().train(False)

    def logits(self, images: Tensor) -> Tensor:
        """Logits at stride 16."""
        return self.net.decode(*self.net.levels(images))


class Pixels(Network):
    """SegFormer, UperNet and their like, of transformers: a logit for every pixel."""

    all_used = False  # UperNet leaves out the last norm of a Swin
    slow = ("net.segformer.", "net.backbone.", "net.data2vec_vision.", "net.beit.", "net.dpt.")

    def logits(self, images: Tensor) -> Tensor:
        """Logits at the network's stride."""
        return self.net(pixel_values=normalise(images.float(), MEAN, STD)).logits


class Queries(Network):
    """MaskFormer and Mask2Former, of transformers: they find masks and name them, and have their own loss."""

    all_used = False
    slow = ("net.model.pixel_level_module.encoder.",)

    def forward(self, images: Tensor, masks: Tensor) -> Tensor:
        """The network's own loss: one binary mask per class of a crop, pixels of 255 in none of them."""
        present = [mask.unique() for mask in masks]
        present = [labels[labels != IGNORE] for labels in present]
        return self.net(
            pixel_values=normalise(images.float(), MEAN, STD),
            mask_labels=[(mask == labels[:, None, None]).float() for mask, labels in zip(masks, present)],
            class_labels=present,
        ).loss

    def probabilities(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Sums of the masks found, each weighted with what class it is, over their sum."""
        out = self.net(pixel_values=normalise(images.float(), MEAN, STD))
        named = out.class_queries_logits.float().softmax(-1)[..., :-1]  # the last says: no mask
        masks = F.interpolate(out.masks_queries_logits.float(), size, mode="bilinear").sigmoid()
        scores = torch.einsum("bqc,bqhw->bchw", named, masks)
        return scores / scores.sum(1, keepdim=True).clamp_min(1e-12)


def build(name: str, classes: int, *, untrained: bool = False) -> Network:
    """A segmenter of that many labels, the background counted.

    Parameters
    ----------
    name : one of ``NAMES``; "hf:NAME" says outright that it is of transformers
    classes : number of labels
    untrained : start from random weights, and fetch none

    Raises
    ------
    UserError
        There is no network of that name, or it or its library cannot be had.
    """
    if name in OWN:
        return Lite0(classes, OWN[name])
    if name in TORCHVISION:
        return _torchvision(name, classes, untrained)
    place = name.removeprefix("hf:")
    if place != name or "/" in place or os.path.isdir(place):
        return _hugging_face(place, classes, untrained)
    raise UserError(f"there is no network {name}: --network is one of {NAMES}")


def _torchvision(name: str, classes: int, untrained: bool) -> Network:
    try:
        models = require("torchvision.models.segmentation", by=f"the network {name}", install="torchvision")
    except RuntimeError as error:  # also a torchvision that was built for another torch
        if isinstance(error, UserError):
            raise
        raise UserError(
            f"torchvision does not go with this torch ({reason(error)}): install the one of the same release"
        ) from error
    backbone = None if untrained else "DEFAULT"
    try:
        net = getattr(models, name)(
            weights=None, weights_backbone=backbone, num_classes=classes, aux_loss=False
        )
    except OSError as error:
        raise UserError(
            f"the weights of {name} cannot be had ({reason(error)}): let this machine reach "
            "download.pytorch.org once, or copy torch's cache from one that has"
        ) from error
    return Network(net)


def _hugging_face(name: str, classes: int, untrained: bool) -> Network:
    library = require("transformers", by=f"the network {name}", install="transformers")
    logging = library.utils.logging
    loud = logging.get_verbosity()
    logging.set_verbosity_error()  # that the head is new is no news
    try:
        config = library.AutoConfig.from_pretrained(name, num_labels=classes, trust_remote_code=False)
        queries = config.model_type in ("mask2former", "maskformer")
        if getattr(config, "use_auxiliary_head", False):
            config.use_auxiliary_head = False  # only labels that go through the network would train it
        kind = (
            library.AutoModelForUniversalSegmentation if queries else library.AutoModelForSemanticSegmentation
        )
        if untrained:
            net = kind.from_config(config)
        else:
            net = kind.from_pretrained(name, config=config, ignore_mismatched_sizes=True)
    except Exception as error:  # what is missing or damaged fails in many ways
        folder = Path(name).is_dir()
        fix = (
            "save_pretrained of a model writes such folders" if folder else "check the name, or pass a folder"
        )
        raise UserError(f"the network {name} cannot be loaded ({reason(error)}): {fix}") from error
    finally:
        logging.set_verbosity(loud)
    return (Queries if queries else Pixels)(net.float())
