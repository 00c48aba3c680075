"""Quality of pseudo masks against ground truth: IoU, error rates, and which classes of an image vanished.

Everything but :func:`inter_class_share` is a function of three counts per image and class, and every figure
of a data set a ratio of sums of such counts over the images:

- ``masks.py`` reads masks of labels, tensors or arrays;
- ``counts.py`` counts found, predicted and true pixels (:func:`image_counts`);
- ``per_image.py`` says what became of each image and its tags (:func:`image_scores`);
- ``data_set.py`` sums over images (:class:`MaskScores`, :func:`scores_of`);
- ``resampling.py`` says how far these sums can be trusted (:func:`bootstrap`);
- ``slips.py`` notices binary ground truth in {0, 255};
- ``regions.py`` stands beside them and looks at the regions of one mask (:func:`inter_class_share`).
"""

from .counts import ImageCounts, image_counts
from .data_set import MaskScores, Scores, scores_of
from .per_image import ImageScores, image_scores
from .regions import RegionPairs, inter_class_share
from .resampling import bootstrap, standard_error

__all__ = [
    "ImageCounts",
    "ImageScores",
    "MaskScores",
    "RegionPairs",
    "Scores",
    "bootstrap",
    "image_counts",
    "image_scores",
    "inter_class_share",
    "scores_of",
    "standard_error",
]
