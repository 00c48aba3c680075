"""Networks of Hugging Face transformers: ViTs, the image tower of CLIP, networks with stages."""

from __future__ import annotations

import inspect
import math
import os
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UserError, reason, require
from ..features import tokens_to_map
from .extractor import Network, choose_layers, no_maps, try_out
from .preparing import normalise

# Stride of the last stage of networks that have stages.
_STRIDE = 32
# Weights that files leave out and features do not need.
_UNUSED = ("pooler", "mask_token")


def load_hugging_face(name: str, layer: int | None, device: torch.device) -> Network:
    """A network by its name on the Hugging Face hub, or from the folder that it was saved to.

    Parameters
    ----------
    name : name, or folder with the model and its image processor
    layer : block of a ViT, counted from 1, whose output is taken as it is, or the stage of another network;
        None for what a ViT returns, after its last norm, or the last two stages
    device : where it runs

    Raises
    ------
    UserError
        transformers is not installed, the model cannot be had, or it gives no maps.
    """
    library = require("transformers", by=f"the model {name}", install="transformers")
    mean, std = _normalisation(library, name)
    model = _load_model(library, name).to(device)
    options: dict[str, Any] = {"output_hidden_states": True}
    if "interpolate_pos_encoding" in inspect.signature(model.forward).parameters:
        options["interpolate_pos_encoding"] = True

    def run(images: Tensor) -> Any:
        return model(pixel_values=normalise(images, mean, std), **options)

    patch = _patch(model)
    multiple = patch or _STRIDE
    grids = ((2, 3), (3, 5))
    outputs = [try_out(run, name, [cells * multiple for cells in grid], device) for grid in grids]
    if patch is None:
        return Network(_staged(run, model, name, layer, outputs[0]), multiple)
    return Network(_tokens(run, name, layer, patch, dict(zip(grids, outputs))), multiple)


def _tokens(run: Any, name: str, layer: int | None, patch: int, outputs: dict[tuple[int, int], Any]) -> Any:
    """Patch tokens as a map; what was tried out tells how many others stand in front of them."""
    blocks = len(next(iter(outputs.values())).hidden_states) - 1
    place = None if layer is None else 1 + choose_layers(name, layer, blocks, "blocks")[0]

    def tokens(output: Any) -> Tensor:
        return output.last_hidden_state if place is None else output.hidden_states[place]

    fronts = {tokens(output).shape[1:-1].numel() - math.prod(grid) for grid, output in outputs.items()}
    if len(fronts) > 1 or min(fronts) < 0:
        raise no_maps(name)
    (front,) = fronts

    def levels(images: Tensor) -> list[Tensor]:
        grid = (images.shape[-2] // patch, images.shape[-1] // patch)
        return [tokens_to_map(tokens(run(images)), grid=grid, prefix=front)]

    return levels


def _staged(run: Any, model: nn.Module, name: str, layer: int | None, output: Any) -> Any:
    """The maps of stages; ``output`` is what the model made of an image of 2 x 3 strides."""

    def stages(output: Any) -> list[Tensor]:
        # ResNets give the stem's map in front of the stages', some the image itself.
        states = getattr(output, "reshaped_hidden_states", None) or output.hidden_states
        return list(states[-len(getattr(model.config, "depths", states[1:])) :])

    found = stages(output)
    if any(level.ndim != 4 or 3 * level.shape[2] != 2 * level.shape[3] for level in found):
        raise no_maps(name)
    places = choose_layers(name, layer, len(found), "stages")

    def levels(images: Tensor) -> list[Tensor]:
        maps = stages(run(images))
        return [maps[place] for place in places]

    return levels


def _patch(model: Any) -> int | None:
    """Side of a ViT's patches; None for networks with stages."""
    patch = getattr(model.config, "patch_size", None)
    if patch is None or getattr(model.config, "depths", None):
        return None
    return patch if isinstance(patch, int) else max(patch)


def _normalisation(library: Any, name: str) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of the model's image processor, for images in [0, 1]."""
    try:
        told, _ = library.ImageProcessingMixin.get_image_processor_dict(name)
    except Exception as error:  # what is missing or damaged fails in many ways
        raise _not_loaded(name, "image processor", error) from error
    # Networks may take images in another range than [0, 1]; mean and std hold there.
    top = 255 * told.get("rescale_factor", 1 / 255) if told.get("do_rescale", True) else 255.0
    mean, std = [0.0] * 3, [1.0] * 3
    if told.get("do_normalize", True):
        if not all(len(told.get(key) or ()) == 3 for key in ("image_mean", "image_std")):
            raise UserError(
                f"the image processor of the model {name} has no image_mean and image_std of three "
                "channels: add them to its preprocessor_config.json"
            )
        mean, std = told["image_mean"], told["image_std"]
    return [value / top for value in mean], [value / top for value in std]


def _load_model(library: Any, name: str) -> Any:
    """The model, or its image tower where it has others, in single precision."""
    logging = library.utils.logging
    loud = logging.get_verbosity()
    logging.set_verbosity_error()  # what is left out is said below, where it matters
    try:
        model, report = library.AutoModel.from_pretrained(
            name, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:  # what is missing or damaged fails in many ways
        raise _not_loaded(name, "model", error) from error
    finally:
        logging.set_verbosity(loud)
    # CLIP and its kind have towers for images and for texts.
    tower = getattr(model, "vision_model", model)
    inside = "" if tower is model else "vision_model."
    missing = sorted(
        key
        for key in report["missing_keys"]
        if key.startswith(inside) and not any(part in key for part in _UNUSED)
    )
    if missing:
        raise UserError(
            f"the files of the model {name} lack {len(missing)} of its weights (first: {missing[0]}), which "
            "would be random numbers: download or save it again"
        )
    return tower.float().eval().requires_grad_(False)


def _not_loaded(name: str, what: str, error: Exception) -> UserError:
    text = f"the {what} of {name} cannot be loaded ({reason(error)})"
    if "trust_remote_code" in str(error):
        return UserError(
            f"{name} needs code out of its own repository, which is never run here: choose a model that "
            "transformers knows"
        )
    if os.path.isdir(name):
        return UserError(
            f"{text}: the folder must hold what save_pretrained of a model and of its image processor write"
        )
    return UserError(
        f"{text}: check the name and that this machine reaches the Hugging Face hub; or download it "
        f"elsewhere, hf download {name} --local-dir FOLDER, and pass the folder"
    )
