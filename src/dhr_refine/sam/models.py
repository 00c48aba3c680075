"""Masks refined by SAM and SAM 2 of transformers, in rounds of prompts, as SAMRefiner does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import Unpack

from ..checks import (
    check_count,
    check_positive,
    check_same,
    check_tensor,
)
from ..compiled import eager
from ..inputs import IMAGENET_MEAN, IMAGENET_STD, Background, BoxFormat, read_images
from ..inputs import ArgumentNames as Names
from ..inputs.names import check_entries
from ..keywords import SamKeywords
from ..steps import RefineSteps
from .masks import Form, Masked, gather, is_single, read_masks
from .prompts import find_regions, make_prompts
from .vote import give_classes_back


class Seen(NamedTuple):
    """An image as the model sees it."""

    embeddings: Any  # (1, D, h, w), or a list of levels
    square: tuple[int, int]  # height and width of the model's input
    content: tuple[int, int]  # of these what shows the image, from the upper left corner
    size: tuple[int, int]  # of the image


@overload
def refine_with_sam(
    model: object,
    processor: object,
    images: Tensor,
    masks: RefineSteps | Tensor,
    **options: Unpack[SamKeywords],
) -> Tensor: ...
@overload
def refine_with_sam(
    model: object,
    processor: object,
    images: Tensor | Sequence[Tensor],
    masks: RefineSteps[list[Tensor]] | Sequence[Tensor],
    **options: Unpack[SamKeywords],
) -> list[Tensor]: ...
@eager
@torch.no_grad()
def refine_with_sam(
    model: Any,
    processor: Any,
    images: Any,
    masks: Any,
    *,
    labels: Any = None,
    boxes: Any = None,
    box_format: BoxFormat | None = None,
    background: Background = "first",
    ignore_index: int = 255,
    mean: Sequence[float] | None = IMAGENET_MEAN,
    std: Sequence[float] | None = IMAGENET_STD,
    rounds: int = 5,
    min_pixels: int = 1,
    prompts_at_once: int = 16,
    gamma: float = 4.0,
    strength: float = 30.0,
) -> Any:
    """Refine masks by SAM or SAM 2: prompts of every region, the best of three masks, several rounds.

    Parameters
    ----------
    model : SamModel or Sam2Model of transformers
        With its weights, on the device where it is to run.
    processor : SamProcessor or Sam2Processor of transformers
        Of the same model.
    images : Tensor, (B, 3, H, W)
        As in :func:`refine_mask`: uint8, in [0, 1], or normalised with ``mean`` and ``std``. (3, H, W) for
        one mask, a list for a list.
    masks : Tensor, (B, H, W), (H, W), or list of (H, W)
        Labels, integer or floating point, or the result of :func:`refine_steps`.
    labels, boxes, box_format, background, ignore_index : optional
        As in :func:`sam_vote`: only regions of the tags get prompts, and only pixels inside the boxes that
        have a label can change it.
    mean, std : three floats each, or None
        Normalisation of floating point images, as in :func:`refine_mask`.
    rounds : int, default 5
        How often a region is refined: each round makes prompts of the mask of the last.
    min_pixels : int, default 1
        Regions of fewer pixels stay as they are.
    prompts_at_once : int, default 16
        Regions that the model works on together, which its memory grows with.
    gamma, strength : float
        Of the mask prompt, as in :func:`sam_prompts`.

    Returns
    -------
    LongTensor (B, H, W), (H, W) or a list, as ``masks`` came
        A pixel gets the class of the best mask on it by the model's own estimate of the IoU, the background
        where there is none (in data sets without a background: what it had). A class that the mask had keeps
        a pixel at least, of those that it had.

    Raises
    ------
    ValueError, TypeError
        Anything above violated, or the model is of another kind; the message names the argument, what came
        and the fix.

    Notes
    -----
    The image goes through the encoder once. The original refines one binary mask at a time and takes the mask
    of the highest estimate in every round, as here; how masks of several regions come together is ours.

    References
    ----------
    Y. Lin et al., "SAMRefiner: Taming Segment Anything Model for Universal Mask Refinement", ICLR 2025.

    Examples
    --------
    >>> from transformers import SamModel, SamProcessor  # doctest: +SKIP
    >>> model = SamModel.from_pretrained("facebook/sam-vit-base")  # doctest: +SKIP
    >>> processor = SamProcessor.from_pretrained("facebook/sam-vit-base")  # doctest: +SKIP
    >>> refine_with_sam(model, processor, image, mask, labels=[14])  # doctest: +SKIP
    """
    for name, value in (("rounds", rounds), ("min_pixels", min_pixels), ("prompts_at_once", prompts_at_once)):
        check_count(value, name, 1)
    check_positive(gamma, "gamma")
    check_positive(strength, "strength")
    _check_model(model, processor)
    pictures = _split_images(images, masks)
    form = Form(background, ignore_index, box_format)
    results = []
    for number, image in enumerate(read_masks(masks, labels=labels, boxes=boxes, form=form)):
        numbers, regions = find_regions(image, min_pixels)
        if not numbers:
            results.append(image.labelled(image.local))
            continue
        picture = _read_picture(pictures[number], image, mean, std)
        seen = _see(model, processor, picture)
        found, scores = [], []
        for start in range(0, len(regions), prompts_at_once):
            masks_of, scores_of = _refine_regions(
                model, seen, regions[start : start + prompts_at_once], rounds, gamma, strength
            )
            found.append(masks_of)
            scores.append(scores_of)
        results.append(image.labelled(_merge(image, numbers, regions, torch.cat(found), torch.cat(scores))))
    return gather(masks, results)


def _check_model(model: Any, processor: Any) -> None:
    """Raise unless a model and its processor have what is used of them."""
    if not all(hasattr(model, name) for name in ("get_image_embeddings", "prompt_encoder", "mask_decoder")):
        raise TypeError(
            f"model must be a SamModel or Sam2Model of transformers, got {type(model).__name__}: load one "
            "with from_pretrained"
        )
    if not callable(processor) or not hasattr(processor, "post_process_masks"):
        raise TypeError(
            f"processor must be the model's SamProcessor or Sam2Processor, got {type(processor).__name__}: "
            "load it with from_pretrained"
        )


def _split_images(images: Any, masks: Any) -> list[Any]:
    """The images of a call, one for each mask."""
    if is_single(masks):
        return [images]
    count = len(masks.classes if isinstance(masks, RefineSteps) else masks)
    check_entries("images", images, count)
    if images is None:
        raise ValueError("images must be given: SAM looks at them")
    return [*images]


def _read_picture(
    picture: Any, image: Masked, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Tensor:
    """(3, H, W) uint8."""
    name = image.names.entry("images", 0)
    picture = check_tensor(picture, name, "(3, H, W)", ndim=3)
    check_same(picture, name, image.mask, image.names.entry("masks", 0), batched=False)
    return read_images(picture[None], image.mask.shape, mean, std, Names("single", [0]))[0][0]


def _see(model: Any, processor: Any, picture: Tensor) -> Seen:
    """Send an image through the encoder."""
    inputs = processor(images=picture.cpu(), return_tensors="pt")
    pixels = inputs["pixel_values"]
    square = (pixels.shape[-2], pixels.shape[-1])
    # SAM's processor pads the image at the right or below, that of SAM 2 stretches it.
    content = inputs.get("reshaped_input_sizes")
    content = square if content is None else tuple(int(side) for side in content[0])
    parameter = next(model.parameters())
    embeddings = model.get_image_embeddings(pixels.to(parameter.device, parameter.dtype))
    return Seen(embeddings, square, content, (picture.shape[1], picture.shape[2]))  # pyright: ignore


def _refine_regions(
    model: Any, seen: Seen, regions: Tensor, rounds: int, gamma: float, strength: float
) -> tuple[Tensor, Tensor]:
    """Masks (n, H, W) bool of regions after some rounds, and the model's estimates of their IoU (n,)."""
    parameter = next(model.parameters())
    stretch = seen.content == seen.square and seen.size[0] != seen.size[1]
    # Four pixels of a mask prompt for every cell of the encoder.
    last = seen.embeddings[-1] if isinstance(seen.embeddings, (list, tuple)) else seen.embeddings
    side = 4 * last.shape[-1]
    count = len(regions)
    embeddings = _repeat(seen.embeddings, count)
    scale = torch.tensor(
        [seen.content[1] / seen.size[1], seen.content[0] / seen.size[0]], device=parameter.device
    )
    scores = torch.zeros(count)
    for _ in range(rounds):
        made = make_prompts(regions, gamma=gamma, strength=strength, mask_size=side, stretch=stretch)
        points, point_labels, boxes, prompts = (part.to(parameter.device) for part in made)
        output = model(
            image_embeddings=embeddings,
            input_points=(points * scale)[:, None].to(parameter.dtype),
            input_labels=point_labels[:, None],
            input_boxes=(boxes * scale.repeat(2))[:, None].to(parameter.dtype),
            input_masks=prompts.to(parameter.dtype),
            multimask_output=True,
        )
        estimates = output.iou_scores.float().flatten(1)  # (n, 3)
        best = estimates.argmax(dim=1)
        rows = torch.arange(count, device=best.device)
        low = output.pred_masks.float().flatten(1, 2)[rows, best]
        regions = (_enlarge(low[:, None], seen)[:, 0] > 0).to(regions.device)
        scores = estimates[rows, best].cpu()
    return regions, scores


def _repeat(embeddings: Any, count: int) -> Any:
    """Embeddings for so many prompts, each with a mask prompt of its own."""
    if isinstance(embeddings, (list, tuple)):
        return [level.expand(count, -1, -1, -1) for level in embeddings]
    return embeddings.expand(count, -1, -1, -1)


def _enlarge(maps: Tensor, seen: Seen) -> Tensor:
    """Bring the model's maps (n, 1, s, s) to the pixels of the image."""
    maps = F.interpolate(maps, seen.square, mode="bilinear", align_corners=False)
    maps = maps[..., : seen.content[0], : seen.content[1]]
    return F.interpolate(maps, seen.size, mode="bilinear", align_corners=False)


def _merge(image: Masked, numbers: list[int], regions: Tensor, found: Tensor, scores: Tensor) -> Tensor:
    """Local classes of the masks of all regions: of several on a pixel that of the highest estimate."""
    local = image.local.clone()
    if image.background is not None:
        local[regions.any(dim=0)] = image.background
    for row in scores.argsort(stable=True).tolist():  # the best comes last
        local[found[row] & image.inside] = numbers[row]
    claims = torch.stack([image.local == number for number in range(len(image.classes))]).double()
    return give_classes_back(image, local, claims)
