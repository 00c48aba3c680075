"""Linear discriminant analysis of feature tokens: what statistics of a data set say about those of an image.

A memory of the classes (``memory/``) solves its statistics into a :class:`ClassDiscriminant`; the USS step
asks a :func:`recall` of it which tokens of an image are like the class whose average they enter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from .maps import LEAST_NORM

# Scores of the discriminant are divided by this before the softmax: tokens of one object agree with each
# other, so that the evidence of each counts for less than that of an independent one.
_TEMPERATURE = 2.0
# The same where whole maps are weighed, whose tokens lie in many objects.
_MAP_TEMPERATURE = 10.0
# What a class keeps of its similarity where the discriminant excludes it.
_LEAST_AGREEMENT = 0.05
# Share of a class's own average, against that of the memory, in the mean that its maps are weighed by.
_OWN_SHARE = 0.5
# What a token keeps of its weight in a class average, whatever the posterior: where it excludes all tokens of
# a class, their average stays as it was.
_LEAST_POSTERIOR = 1e-8
# Channels that deviate by less than this share of their mean are constant but for rounding.
_LEAST_DEVIATION = 1e-4


@dataclass(frozen=True, eq=False)
class ClassDiscriminant:
    """What a :class:`ClassMemory` knows, solved: the class means and the covariance within the classes.

    The result of :meth:`ClassMemory.solve`; ``refine_mask(memory=...)`` takes it as it takes the memory. A
    training loop solves its memory once in a while and passes the result in between.
    """

    means: Tensor
    """Tensor (C, D) float32, mean token of each class; zeros for one that takes no part."""
    precision: Tensor
    """Tensor (D, D) float32, inverse of the shrunk covariance within the classes."""
    directions: Tensor
    """Tensor (C, D) float32, ``means @ precision``: a token's score is its product with these."""
    offsets: Tensor
    """Tensor (C,) float32, what is subtracted from the score, ``directions * means`` summed and halved."""
    known: Tensor
    """Tensor (C,) bool, classes of enough images to take part."""
    background: Literal["first", "last", "none"]
    """Where the background's label is, as in :func:`refine_mask`."""

    def __post_init__(self) -> None:
        """Copies on other devices, by device: the step asks for the same one again and again."""
        object.__setattr__(self, "_moved", {})

    def __getstate__(self) -> dict[str, Any]:
        """Without the copies: who reads a pickle may lack their devices."""
        return vars(self) | {"_moved": {}}

    @property
    def num_classes(self) -> int:
        """Number of mask labels, the background included."""
        return self.means.shape[0]

    @property
    def dim(self) -> int:
        """Channels of the features."""
        return self.means.shape[1]

    def __repr__(self) -> str:
        """Say what it knows, not the numbers."""
        return (
            f"ClassDiscriminant({int(self.known.sum())} of {self.num_classes} classes known, dim {self.dim}, "
            f"background {self.background!r})"
        )

    def to(self, device: torch.device | str) -> ClassDiscriminant:
        """The same on a device; kept, so that asking again costs nothing.

        Parameters
        ----------
        device : device
            Where to.
        """
        device, moved = torch.device(device), vars(self)["_moved"]
        if self.means.device == device:
            return self
        if device not in moved:
            moved[device] = ClassDiscriminant(
                means=self.means.to(device),
                precision=self.precision.to(device),
                directions=self.directions.to(device),
                offsets=self.offsets.to(device),
                known=self.known.to(device),
                background=self.background,
            )
        return moved[device]


class Recall(NamedTuple):
    """A discriminant asked about the tokens of some images and the classes of each."""

    discriminant: ClassDiscriminant
    tokens: Tensor  # (B, D, N) float32
    classes: Tensor  # (B, K) int64
    known: Tensor  # (B, K) bool, classes that the discriminant knows

    def posterior(self, among: Tensor | None = None) -> Tensor:
        """(B, K, N) probability of each class given the token, among the known classes of ``among`` (B, K).

        1 for the other classes, of which nothing is known.
        """
        asked = self.known if among is None else self.known & among
        scores = self.discriminant.directions[self.classes] @ self.tokens
        scores = (scores - self.discriminant.offsets[self.classes][..., None]) / _TEMPERATURE
        return torch.where(asked[..., None], _softmax(scores, asked), 1.0)

    def clean(
        self, weights: Tensor, present: Tensor, everywhere: Tensor, share: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Weights (B, K, N) of class averages times the posterior; the posterior; what it left (B, K).

        ``present`` (B, K) marks the classes that have weights, of sum 1. Of those known, ``everywhere``
        (B or 1, N) of sum 1 takes part at the weight ``share``: what a class has outside its mask. An image
        of which fewer than two are known keeps its weights.
        """
        posterior = self.posterior(present)
        # By the sum of the weights, which is 1 but for rounding: exactly 1 where nothing is known.
        left = (weights * posterior).sum(-1) / weights.sum(-1).clamp_min(1e-12)
        spread = share * (self.known & present).to(weights.dtype)[..., None] * everywhere[:, None]
        cleaned = (weights + spread) * posterior.clamp_min(_LEAST_POSTERIOR)
        cleaned = cleaned / cleaned.sum(-1, keepdim=True).clamp_min(1e-12)
        return torch.where(self.enough(present), cleaned, weights), posterior, left

    def agreement(self, weights: Tensor, present: Tensor) -> Tensor:
        """(B, K, N) factor in (0, 1.05] by which tokens resemble each class rather than the others.

        Each class is spoken for by the mean of its own average, of weights (B, K, N), and the memory's. 1
        where fewer than two of an image's classes are known.
        """
        own = weights @ self.tokens.mT
        mixed = own + (1.0 - _OWN_SHARE) * (self.discriminant.means[self.classes] - own)
        means = torch.where(self.known[..., None], mixed, own)
        directions = means @ self.discriminant.precision
        scores = directions @ self.tokens - 0.5 * (directions * means).sum(-1, keepdim=True)
        share = _softmax(scores / _MAP_TEMPERATURE, present)
        return torch.where(self.enough(present), share + _LEAST_AGREEMENT, 1.0)

    def enough(self, present: Tensor) -> Tensor:
        """(B, 1, 1) bool, whether two classes that are present are known."""
        return ((self.known & present).sum(-1) >= 2)[:, None, None]


def recall(discriminant: ClassDiscriminant, tokens: Tensor, classes: Tensor) -> Recall:
    """Ask about tokens (B, D, N) of :func:`standardise` and classes (B, K), mask labels or -1 for none."""
    known = (classes >= 0) & discriminant.known[classes.clamp_min(0)]
    return Recall(discriminant, tokens, classes.clamp_min(0), known)


def _softmax(scores: Tensor, among: Tensor) -> Tensor:
    """Softmax over the classes of ``among`` (B, K) of scores (B, K, N); zero for the others."""
    scores = scores.masked_fill(~among[..., None], -torch.inf)
    # Rows without any class would be NaN.
    return torch.where(among[..., None], torch.softmax(scores, dim=1), 0.0)


def standardise(features: Tensor) -> Tensor:
    """(B, D, N) float32 tokens of checked features (B, D, h, w), each of mean 0 and variance 1.

    Networks end in a layer norm or not, and scale their features as they like: the memory sees none of it.
    A token whose channels are all equal becomes zero.
    """
    tokens = features.flatten(2).float()
    mean = tokens.mean(dim=1, keepdim=True)
    tokens = tokens - mean
    deviation = (tokens * tokens).mean(dim=1, keepdim=True).sqrt()
    least = (_LEAST_DEVIATION * mean.abs()).clamp_min(LEAST_NORM)
    return tokens * torch.where(deviation > least, 1.0 / deviation.clamp_min(least), 0.0)
