"""Small models of transformers with random weights, saved as users hold them."""

from __future__ import annotations

import json

import torch

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


def save(model, folder, **processor):
    """Write a model and its image processor into a folder; the folder's name."""
    torch.manual_seed(7)
    for key, value in model.state_dict().items():
        if value.is_floating_point():  # position embeddings and scales start as zeros and ones
            value.copy_(torch.rand_like(value) - (0 if "running_var" in key else 0.4))
            if value.ndim == 4:  # sums over many channels
                value /= 8
    model.save_pretrained(folder)
    told = {"image_mean": MEAN, "image_std": STD, **processor}
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    return str(folder)


def make_vit(library, kind, patch=8, **options):
    """A ViT of two blocks; its position embeddings are those of 4 x 4 patches."""
    config = getattr(library, f"{kind}Config")(patch_size=patch, image_size=4 * patch, **TINY, **options)
    return getattr(library, f"{kind}Model")(config)


def make_stages(library, kind):
    """A network of four stages."""
    depths = {"depths": [1, 1, 1, 1]}
    options = {
        "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16, 24, 40], "layer_type": "basic"},
        "ConvNext": {"hidden_sizes": [8, 16, 24, 40]},
        "DINOv3ConvNext": {"hidden_sizes": [8, 16, 24, 40]},
        "Swin": {"embed_dim": 8, "num_heads": [1, 1, 2, 2], "window_size": 2, "image_size": 64},
    }[kind]
    config = getattr(library, f"{kind}Config")(**depths, **options)
    return getattr(library, f"{kind}Model")(config)
