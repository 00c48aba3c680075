"""Argument checks of the public functions: each error names the argument, what came and the fix.

``arguments.py`` checks one argument at a time, ``numbers.py`` reads whatever holds numbers,
``image_probs.py`` has what the boundary tools share: images and the probabilities of their pixels.
"""

from .arguments import (
    check_choice,
    check_count,
    check_data,
    check_filled,
    check_finite,
    check_ignore_index,
    check_levels,
    check_magnitude,
    check_plain,
    check_positive,
    check_range,
    check_same,
    check_tensor,
    describe,
    exact_labels,
    find_extent,
    float32_norm,
    raise_magnitude,
    read_ints,
    show,
    show_shapes,
    way_to_finite,
    way_to_tensor,
)
from .image_probs import ImageProbs, check_image_shape, check_iterations, check_pair
from .numbers import read_numbers

__all__ = [
    "ImageProbs",
    "check_choice",
    "check_count",
    "check_data",
    "check_filled",
    "check_finite",
    "check_ignore_index",
    "check_image_shape",
    "check_iterations",
    "check_levels",
    "check_magnitude",
    "check_pair",
    "check_plain",
    "check_positive",
    "check_range",
    "check_same",
    "check_tensor",
    "describe",
    "exact_labels",
    "find_extent",
    "float32_norm",
    "raise_magnitude",
    "read_ints",
    "read_numbers",
    "show",
    "show_shapes",
    "way_to_finite",
    "way_to_tensor",
]
