"""Samples of a data set that a memory is fitted to: the arguments of update, as dictionaries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import describe


def check_sample(sample: object, position: int) -> None:
    """Raise where a sample of :meth:`ClassMemory.fit` is not what update takes."""
    if not isinstance(sample, Mapping) or not {"uss_features", "masks"} <= sample.keys():
        raise TypeError(
            f"sample {position} must be a dict with uss_features, masks and what else update takes, got "
            f"{describe(sample)}: yield dict(uss_features=..., masks=..., labels=...)"
        )
    if "known" in sample:
        raise TypeError(f"sample {position} has known, which fit sets itself: leave it out")


def features_of(sample: Mapping[str, Any]) -> tuple[int, torch.device]:
    """Channels of the features of a checked sample, and where they are."""
    features = sample["uss_features"]
    features = features[0] if isinstance(features, Sequence) and len(features) else features
    if not isinstance(features, Tensor) or features.ndim not in (3, 4):
        raise TypeError(
            f"uss_features must be a tensor (B, D, u, v) or (D, u, v), or a list of (D, u, v), got "
            f"{describe(features)}: pass a feature map"
        )
    return features.shape[-3], features.device
