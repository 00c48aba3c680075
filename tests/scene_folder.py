"""A data set on disk, of made-up scenes: images, ground truth, base masks, CAMs and features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scenes import Scene, make_scene

CLASSES = 9
KEYS = ("a", "b", "c", "d")
FOLDERS = ("images", "targets", "cams", "uss", "wss")


def make_scenes() -> dict[str, Scene]:
    """Four scenes with one to three tags of eight."""
    return {
        key: make_scene(seed, tags=tags, size=(40, 48), ignore=True)
        for seed, (key, tags) in enumerate(zip(KEYS, ((2, 6), (1, 3), (5,), (0, 4, 7)), strict=True))
    }


def write_folder(root: Path, scenes: dict[str, Scene]) -> Path:
    """Write one file per scene and kind, each kind in another form."""
    from PIL import Image

    for name in (*FOLDERS, "masks"):
        (root / name).mkdir()
    for key, scene in scenes.items():
        Image.fromarray(scene.image.permute(1, 2, 0).numpy()).save(root / "images" / f"{key}.png")
        write_png(root / "targets" / f"{key}.png", scene.truth.numpy())
        write_png(root / "masks" / f"{key}.png", scene.mask.numpy())
        np.save(root / "cams" / f"{key}.npy", scene.cams.numpy())
        torch.save(scene.uss[None], root / "uss" / f"{key}.pt")
        np.savez(root / "wss" / f"{key}.npz", *(level.numpy() for level in scene.wss))
    return root


def write_png(path: Path, mask: np.ndarray, kind: type = np.uint8) -> None:
    """Write labels as a grey PNG."""
    from PIL import Image

    Image.fromarray(mask.astype(kind)).save(path)
