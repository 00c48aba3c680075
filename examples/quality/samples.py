"""Images with everything that refinement needs: from own files, or from the networks through the cache."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dhr_refine import base_mask
from dhr_refine.datasets.cache import Cache
from dhr_refine.datasets.folders import read_class_cams, read_levels
from dhr_refine.datasets.index import FileIndex
from dhr_refine.datasets.items import Item
from dhr_refine.errors import UserError, explained, reading
from dhr_refine.files.masks import read_mask
from dhr_refine.files.pictures import read_index_mask, read_picture
from dhr_refine.pretrained import Classifier, VisionTransformer
from dhr_refine.pretrained.classifier import read_head
from dhr_refine.pretrained.fetch import cache_dir, vit_file
from quality.fingerprints import library_code, network_code
from quality.kept import are_maps, are_masks


@dataclass
class Source:
    """Where CAMs and features come from: own files, or the pretrained networks.

    A network is loaded when the first image needs it. ``head`` is a file as ``read_head``
    takes, of a linear layer on EfficientNet-lite0's pooled features: its CAMs are relu(weight . features),
    over four scales and both flips.
    """

    cache: Cache
    classes: int = 21
    cams: FileIndex | None = None
    uss: FileIndex | None = None
    wss: FileIndex | None = None
    head: Path | None = None
    vit: Path | None = None
    cam_background: str | None = None
    allow_pickle: bool = False
    _networks: dict[str, Any] = field(default_factory=dict)

    def __call__(self, item: Item, image: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """CAMs of the tags (K, h, w), USS features (D, u, v) and levels of WSS features."""
        if self.cams is None and self.head is None:
            raise UserError("CAMs need --head FILE, a linear head for EfficientNet-lite0, or --cams DIR")
        allow = self.allow_pickle
        cams = uss = wss = None
        if self.uss is not None:
            with own_file(self.uss, item.key) as path:
                uss = read_levels(path, allow_pickle=allow)[0]
        if self.wss is not None:
            with own_file(self.wss, item.key) as path:
                wss = read_levels(path, allow_pickle=allow)
        if self.cams is not None:
            with own_file(self.cams, item.key) as path:
                options: Any = {"background": self.cam_background, "allow_pickle": allow}
                cams = read_class_cams(path, item.tags, **options)
        if cams is None or wss is None:
            made = self._from_classifier(item, image)
            cams = made["cams"] if cams is None else cams
            wss = [made["stride16"], made["stride32"]] if wss is None else wss
        if uss is None:
            parts = (network_code(), image)
            made = self.cache(
                "uss",
                item.key,
                parts,
                lambda: self._uss(image),
                lambda arrays: are_maps(arrays, {"uss": None}),
            )
            uss = torch.from_numpy(made["uss"])
        # Logits serve as CAMs, as they do in refine_mask.
        return cams.float().relu(), uss.float(), [level.float() for level in wss]

    def _from_classifier(self, item: Item, image: Tensor) -> dict[str, Tensor]:
        parts = (network_code(), image, item.tags, self._head())
        depths = {"cams": len(item.tags), "stride16": None, "stride32": None}
        arrays = self.cache(
            "classifier",
            item.key,
            parts,
            lambda: self._classify(item, image),
            lambda arrays: are_maps(arrays, depths),
        )
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def _classify(self, item: Item, image: Tensor) -> dict[str, np.ndarray]:
        if "classifier" not in self._networks:
            self._networks["classifier"] = Classifier.load(self._head())
        # Without a head only the features are wanted, and the CAMs come from files.
        cams, levels = self._networks["classifier"](
            image, [[tag] for tag in item.tags], scales=(0.5, 1.0, 1.5, 2.0) if self.head else (1.0,)
        )
        arrays = {"cams": cams, "stride16": levels[0][0], "stride32": levels[1][0]}
        return {name: array.half().numpy() for name, array in arrays.items()}

    def _uss(self, image: Tensor) -> dict[str, np.ndarray]:
        if "vit" not in self._networks:
            weights = vit_file(cache_dir(), self.vit)
            self._networks["vit"] = VisionTransformer.load(weights)
        return {"uss": self._networks["vit"](image)[0].half().numpy()}

    def _head(self) -> Tensor | None:
        if "head" not in self._networks:
            self._networks["head"] = self.head and read_head(
                self.head, self.classes - 1, allow_pickle=self.allow_pickle
            )
        return self._networks["head"]


@contextmanager
def own_file(files: FileIndex, key: str) -> Iterator[Path]:
    """The file of an image, and errors that name it."""
    path = files[key]
    with reading(path, "replace it, or take the image out of the list"):
        yield path


@dataclass(frozen=True)
class Sample:
    """One image with everything that refinement needs."""

    key: str
    image: Tensor  # (3, H, W) uint8
    target: Tensor  # (H, W) int64
    tags: tuple[int, ...]
    cams: Tensor  # (K, h, w), of the tags
    uss: Tensor  # (D, u, v)
    wss: list[Tensor]
    raw: Tensor | None  # (H, W) int64 base mask before the boundary step, None if the base mask was given
    base: Tensor  # (H, W) int64 base mask that is refined


def prepare(
    item: Item,
    source: Source,
    *,
    masks: FileIndex | None = None,
    background: float = 0.2,
    boundary: Any = "crf",
    ignore_index: int = 255,
) -> Sample:
    """Load an image and its features and make its base mask, all from the cache where it was done before."""
    with reading(item.image, "replace it, or take the image out of the list"):
        image = read_picture(item.image)
    with reading(item.target, "replace it, or take the image out of the list"):
        target = torch.from_numpy(read_index_mask(item.target, source.classes, ignore_index))
    if target.shape != image.shape[1:]:
        raise UserError(
            f"{item.target} is {tuple(target.shape)} but {item.image.name} {tuple(image.shape[1:])} (H, W): "
            "the ground truth has to be at the image's size"
        )
    cams, uss, wss = source(item, image)
    if masks is not None:
        known = {"num_classes": source.classes, "ignore_index": ignore_index}
        with own_file(masks, item.key) as path:
            raw, base = None, read_mask(path, **known, allow_pickle=source.allow_pickle)
        if base.shape != target.shape:
            raise UserError(
                f"the mask of {item.key} in {path.parent} is {tuple(base.shape)}, not {tuple(target.shape)}"
            )
    else:

        def make() -> dict[str, np.ndarray]:
            with explained(item.key):
                return {
                    name: base_mask(cams, range(len(cams)), image, background=background, refine=tool)
                    .numpy()
                    .astype(np.uint8)
                    for name, tool in (("raw", None), ("base", boundary))
                }

        made_from = (library_code(), image, cams, background, boundary)
        size, rows = tuple(target.shape), range(len(item.tags) + 1)
        made = source.cache(
            "base",
            item.key,
            made_from,
            make,
            lambda arrays: are_masks(arrays, ("raw", "base"), size, rows),
        )
        labels = torch.tensor([0, *(tag + 1 for tag in item.tags)])
        raw, base = (labels[torch.from_numpy(made[name]).long()] for name in ("raw", "base"))
    return Sample(item.key, image, target, item.tags, cams, uss, wss, raw, base)
