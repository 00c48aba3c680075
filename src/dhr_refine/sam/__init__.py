"""Segments and prompts: masks brought to the edges that SAM finds, or superpixels.

``segments.py`` holds the segments of an image, from arrays, COCO's run lengths (``rle.py``) or files
(``reading.py``); ``vote.py`` lets them vote, ``voting.py`` as a boundary tool of ``refine_mask``.
``prompts.py`` makes prompts of masks and CAMs, ``models.py`` gives them to SAM and SAM 2 of transformers.
``masks.py`` reads what callers hold.
"""

from .models import refine_with_sam
from .prompts import SamPrompts, cam_peaks, sam_prompts
from .reading import SegmentIndex, read_segments
from .segments import Segments, as_segments
from .vote import sam_vote
from .voting import SegmentVoting, segment_voting

__all__ = [
    "SamPrompts",
    "SegmentIndex",
    "SegmentVoting",
    "Segments",
    "as_segments",
    "cam_peaks",
    "read_segments",
    "refine_with_sam",
    "sam_prompts",
    "sam_vote",
    "segment_voting",
]
