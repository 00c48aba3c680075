"""Boundary tools as the field's codebases call them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from torch import Tensor

from ...adaptive import pamr, par
from ...crf import dense_crf

PresetName = Literal["seam", "irn", "dhr", "toco", "weaktr"]
Method = Literal["crf", "par", "pamr"]


@dataclass(frozen=True)
class Preset:
    """The dense CRF of a codebase: 10 iterations, Gaussian and bilateral kernels, and its base masks."""

    options: Mapping[str, float]
    base_score: float | Literal["power"] = 0.2
    alpha: float = 1.0


def _crf(gauss_sxy: float, gauss_compat: float, sxy: float, srgb: float, compat: float) -> dict[str, float]:
    return {
        "gauss_sxy": gauss_sxy,
        "gauss_compat": gauss_compat,
        "sxy": sxy,
        "srgb": srgb,
        "compat": compat,
    }


PRESETS: Mapping[PresetName, Preset] = {
    "seam": Preset(_crf(3, 3, 80, 13, 10), "power", 4.0),
    "irn": Preset(_crf(3, 3, 50, 5, 10)),
    "dhr": Preset(_crf(1, 3, 67, 3, 4)),
    "toco": Preset(_crf(1, 1, 121, 5, 4)),
    "weaktr": Preset(_crf(4, 3, 83, 5, 3)),
}
"""SEAM: (1 - max) ** 4 beside the CAMs; IRN and AdvCAM, on labels; DHR, RSEPM and CLIP-ES; ToCo; WeakTr."""


def tool_of(method: Method, preset: PresetName) -> Callable[[Any, Tensor], Tensor]:
    """The boundary tool of a method, with the options of a preset if it is the CRF."""
    tools: dict[str, Callable[..., Tensor]] = {
        "crf": partial(dense_crf, **PRESETS[preset].options),
        "par": par,
        "pamr": pamr,
    }
    return tools[method]
