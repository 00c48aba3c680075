"""Reads what callers of refine_mask hold (tags, boxes, images, masks in many forms) into uniform batches."""

from .batch import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Background,
    Batch,
    Box,
    BoxFormat,
    Request,
    read_batch,
    read_groups,
    read_images,
)

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Background",
    "Batch",
    "Box",
    "BoxFormat",
    "Request",
    "read_batch",
    "read_groups",
    "read_images",
]
