"""Reads what callers of refine_mask hold into uniform batches; every check of their input is here.

``options.py`` checks the options; ``request.py`` checks shapes and splits a call into groups of images of one
size; ``batch.py`` checks values and brings a group to a batch, with the help of ``tags.py``, ``labels.py``,
``boxes.py`` and ``images.py``, one for each argument that comes in many forms. ``names.py`` knows what the
caller calls an argument, for the errors; ``slips.py`` warns about what is allowed but hardly meant.
``examples.py`` reads what a class memory is shown, which has no CAMs, ``cam_calls.py`` what base masks are
made of.
"""

from .batch import Batch, read_batch
from .boxes import Box, BoxFormat, GivenBoxes
from .cam_calls import CamCall, CamForm, CamGroup, read_cam_groups
from .examples import Examples, Form, read_examples
from .images import IMAGENET_MEAN, IMAGENET_STD, read_images
from .labels import pad
from .names import Names as ArgumentNames
from .options import Options, read_options
from .request import Request, read_groups
from .slips import Evidence, warn_about_slips
from .tags import Background, Labels

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "ArgumentNames",
    "Background",
    "Batch",
    "Box",
    "BoxFormat",
    "CamCall",
    "CamForm",
    "CamGroup",
    "Evidence",
    "Examples",
    "Form",
    "GivenBoxes",
    "Labels",
    "Options",
    "Request",
    "pad",
    "read_batch",
    "read_cam_groups",
    "read_examples",
    "read_groups",
    "read_images",
    "read_options",
    "warn_about_slips",
]
