"""Images with everything that refinement needs: from own files, or from the networks through the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dhr_refine import base_mask
from dhr_refine.datasets.cache import Cache
from dhr_refine.datasets.items import Item
from dhr_refine.errors import UserError, explained
from dhr_refine.files import read_mask
from dhr_refine.folders.work.sources import Sources
from dhr_refine.pretrained import Classifier, VisionTransformer
from dhr_refine.pretrained.classifier import read_head
from dhr_refine.pretrained.fetch import cache_dir, vit_file
from quality.fingerprints import library_code, network_code
from quality.kept import are_maps, are_masks


@dataclass
class Source:
    """Where CAMs and features come from: own files, or the pretrained networks.

    A network is loaded when the first image needs it. ``head`` is a file that ``read_head`` takes, of a
    linear layer on EfficientNet-lite0's pooled features: its CAMs are relu(weight . features), over four
    scales and both flips.
    """

    files: Sources
    cache: Cache
    head: Path | None = None
    vit: Path | None = None

    def __call__(self, item: Item, image: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """CAMs of the tags (K, h, w), USS features (D, u, v) and levels of WSS features."""
        files, key = self.files, item.key
        if files.cams is None and self.head is None:
            raise UserError("CAMs need --head FILE, a linear head for EfficientNet-lite0, or --cams DIR")
        uss = self._uss(item, image) if files.uss is None else files.uss_of(key)
        wss = files.wss_of(key)
        cams = None if files.cams is None else files.cams_of(key, item.tags)
        if cams is None or not wss:
            made = self._from_classifier(item, image)
            cams = made["cams"] if cams is None else cams
            wss = wss or [made["stride16"], made["stride32"]]
        # Logits serve as CAMs, as they do in refine_mask.
        return cams.relu(), uss, wss

    def _uss(self, item: Item, image: Tensor) -> Tensor:
        def make() -> dict[str, Tensor]:
            return {"uss": self._transformer(image)[0]}

        return self._kept("uss", item, (image,), {"uss": None}, make)["uss"]

    def _from_classifier(self, item: Item, image: Tensor) -> dict[str, Tensor]:
        def make() -> dict[str, Tensor]:
            # Without a head only the features are wanted, and the CAMs come from files.
            scales = (0.5, 1.0, 1.5, 2.0) if self.head else (1.0,)
            cams, levels = self._classifier(image, [[tag] for tag in item.tags], scales=scales)
            return {"cams": cams, "stride16": levels[0][0], "stride32": levels[1][0]}

        depths = {"cams": len(item.tags), "stride16": None, "stride32": None}
        return self._kept("classifier", item, (image, item.tags, self._weight), depths, make)

    def _kept(
        self,
        kind: str,
        item: Item,
        made_from: tuple[Any, ...],
        depths: Mapping[str, int | None],
        make: Callable[[], Mapping[str, Tensor]],
    ) -> dict[str, Tensor]:
        """Maps of a network (D, h, w), kept and used in half precision."""
        arrays = self.cache(
            kind,
            item.key,
            (network_code(), *made_from),
            lambda: {name: maps.half().numpy() for name, maps in make().items()},
            lambda arrays: are_maps(arrays, depths),
        )
        return {name: torch.from_numpy(array).float() for name, array in arrays.items()}

    @cached_property
    def _weight(self) -> Tensor | None:
        if self.head is None:
            return None
        foreground = self.files.classes.num_classes - 1
        return read_head(self.head, foreground, allow_pickle=self.files.allow_pickle)

    @cached_property
    def _classifier(self) -> Classifier:
        return Classifier.load(self._weight)

    @cached_property
    def _transformer(self) -> VisionTransformer:
        return VisionTransformer.load(vit_file(cache_dir(), self.vit))


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


def prepare(item: Item, source: Source, *, background: float = 0.2, boundary: Any = "crf") -> Sample:
    """Load an image and its features and make its base mask, all from the cache where it was done before."""
    files = source.files
    image = files.image(item.key)
    size = tuple(image.shape[1:])
    target = read_mask(item.target, num_classes=files.classes.num_classes, ignore_index=files.ignore_index)
    if target.shape != size:
        raise UserError(
            f"{item.target} is {tuple(target.shape)} but {item.image.name} {size} (H, W): the ground truth "
            "has to be at the image's size"
        )
    cams, uss, wss = source(item, image)
    if files.masks is not None:
        return Sample(item.key, image, target, item.tags, cams, uss, wss, None, files.mask(item.key, size))

    def make() -> dict[str, np.ndarray]:
        with explained(item.key):
            return {
                name: base_mask(cams, range(len(cams)), image, background=background, refine=tool)
                .numpy()
                .astype(np.uint8)
                for name, tool in (("raw", None), ("base", boundary))
            }

    made = source.cache(
        "base",
        item.key,
        (library_code(), image, cams, background, boundary),
        make,
        lambda arrays: are_masks(arrays, ("raw", "base"), size, range(len(item.tags) + 1)),
    )
    labels = torch.tensor([0, *(tag + 1 for tag in item.tags)])
    raw, base = (labels[torch.from_numpy(made[name]).long()] for name in ("raw", "base"))
    return Sample(item.key, image, target, item.tags, cams, uss, wss, raw, base)
