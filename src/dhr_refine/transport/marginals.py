"""The masses of pixels and classes that a caller gives, checked and brought to sum 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..checks import check_same, check_tensor, describe, find_extent
from .problem import TINY


def pixel_masses(
    scores: Tensor, flat: Tensor, pixel_mass: Tensor | None, valid: Tensor | None
) -> Tensor | None:
    """Pixel masses (B, N) that sum to 1 (or 0 without a valid pixel); None where uniform."""
    batch, _, size = flat.shape
    grids = [tuple(scores.shape[2:]), (size,)]
    mass = None
    if pixel_mass is not None:
        check_tensor(pixel_mass, "pixel_mass", "(B, H, W) or (B, N)", ndim=(1, 2, 3), floating=True)
        if tuple(pixel_mass.shape) in grids:
            pixel_mass = pixel_mass[None].expand(batch, *pixel_mass.shape)
        if tuple(pixel_mass.shape[1:]) not in grids or pixel_mass.shape[0] != batch:
            raise ValueError(
                f"pixel_mass must match the pixels of scores {tuple(scores.shape)}, got shape "
                f"{tuple(pixel_mass.shape)}: pass (B, H, W) or (B, N)"
            )
        check_same(pixel_mass, "pixel_mass", scores, "scores")
        _check_mass(pixel_mass, "pixel_mass")
        mass = pixel_mass.flatten(1)
    if valid is not None and not _masks_classes(scores, flat, valid):
        kept = valid.flatten(1)
        mass = kept if mass is None else mass * kept
    return None if mass is None else _to_one(mass, flat.dtype)


def class_masses(flat: Tensor, class_mass: Tensor | None, valid: Tensor | None) -> Tensor:
    """Bring class masses to (B, K), summing to 1 over the classes that take part (or 0 without any)."""
    batch, num_classes, size = flat.shape
    mask = None
    if valid is not None and valid.ndim == 2 and tuple(valid.shape) == (batch, num_classes) != (batch, size):
        mask = valid
    if class_mass is None:
        if mask is None:
            return flat.new_full((batch, num_classes), 1.0 / max(num_classes, 1))
        mass = flat.new_ones(batch, num_classes)
    else:
        check_tensor(class_mass, "class_mass", "(B, K) or (K,)", ndim=(1, 2), floating=True)
        if class_mass.ndim == 1:
            class_mass = class_mass[None].expand(batch, -1)
        if tuple(class_mass.shape) != (batch, num_classes):
            raise ValueError(
                f"class_mass must have shape ({batch}, {num_classes}) or ({num_classes},) as scores has "
                f"{num_classes} classes, got {tuple(class_mass.shape)}: pass one mass per class"
            )
        check_same(class_mass, "class_mass", flat, "scores")
        _check_mass(class_mass, "class_mass")
        mass = class_mass
    if mask is not None:
        mass = mass * mask
    return _to_one(mass, flat.dtype)


def _to_one(mass: Tensor, dtype: torch.dtype) -> Tensor:
    """Masses brought to sum 1 along the last axis; all zeros stay, and so does what counts as nothing."""
    if mass.numel() == 0:
        return mass.to(dtype)
    mass = mass.double()
    largest = mass.detach().amax(-1, keepdim=True)
    mass = mass / torch.where(largest > 0, largest, 1.0)  # or the sum of huge masses overflows
    mass = mass / mass.sum(-1, keepdim=True).clamp_min(1.0)
    return torch.where(mass > TINY, mass, 0.0).to(dtype)


def _masks_classes(scores: Tensor, flat: Tensor, valid: Tensor) -> bool:
    """Tell whether ``valid`` masks classes (B, K) rather than pixels, and check it."""
    batch, num_classes, size = flat.shape
    if not isinstance(valid, Tensor) or valid.dtype != torch.bool:
        raise TypeError(f"valid must be a bool tensor, got {describe(valid)}: pass valid.bool()")
    shape = tuple(valid.shape)
    if shape == (batch, num_classes) == (batch, size):
        raise ValueError(
            f"valid of shape {shape} could mask pixels or classes as N = K = {size}: "
            "pass scores as (B, K, H, W) with a (B, H, W) mask, or class_mass with zeros"
        )
    if valid.device != scores.device:
        raise ValueError(
            f"valid is on {valid.device} but scores is on {scores.device}: move valid with .to(scores.device)"
        )
    if shape == (batch, num_classes):
        return True
    if shape in ((batch, size), (batch, *scores.shape[2:])):
        return False
    raise ValueError(
        f"valid must mask pixels {(batch, *scores.shape[2:])} or classes {(batch, num_classes)}, "
        f"got shape {shape}: match one of them"
    )


def _check_mass(mass: Tensor, name: str) -> None:
    low, high = find_extent(mass)
    if not (low >= 0 and math.isfinite(high)):
        raise ValueError(
            f"{name} must be finite and non-negative, got values in [{low}, {high}]: clamp it, "
            f"torch.nan_to_num({name}, posinf=0).clamp(0)"
        )
