"""A small data set with masks, small networks of transformers, and runs of the second stage on them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
import train_segmenter
from voc_folder import make_folder

TINY = ["--network", "tiny", "--batch", "2", "--crop", "64", "--classes", "10", "--longer", "0.8,1.5"]


def make_data(root: Path) -> Path:
    """Five images and two held out, and the masks of four of the five in a folder of their own."""
    make_folder(root / "voc")
    (root / "masks").mkdir()
    for i in range(4):
        shutil.copy(root / f"voc/SegmentationClassAug/image{i}.png", root / "masks")
    (root / "train.txt").write_text("".join(f"image{i}\n" for i in range(5)))
    (root / "val.txt").write_text("image5\nimage6\n")
    return root


def train_words(root: Path, out: str, *more: str) -> list[str]:
    """The words of a training command; later ones win."""
    folders = ["--images", f"{root}/voc", "--masks", f"{root}/masks", "--list", f"{root}/train.txt"]
    return ["train", *TINY, *folders, "--steps", "3", "--out", f"{root}/{out}", *more]


def evaluate_words(root: Path, run: str, *more: str) -> list[str]:
    """The words of an evaluation."""
    folders = ["--images", f"{root}/voc", "--targets", f"{root}/voc", "--list", f"{root}/val.txt"]
    return ["evaluate", f"{root}/{run}", *folders, *more]


def start(words: list[str]) -> None:
    """Run the script, which has to go well."""
    assert train_segmenter.main(words) == 0


def checkpoint(out: Path) -> dict[str, Any]:
    """What a run has saved last."""
    return torch.load(out / "checkpoint.pt", weights_only=True)


def small_config(transformers: Any, name: str) -> Any:
    """The configuration of a network of this kind with some ten thousand weights."""
    stages = ["stage1", "stage2", "stage3", "stage4"]
    swin = {
        "embed_dim": 8,
        "depths": [1] * 4,
        "num_heads": [1, 1, 2, 2],
        "window_size": 4,
        "out_features": stages,
    }
    if name == "segformer":
        sizes = {"depths": [1] * 4, "hidden_sizes": [8, 8, 16, 16], "num_attention_heads": [1, 1, 2, 2]}
        return transformers.SegformerConfig(**sizes, decoder_hidden_size=16)
    if name == "upernet":
        backbone = transformers.SwinConfig(**swin)
        return transformers.UperNetConfig(backbone_config=backbone, hidden_size=16, auxiliary_channels=8)
    widths = {"hidden_dim": 32, "feature_size": 32, "mask_feature_size": 32, "encoder_feedforward_dim": 16}
    counts = {"num_queries": 5, "encoder_layers": 1, "decoder_layers": 2, "num_attention_heads": 2}
    return transformers.Mask2FormerConfig(
        backbone_config=transformers.SwinConfig(**swin),
        dim_feedforward=16,
        train_num_points=64,
        **widths,
        **counts,
    )
