"""Samples of a data set that a memory is fitted to: the arguments of update, as dictionaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import describe, way_to_tensor

# Arguments of ClassMemory.update, but for what fit sets itself.
_TAKEN = ("uss_features", "masks", "labels", "boxes", "box_format", "ignore_index")


def check_sample(sample: object, position: int) -> None:
    """Raise where a sample of :meth:`ClassMemory.fit` is not what update takes."""
    if not isinstance(sample, Mapping) or not {"uss_features", "masks"} <= sample.keys():
        raise TypeError(
            f"sample {position} must be a dict with uss_features, masks and what else update takes, got "
            f"{describe(sample)}: yield dict(uss_features=..., masks=..., labels=...)"
        )
    if "known" in sample:
        raise TypeError(f"sample {position} has known, which fit sets itself: leave it out")
    if strange := [name for name in sample if name not in _TAKEN]:
        raise TypeError(
            f"sample {position} has {strange[0]!r}, which update does not take: leave it out (it takes "
            f"{', '.join(_TAKEN)})"
        )


def features_of(sample: Mapping[str, Any]) -> tuple[int, torch.device]:
    """Channels of the features of a checked sample, and where they are."""
    features = sample["uss_features"]
    features = features[0] if isinstance(features, Sequence) and len(features) else features
    if not isinstance(features, Tensor) or features.ndim not in (3, 4):
        raise TypeError(
            f"uss_features must be a tensor (B, D, u, v) or (D, u, v), or a list of (D, u, v), got "
            f"{describe(features)}: {way_to_tensor(features)}"
        )
    return features.shape[-3], features.device
