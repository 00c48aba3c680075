"""Whole folders: from files of images, CAMs and features to files of masks, and to figures about them.

``masks.py`` refines a folder (``plans.py`` reads its arguments), ``boundaries.py`` its edges alone,
``features.py`` saves features of images, ``check.py`` says what would go wrong; ``options.py`` says which
images, and by how many processes. Below them: ``sources.py`` reads the files of an image and ``dialect.py``
finds out how CAM files count; ``base.py``, ``refine.py`` and ``learn.py`` are the work on an image;
``outputs.py`` writes its files. ``worker.py`` does that work on some images, ``pool.py`` calls it in several
processes and ``on_ray.py`` on a cluster; ``job.py`` is a whole run, with its ``record.py``, ``progress.py``
and ``report.py``.

``evaluate.py`` compares masks with ground truth, ``scores.py`` says what came of it; ``show.py`` writes a
page to look at, of images that ``ranking.py`` picks: ``cards.py`` is what it says of each, ``page.py`` the
page around them. ``selection.py`` and ``tables.py`` serve both.
"""

from .boundaries import crf_folder
from .check import CheckReport, check_folder
from .evaluate import evaluate_folder
from .features import features_folder
from .masks import refine_folder
from .options import RunOptions
from .outcomes import Outcome
from .report import FolderReport
from .scores import Change, FolderScores
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
