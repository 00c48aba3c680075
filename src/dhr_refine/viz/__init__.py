"""Figures of masks, CAMs and the steps of the refinement, for papers, notebooks and logs.

The functions ``show_*`` return a matplotlib Figure (``pip install matplotlib``) that shows itself at
the end of a notebook cell; ``figure.savefig("steps.png")`` saves it. pyplot and its state are not used. The
others return arrays of pixels, for any image writer or logger.

How the files work together: ``palettes.py`` above gives labels their colours, ``overlays.py`` lays these
over the photo. ``steps.py`` and ``extremes.py`` make rows of such pictures, which ``tiles.py`` draws;
``idle.py`` says which steps did nothing, ``marks.py`` writes names beside regions. ``similarity.py`` draws a
matrix and ``curves.py`` curves. ``reading.py`` checks what any of them is given.
``canvas.py`` imports matplotlib when it is asked for the first figure, one of the class in ``figure.py``.
"""

from ..palettes import palette
from .curves import show_tau
from .extremes import show_extremes
from .overlays import colour_mask, overlay_cam, overlay_mask
from .similarity import show_similarity
from .steps import show_steps

__all__ = [  # noqa: RUF022 (the order in which the API page lists them)
    "palette",
    "colour_mask",
    "overlay_mask",
    "overlay_cam",
    "show_steps",
    "show_similarity",
    "show_extremes",
    "show_tau",
]
