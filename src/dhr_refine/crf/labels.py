"""Probabilities from label maps, for a CRF on masks that are already decided."""

from __future__ import annotations

from numbers import Integral, Real

import torch
from torch import Tensor

from ..checks import check_data, check_ignore_index, check_tensor, describe, exact_labels, show
from ..compiled import eager, ordinary


@eager
@ordinary
def probs_from_labels(
    labels: Tensor, *, num_classes: int, gt_prob: float = 0.7, ignore_index: int = 255
) -> Tensor:
    """Turn a label map into probabilities: ``gt_prob`` for the label, the rest shared out equally.

    ``dense_crf(images, probs_from_labels(labels, num_classes=n))`` is pydensecrf with
    ``unary_from_labels(labels, n, gt_prob, zero_unsure=False)``, the CRF on labels of IRN and AdvCAM.

    Parameters
    ----------
    labels : Tensor of shape (B, H, W) or (H, W), integer
        Class of each pixel, below ``num_classes``, or ``ignore_index``.
    num_classes : int
        Number of classes, at least 2.
    gt_prob : float, default 0.7
        Trust in the labels, between 0 and 1 (IRN's value).
    ignore_index : int, default 255
        Label of pixels that could be anything: all classes get the same probability.

    Returns
    -------
    Tensor of shape (B, K, H, W) or (K, H, W), float32
        Probabilities, on the device of ``labels``.

    Raises
    ------
    TypeError
        If ``labels`` is not an integer tensor.
    ValueError
        If a label or an option is out of range.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine import probs_from_labels
    >>> probs_from_labels(torch.tensor([[0, 1, 255]]), num_classes=3)[:, 0]
    tensor([[0.7000, 0.1500, 0.3333],
            [0.1500, 0.7000, 0.3333],
            [0.1500, 0.1500, 0.3333]])
    """
    check_tensor(labels, "labels", "(B, H, W) or (H, W)", ndim=(2, 3))
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must hold integers, got {describe(labels)}: call .long() on it")
    check_data(labels, "labels")
    if isinstance(num_classes, bool) or not isinstance(num_classes, Integral) or num_classes < 2:
        raise ValueError(
            f"num_classes must be an int of at least 2, got {show(num_classes)}: count background"
        )
    if not (isinstance(gt_prob, Real) and 0 < gt_prob < 1):
        raise ValueError(f"gt_prob must lie between 0 and 1, got {show(gt_prob)}: pass e.g. 0.7")
    check_ignore_index(ignore_index)
    labels, num_classes, gt_prob = exact_labels(labels), int(num_classes), float(gt_prob)
    classes = torch.arange(num_classes, device=labels.device)[:, None, None]
    ignored = labels == ignore_index
    wrong = ~ignored & ((labels < 0) | (labels >= num_classes))
    if bool(wrong.any()):
        raise ValueError(
            f"labels must be below num_classes={num_classes} or {ignore_index}, got {int(labels[wrong][0])}: "
            "raise num_classes, or set ignore_index"
        )
    rest = (1 - gt_prob) / (num_classes - 1)
    right = (labels.unsqueeze(-3) == classes).float()  # numbers alone would take the process's default type
    probs = torch.where(right > 0, right * gt_prob, rest)
    return torch.where(ignored.unsqueeze(-3), 1 / num_classes, probs)
