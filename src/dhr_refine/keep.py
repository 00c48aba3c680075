"""What a class had is not wiped out: pixels that the boundary tool took, and at least one of its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from .crops import Crops
from .inputs import Batch
from .pooling import count_labels


def keep_pixels(labels: Tensor, before: Tensor, share: float, count: int) -> Tensor:
    """Give a class that shrank below a share of its pixels all of them back, local to these pixels.

    Parameters
    ----------
    labels : (b, h, w) int64, classes ``0 .. count - 1`` after the boundary tool
    before : (b, h, w) int64, the same before it, or ``count`` where nothing scored
    share : in [0, 1]; the classes of fewer than ``share`` times their pixels before shrank

    Returns
    -------
    (b, h, w) int64
    """
    old, new = (count_labels(one.flatten(1), count + 1)[:, :count] for one in (before, labels))
    shrunk = new < share * old
    # Elsewhere than on a CPU the question would wait for the device.
    if labels.device.type == "cpu" and not bool(shrunk.any()):
        return labels
    shrunk = F.pad(shrunk, (0, 1), value=False)
    return torch.where(shrunk.gather(1, before.flatten(1)).view_as(before), before, labels)


def keep_present(
    labels: Tensor, scores: Tensor, present: Tensor, crop: Crops, batch: Batch, known: Tensor | None
) -> Tensor:
    """Local classes (b, h, w) of a crop, in which every class of the base mask and of M_init has a pixel.

    What speaks for a class are its scores (b, k, h, w) before the boundary tool, or where the seed has taken
    all of its pixels in the base mask, these. ``present`` (B, K) are the classes of M_init. Where only the
    ``known`` pixels (b, h, w) of the base mask have labels, only its classes are sure to have one.
    """
    shown = crop.take(present)[:, : crop.classes]
    entitled = crop.take(batch.base_pixels)[:, : crop.classes] > 0
    if known is None:
        entitled = entitled | shown

    def claim(k: int) -> Tensor:
        covered = crop.cut(crop.take(batch.labels)) == k
        return torch.where(shown[:, k, None, None], scores[:, k], covered.to(scores.dtype))

    return give_back(labels, claim, entitled, absent=batch.absent, allowed=known)


def give_back(
    labels: Tensor,
    claim: Callable[[int], Tensor],
    entitled: Tensor,
    *,
    absent: int,
    allowed: Tensor | None = None,
) -> Tensor:
    """Give every entitled class without a pixel the one where its claim is highest.

    The last pixel of an entitled class is never taken, so that nothing is lost in turn; of equal claims the
    first pixel counts, and classes are served in their order. A class whose claims are all zero gets nothing,
    nor does the one for which no pixel is left (more classes than pixels).

    Parameters
    ----------
    labels : (b, h, w) int64, classes ``0 .. k - 1``, or ``absent`` where there is none
    claim : claims (b, h, w) of a class, floating point, at least 0
    entitled : (b, k) bool
    absent : at least k
    allowed : (b, h, w) bool, pixels that may be given; default: all

    Returns
    -------
    (b, h, w) int64, ``labels`` itself where nothing is missing
    """
    count = entitled.shape[1]
    flat = labels.flatten(1)
    left = count_labels(flat, absent + 1)
    missing = entitled & (left[:, :count] == 0)
    # Elsewhere than on a CPU the question would wait for the device.
    if labels.device.type == "cpu" and not bool(missing.any()):
        return labels
    left[:, :count] += 2 * ~entitled  # what nobody is entitled to can all be taken
    left[:, count:] += 2
    slots = torch.arange(absent + 1, device=labels.device)
    for k in range(count):
        free = left.gather(1, flat) > 1
        if allowed is not None:
            free = free & allowed.flatten(1)
        best, place = torch.where(free, claim(k).flatten(1), 0.0).max(dim=1, keepdim=True)
        given = missing[:, k : k + 1] & (best > 0)
        before = flat.gather(1, place)
        flat = flat.scatter(1, place, torch.where(given, k, before))
        change = given.to(left.dtype)
        left = left + change * ((slots == k).to(left.dtype) - (slots == before).to(left.dtype))
    return flat.view_as(labels)
