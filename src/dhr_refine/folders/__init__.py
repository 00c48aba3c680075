"""Whole folders: from files of images, CAMs and features to files of masks, and to figures about them.

``masks.py`` refines a folder (``plans.py`` reads its arguments), ``boundaries.py`` its edges alone,
``features.py`` saves features of images, ``check.py`` says what would go wrong, ``evaluate.py`` scores masks
and ``show.py`` writes a page to look at. What is done with an image is in ``work/``, how it is carried out
for all images in ``runs/``, what is said of masks in ``review/``; ``settings.py`` holds what all that write
masks share.
"""

from .boundaries import crf_folder
from .check import CheckReport, check_folder
from .evaluate import evaluate_folder
from .features import features_folder
from .masks import refine_folder
from .review.scores import Change, FolderScores
from .runs.options import RunOptions
from .runs.outcomes import Outcome
from .runs.report import FolderReport
from .show import ShownFolder, show_folder

__all__ = [
    "Change",
    "CheckReport",
    "FolderReport",
    "FolderScores",
    "Outcome",
    "RunOptions",
    "ShownFolder",
    "check_folder",
    "crf_folder",
    "evaluate_folder",
    "features_folder",
    "refine_folder",
    "show_folder",
]
