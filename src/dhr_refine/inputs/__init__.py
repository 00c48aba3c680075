"""Reads what callers of refine_mask hold into uniform batches; every check of their input is here.

``options.py`` checks the options; ``request.py`` splits a call into groups of images of one size;
``batch.py`` brings a group to a batch, with the help of ``tags.py``, ``labels.py``, ``boxes.py`` and
``images.py``, one for each argument that comes in many forms.
"""

from .batch import Batch, read_batch
from .boxes import Box, BoxFormat
from .images import IMAGENET_MEAN, IMAGENET_STD, read_images
from .options import Boundary, Options, read_options
from .request import Request, read_groups
from .tags import Background

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Background",
    "Batch",
    "Boundary",
    "Box",
    "BoxFormat",
    "Options",
    "Request",
    "read_batch",
    "read_groups",
    "read_images",
    "read_options",
]
