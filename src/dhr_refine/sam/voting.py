"""The boundary tool of refine_mask that votes by segments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checks import check_tensor, describe
from ..edges import Boundary, Edges, Place, PlacedTool, check_boundary, needs_images
from .segments import Segments, SegmentsLike, check_each
from .vote import load_segments, vote_scores


@dataclass(frozen=True, eq=False)
class SegmentVoting:
    """Votes of segments as a boundary tool, see :func:`segment_voting`."""

    segments: Any = field(repr=False)
    """The segments of each image of the call."""
    tool: Boundary = "crf"
    """What goes before the votes."""

    @property
    def needs_images(self) -> bool:
        """Whether the tool before the votes cannot do without images."""
        return needs_images(self.tool)

    def at(self, places: Sequence[Place]) -> Callable[[Tensor | None, Tensor], Tensor]:
        """Cut the segments for crops of one size, as :func:`refine_mask` asks for them.

        Parameters
        ----------
        places : sequence of Place
            The image, its size (H, W) and the box of each crop.

        Returns
        -------
        callable
            ``(images, probs) -> probs`` for these crops.

        Raises
        ------
        ValueError, TypeError
            Segments are missing, are none or of another size.
        """
        own = []
        for place in places:
            if place.image >= len(self.segments):
                raise ValueError(
                    f"boundary has the segments of {len(self.segments)} images but there is an image "
                    f"[{place.image}]: give segment_voting an entry for every image"
                )
            name = f"segments[{place.image}]"
            own.append(load_segments(self.segments[place.image], name, place.size).cut(place.box))
        return _Voter(own, self.tool)

    def __call__(self, images: Tensor | None, probs: Tensor) -> Tensor:
        """Refine whole images: the first of these have the first segments."""
        check_tensor(probs, "probs", "(B, K, H, W)", ndim=4, floating=True)
        size = (probs.shape[2], probs.shape[3])
        places = [Place(row, size, (0, 0, size[1], size[0])) for row in range(len(probs))]
        return self.at(places)(images, probs)


def segment_voting(
    segments: Sequence[SegmentsLike | str | Path] | Tensor, *, tool: Boundary = "crf"
) -> SegmentVoting:
    """Make a boundary tool for :func:`refine_mask` that lets segments vote, after another boundary tool.

    Parameters
    ----------
    segments : list with an entry for each image
        The segments of each image of the call, in the order of its batch or lists and at the size of the
        masks (H, W), in all forms that :func:`sam_vote` takes: also paths, which are read when the turn of
        their image comes. For a single image a list of one.
    tool : {"crf", "pamr", "par"}, None or callable
        Boundary tool that works on the scores before the votes, as ``boundary`` of :func:`refine_mask`.

    Returns
    -------
    SegmentVoting
        A callable to pass as ``boundary`` of :func:`refine_mask` and :func:`refine_steps` and as ``refine``
        of :func:`base_mask`. Boxes cut the segments as they cut the images. The votes are those of rule
        "scores" of :func:`sam_vote`.

    Raises
    ------
    ValueError, TypeError
        The list or the tool is none; later, when it is used, segments that are none or of another size.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine import refine_mask
    >>> from dhr_refine.sam import segment_voting
    >>> generator = torch.Generator().manual_seed(0)
    >>> features = torch.rand(8, 4, 4, generator=generator)
    >>> cams = torch.rand(2, 4, 4, generator=generator)
    >>> mask = torch.zeros(16, 16, dtype=torch.long)
    >>> mask[:, 8:] = 2
    >>> segments = torch.arange(1, 5).repeat_interleave(4).expand(16, 16)
    >>> voting = segment_voting([segments], tool=None)
    >>> refine_mask(cams, mask, features, features, labels=[1], boundary=voting).shape
    torch.Size([16, 16])
    """
    if isinstance(segments, Segments) or not hasattr(segments, "__len__"):
        raise TypeError(
            f"segments must be a list with the segments of each image, got {describe(segments)}: put "
            "those of a single image into a list"
        )
    check_each(segments, len(segments))
    check_boundary(tool, "tool")
    if isinstance(tool, PlacedTool):
        raise TypeError("tool must be a boundary tool other than segment_voting, got one: vote once")
    return SegmentVoting(segments, tool)


class _Voter:
    """Votes for crops of one size; the tool before them keeps what it has built for the images."""

    def __init__(self, segments: list[Segments], tool: Boundary):
        """Take the segments of each crop."""
        self.segments = segments
        self.tool: Boundary = tool
        self.edges: Edges | None = None

    def __call__(self, images: Tensor | None, probs: Tensor) -> Tensor:
        """Refine (b, k, h, w)."""
        if self.edges is None:
            self.edges = Edges(self.tool, images, "tool")
        probs = self.edges(probs)
        size = (probs.shape[2], probs.shape[3])  # smaller than the crop where the caller works at a scale
        voted = [
            vote_scores(own, segments.to(own.device).resize(size))
            for own, segments in zip(probs, self.segments)
        ]
        voted = torch.stack(voted)
        return (voted / voted.sum(dim=1, keepdim=True).clamp_min(1e-12)).to(probs)
