"""SAM and SAM 2 of transformers with random weights, small enough for tests."""

from __future__ import annotations

import importlib.util
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F


class Stretching:
    """What is used of a Sam2Processor: an image becomes a normalised square."""

    def __init__(self, side: int):
        self.side = side

    def __call__(self, images: torch.Tensor, return_tensors: str) -> dict[str, torch.Tensor]:
        assert return_tensors == "pt"
        pixels = F.interpolate(images[None] / 255, (self.side, self.side), mode="bilinear", antialias=True)
        return {"pixel_values": (pixels - 0.45) / 0.225}

    def post_process_masks(self, masks: Any, original_sizes: Any) -> Any:
        return [F.interpolate(one, size, mode="bilinear") > 0 for one, size in zip(masks, original_sizes)]


class Loaded(NamedTuple):
    """A model in evaluation mode and its processor."""

    model: Any
    processor: Any


def make_sam(seed: int = 0) -> Loaded:
    """SamModel of 64 x 64 images in 4 x 4 cells."""
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(seed)
    config = transformers.SamConfig(
        vision_config={
            "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 64,
            "patch_size": 16, "output_channels": 8, "mlp_dim": 16, "window_size": 0,
            "global_attn_indexes": [0], "num_pos_feats": 4,
        },
        prompt_encoder_config={
            "hidden_size": 8, "image_size": 64, "patch_size": 16, "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 8, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "iou_head_hidden_dim": 8,
        },
    )  # fmt: skip
    processor = transformers.SamProcessor(
        transformers.SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    )
    return Loaded(transformers.SamModel(config).eval(), processor)


def make_sam2(seed: int = 0) -> Loaded:
    """Sam2Model of 64 x 64 images in 4 x 4 cells."""
    transformers = pytest.importorskip("transformers")
    if not hasattr(transformers, "Sam2Model"):
        pytest.skip("this transformers has no Sam2Model")
    torch.manual_seed(seed)
    config = transformers.Sam2Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam2_hiera_det_model", "hidden_size": 8, "num_attention_heads": 1,
                "image_size": [64, 64], "blocks_per_stage": [1, 1, 2, 1],
                "embed_dim_per_stage": [8, 16, 32, 64], "num_attention_heads_per_stage": [1, 1, 1, 1],
                "window_size_per_stage": [8, 4, 4, 2], "global_attention_blocks": [3],
                "window_positional_embedding_background_size": [4, 4],
            },
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "fpn_hidden_size": 32, "num_feature_levels": 3,
        },
        prompt_encoder_config={"hidden_size": 32, "image_size": 64, "mask_input_channels": 4},
        mask_decoder_config={
            "hidden_size": 32, "mlp_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "iou_head_hidden_dim": 8,
        },
    )  # fmt: skip
    if importlib.util.find_spec("torchvision") is None:  # which the image processor of SAM 2 needs
        processor = Stretching(64)
    else:
        images = transformers.Sam2ImageProcessor(size={"height": 64, "width": 64})
        processor = transformers.Sam2Processor(images)
    return Loaded(transformers.Sam2Model(config).eval(), processor)


MODELS = {"sam": make_sam, "sam 2": make_sam2}
