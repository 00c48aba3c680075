"""Networks of timm: ViTs and networks with stages."""

from __future__ import annotations

import difflib
from typing import Any

import torch
from torch import Tensor

from ..errors import UserError, reason, require
from ..features import tokens_to_map
from .extractor import Network, choose_layers, no_maps, try_out
from .preparing import normalise


def load_timm(name: str, layer: int | None, device: torch.device) -> Network:
    """A pretrained network by its name in timm.

    Parameters
    ----------
    name : as in ``timm.create_model``
    layer : block of a ViT, counted from 1, whose output is taken as it is, or the stage of another network;
        None for what a ViT returns, after its last norm, or the last two stages
    device : where it runs

    Raises
    ------
    UserError
        timm is not installed, does not know the model, or cannot get its weights.
    """
    library = require("timm", by=f"the model {name}", install="timm")
    if ":" not in name and not library.is_model(name):
        near = difflib.get_close_matches(name, library.list_models(pretrained=True), n=3, cutoff=0.5)
        fix = f"did you mean {', '.join(near)}?" if near else "timm.list_models(pretrained=True) names all;"
        raise UserError(
            f"timm {library.__version__} knows no model {name}: {fix} models of transformers have a slash in "
            "their name, or are given as hf:NAME or a folder"
        )
    plain = _create(library, name, pretrained=False)
    told = library.data.resolve_model_data_config(plain)

    def prepared(images: Tensor) -> Tensor:
        return normalise(images, told["mean"], told["std"])

    make = _tokens if hasattr(plain, "num_prefix_tokens") else _staged
    levels, multiple = make(library, name, layer, device, plain)
    network = Network(lambda images: levels(prepared(images)), multiple)
    for level in try_out(network.levels, name, (2 * multiple, 3 * multiple), device):
        if level.ndim != 4 or 3 * level.shape[2] != 2 * level.shape[3]:
            raise no_maps(name)
    return network


def _tokens(library: Any, name: str, layer: int | None, device: torch.device, plain: Any) -> tuple[Any, int]:
    """Patch tokens of a ViT as a map."""
    # DINOv3 and others take any size and do not know the option.
    sized = {} if getattr(plain, "dynamic_img_size", True) else {"dynamic_img_size": True}
    patch = plain.patch_embed.feat_ratio()
    place = None if layer is None else choose_layers(name, layer, len(plain.blocks), "blocks")
    model = _create(library, name, pretrained=True, **sized).float().eval().requires_grad_(False).to(device)

    def levels(images: Tensor) -> list[Tensor]:
        if place is not None:
            return model.forward_intermediates(images, indices=place, intermediates_only=True)
        grid = (images.shape[-2] // patch, images.shape[-1] // patch)
        return [tokens_to_map(model.forward_features(images), grid=grid, prefix=model.num_prefix_tokens)]

    return levels, patch


def _staged(library: Any, name: str, layer: int | None, device: torch.device, plain: Any) -> tuple[Any, int]:
    """The maps of stages."""
    stages = plain.feature_info
    places = choose_layers(name, layer, len(stages), "stages")
    model = _create(library, name, pretrained=True, features_only=True, out_indices=tuple(places))
    model = model.float().eval().requires_grad_(False).to(device)
    return model, stages[-1]["reduction"]


def _create(library: Any, name: str, *, pretrained: bool, **options: Any) -> Any:
    try:
        return library.create_model(name, pretrained=pretrained, **options)
    except Exception as error:  # no network, no such weights, a damaged file: each fails in its own way
        raise UserError(
            f"timm cannot make the model {name} ({reason(error)}): check that timm.list_pretrained() has "
            "it and that this machine reaches the Hugging Face hub; or load it once elsewhere and copy the "
            "hub's cache, the folder that HF_HOME names"
        ) from error
