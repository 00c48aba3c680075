"""Figures."""

from .panels import (
    colour_mask,
    overlay_cam,
    overlay_mask,
    palette,
    show_extremes,
    show_similarity,
    show_steps,
    show_tau,
)

__all__ = [
    "colour_mask",
    "overlay_cam",
    "overlay_mask",
    "palette",
    "show_extremes",
    "show_similarity",
    "show_steps",
    "show_tau",
]
