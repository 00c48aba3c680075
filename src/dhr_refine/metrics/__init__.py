"""Scores of masks against ground truth."""

from .scores import (
    ImageCounts,
    ImageScores,
    MaskScores,
    RegionPairs,
    Scores,
    image_counts,
    image_scores,
    inter_class_share,
    scores_of,
)

__all__ = [
    "ImageCounts",
    "ImageScores",
    "MaskScores",
    "RegionPairs",
    "Scores",
    "image_counts",
    "image_scores",
    "inter_class_share",
    "scores_of",
]
