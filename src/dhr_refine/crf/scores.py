"""Whether scores still say something once they are clipped, which is the first thing that happens to them."""

from __future__ import annotations

from ..checks import ImageProbs, describe
from .unary import SMALLEST

# Above 1 by no more than this, scores are probabilities that bicubic interpolation overshot, at most by 0.23.
_OVERSHOOT = 0.25


def check_scores(pair: ImageProbs) -> None:
    """Raise where clipping to [1e-5, 1], or a single class, would leave nothing of what scores say.

    Looks at the scores a second time, and waits for the device, only if one of them lies above 1 or there is
    one class.
    """
    probs, axis, highest = pair.probs, pair.axis, pair.highest
    one = probs.shape[1] == 1
    if highest > 1 + _OVERSHOOT and (one or bool(((probs > 1 + _OVERSHOOT).sum(dim=1) > 1).any())):
        raise ValueError(_explain_large(highest, axis, one))
    if 0 < highest <= SMALLEST:
        raise ValueError(
            f"probs has no score above {SMALLEST:g}, the largest is {highest:.3g}, and clipping makes equal "
            f"what lies below: divide by probs.sum(dim={axis}, keepdim=True)"
        )
    # What a softmax makes of one class is 1 everywhere, and so is the result.
    if one and bool((probs < 1 - 1e-3).any()):
        raise ValueError(
            f"probs has one channel, got {describe(probs if pair.batched else probs[0])}, but a CRF weighs "
            "classes against each other: for a map of the foreground pass "
            f"torch.cat([1 - probs, probs], dim={axis}) and take the second channel of the result"
        )


def _explain_large(highest: float, axis: int, one: bool) -> str:
    which, fix = "scores", "probs.sigmoid() for logits"
    if not one:
        which = "several scores of a pixel"
        fix = (
            f"probs.softmax(dim={axis}) for logits, probs / probs.sum(dim={axis}, keepdim=True) for weights "
            "(pydensecrf takes probs.clamp(max=1))"
        )
    return (
        f"probs must lie in [0, 1], got {which} above it, up to {highest:.3g}, which clipping would make "
        f"equal: pass probs / 100 for percentages, probs / 255 for grey levels, {fix}"
    )
