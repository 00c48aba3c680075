"""What figures are given: steps, images, masks and names, checked and brought to the host."""

from __future__ import annotations

from collections.abc import Collection, Set

import numpy as np
import torch
from torch import Tensor

from ..checks import check_count, check_data, check_ignore_index, describe, read_numbers, show
from ..inputs import IMAGENET_MEAN, IMAGENET_STD, ArgumentNames, read_images
from ..metrics.masks import Mask, read_mask
from ..palettes import UNKNOWN
from ..steps import RefineSteps, split


def read_steps(steps: RefineSteps | RefineSteps[list[Tensor]], index: int | None) -> RefineSteps:
    """The steps of one image, without a batch axis."""
    if not isinstance(steps, RefineSteps):
        raise TypeError(
            f"steps must be a RefineSteps, got {describe(steps)}: pass what refine_steps returned"
        )
    images = split(steps)
    if index is None:
        if len(images) != 1:
            raise ValueError(f"steps hold {len(images)} images: pass index, the number of the one to draw")
        return images[0]
    check_count(index, "index", 0)
    if index >= len(images):
        raise ValueError(
            f"index must be below {len(images)}, the images in steps, got {show(index)}: lower it"
        )
    return images[index]


def read_pixels(image: Tensor | np.ndarray, size: tuple[int, ...] | None = None) -> np.ndarray:
    """An RGB image as (H, W, 3) uint8."""
    # A copy: torch warns about arrays that must not be written to.
    given = torch.from_numpy(np.array(read_numbers(image, "image", "an RGB image")))
    if given.ndim == 3 and given.shape[0] != 3 and given.shape[2] == 3:
        given = given.movedim(2, 0)
    if given.ndim != 3 or given.shape[0] != 3 or given.numel() == 0:
        raise ValueError(
            f"image must have shape (3, H, W) or (H, W, 3), got {describe(image)}: pass one RGB image"
        )
    height, width = given.shape[1:]
    if size is not None and (height, width) != tuple(size):
        raise ValueError(
            f"image has size {(height, width)} but the mask has {tuple(size)}: resize the image or the mask"
        )
    called = ArgumentNames("single", [0])
    pixels = read_images(given[None], (height, width), IMAGENET_MEAN, IMAGENET_STD, called, "image").pixels
    return pixels[0].movedim(0, 2).numpy()


def read_labels(mask: Mask, name: str, ignore_index: int, size: tuple[int, ...] | None = None) -> np.ndarray:
    """A mask as (H, W) int64, 255 where unknown."""
    check_ignore_index(ignore_index)
    given = read_mask(mask, name)
    check_data(given, name)
    labels = given.cpu().numpy()
    if labels.shape[0] != 1 or labels.size == 0:
        raise ValueError(f"{name} must have shape (H, W), got {describe(mask)}: pass the mask of one image")
    labels = labels[0]
    if size is not None and labels.shape != tuple(size):
        raise ValueError(
            f"{name} has size {labels.shape}, not {tuple(size)}: pass the mask of the same image"
        )
    known = labels != ignore_index
    wrong = labels[known & ((labels < 0) | (labels >= UNKNOWN))]
    if wrong.size:
        raise ValueError(
            f"{name} holds label {wrong[0]}, but colours exist for labels 0 to 254 and ignore_index "
            f"({ignore_index}): pass another ignore_index, or relabel the mask"
        )
    return np.where(known, labels, UNKNOWN)


def check_text(value: object, name: str) -> None:
    """Raise unless this is text."""
    if not isinstance(value, str):
        raise TypeError(f"{name} must be text, got {describe(value)}: pass a str")


def read_label_set(values: Collection[int], name: str) -> list[int]:
    """Labels as a list of int."""
    numbers = read_numbers(list(values) if isinstance(values, Set) else values, name, "a list of labels")
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise TypeError(f"{name} must be a list of labels, got {describe(values)}: pass whole numbers")
    if numbers.size and (numbers.min() < 0 or numbers.max() >= UNKNOWN):
        raise ValueError(
            f"{name} must hold labels from 0 to 254, got {describe(values)}: leave out labels of no class"
        )
    return numbers.tolist()
