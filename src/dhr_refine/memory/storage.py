"""A memory as plain numbers, strings and tensors, for checkpoints and files."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import torch

from ..checks import describe
from ..files import load_arrays
from ..files.writing import write_atomic
from ..inputs import Background
from .sums import Sums

Covariance = Literal["class", "pooled"]


class MemoryKeywords(TypedDict, total=False):
    """The options of ClassMemory."""

    background: Background
    covariance: Covariance
    decay: float
    least_images: float
    shrinkage: float
    device: torch.device | str


# What a memory is made with, and a file must agree in; in the order of the constructor.
OPTIONS = ("num_classes", "dim", "background", "covariance", "decay", "least_images", "shrinkage")


def to_state(memory: object, sums: Sums) -> dict[str, int | float | str | torch.Tensor]:
    """Options and sums."""
    options = {name: getattr(memory, name) for name in OPTIONS}
    return options | {name: tensor.clone() for name, tensor in sums._asdict().items()}


def from_state(state: Mapping[str, object], like: Sums) -> Sums:
    """The sums of a state, if they have the shapes of a memory's own and are sums of something."""
    found = {}
    for name, own in like._asdict().items():
        value = state.get(name)
        value = torch.as_tensor(value) if isinstance(value, (np.ndarray, np.generic)) else value
        if not isinstance(value, torch.Tensor) or value.shape != own.shape or value.dtype != own.dtype:
            raise ValueError(
                f"{name} of the state must be float64 of shape {tuple(own.shape)}, got {describe(value)}: "
                "pass what state_dict() of such a memory returned"
            )
        if not torch.isfinite(value).all() or (name not in ("first", "second") and (value < 0).any()):
            raise ValueError(f"{name} of the state is no sum of finite numbers: make the memory anew")
        found[name] = value
    return Sums(**found)


def options_of(state: object) -> dict[str, Any]:
    """The options of a state, as keyword arguments of ClassMemory; a ValueError if it has none."""
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a dict of state_dict(), got {describe(state)}: pass that")
    missing = [name for name in (*OPTIONS, *Sums._fields) if name not in state]
    if missing:
        raise ValueError(f"state has no {missing[0]}: pass what state_dict() of a memory returned")
    # Scalars come out of files as arrays without axes.
    options = {name: value.item() if _is_scalar(value := state[name]) else value for name in OPTIONS}
    for name, value in options.items():
        if not isinstance(value, (str, int, float)):
            raise ValueError(
                f"{name} of the state must be a number or a word, got {describe(value)}: pass what "
                "state_dict() of a memory returned"
            )
    # Before anybody makes room for as many classes as a file may claim.
    classes, dim = options["num_classes"], options["dim"]
    shapes = Sums.shapes(classes, dim, 2 if options["covariance"] == "pooled" else classes)
    for name, shape in zip(Sums._fields, shapes):
        if getattr(state[name], "shape", None) != shape:
            raise ValueError(
                f"{name} of the state must have shape {shape}, got {describe(state[name])}: pass what "
                "state_dict() of a memory returned"
            )
    return options


def save(path: str | os.PathLike[str], state: Mapping[str, Any]) -> None:
    """Write a state to an .npz file, in one piece."""
    data = io.BytesIO()
    arrays = {name: np.asarray(_plain(value)) for name, value in state.items()}
    np.savez(data, allow_pickle=False, **arrays)
    write_atomic(Path(path), data.getvalue())


def read(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """The state of a file; nothing in it is executed."""
    state = load_arrays(path)
    if not isinstance(state, Mapping):
        raise ValueError(f"{os.fsdecode(path)} holds no memory: pass a file of ClassMemory.save")
    return state


def _is_scalar(value: object) -> bool:
    return isinstance(value, (np.ndarray, np.generic)) and value.ndim == 0


def _plain(value: Any) -> Any:
    return value.cpu().numpy() if isinstance(value, torch.Tensor) else value
