"""refine_with_sam on SAM and SAM 2 of transformers, with random weights in small sizes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_sam import MODELS

from dhr_refine.sam import refine_with_sam, sam_prompts
from dhr_refine.sam.prompts import make_prompts

pytest.importorskip("transformers")
SIZE = (40, 56)


@pytest.fixture(scope="module", params=MODELS)
def loaded(request):
    return MODELS[request.param]()


def make_image(seed=0, size=SIZE):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)


def make_mask(size=SIZE):
    mask = torch.zeros(size, dtype=torch.long)
    mask[5:20, 10:30], mask[25:35, 2:20], mask[:2] = 15, 3, 255
    return mask


def by_hand(loaded, image, mask, rounds):
    """One prompt after the other, each with the model's own forward pass of the whole image."""
    inputs = loaded.processor(images=image, return_tensors="pt")
    square = tuple(inputs["pixel_values"].shape[-2:])
    padded = "reshaped_input_sizes" in inputs
    content = tuple(inputs["reshaped_input_sizes"][0].tolist()) if padded else square
    scale = torch.tensor([content[1] / mask.shape[1], content[0] / mask.shape[0]])
    found = []
    first = sam_prompts(mask, mask_size=16, stretch=not padded)
    for label, region in zip(first.labels.tolist(), first.regions):
        for _ in range(rounds):
            # Of a result in several pieces all make one prompt, which sam_prompts would part.
            prompts = make_prompts(region[None], gamma=4.0, strength=30.0, mask_size=16, stretch=not padded)
            with torch.no_grad():
                output = loaded.model(
                    pixel_values=inputs["pixel_values"],
                    input_points=(prompts[0] * scale)[None],
                    input_labels=prompts[1][None],
                    input_boxes=(prompts[2] * scale.repeat(2))[None],
                    input_masks=prompts[3],
                )
            best = int(output.iou_scores[0, 0].argmax())
            low = output.pred_masks[0, 0, best][None, None]
            maps = F.interpolate(low, square, mode="bilinear")[..., : content[0], : content[1]]
            region = F.interpolate(maps, tuple(mask.shape), mode="bilinear")[0, 0] > 0
            score = float(output.iou_scores[0, 0, best])
        found.append((score, label, region))
    result = torch.where(torch.isin(mask, torch.tensor([3, 15])), 0, mask)
    for _, label, region in sorted(found, key=lambda one: one[0]):
        result[region & (mask != 255)] = label
    before = result.clone()
    for label in (0, 3, 15):  # a class that shrinks below half of its pixels keeps all of them
        if (before == label).sum() < 0.5 * (mask == label).sum():
            result[mask == label] = label
    return result


@pytest.mark.parametrize("rounds", [1, 3])
def test_masks_are_those_of_one_prompt_after_the_other(loaded, rounds):
    image, mask = make_image(), make_mask()
    result = refine_with_sam(loaded.model, loaded.processor, image, mask, rounds=rounds)
    wanted = by_hand(loaded, image, mask, rounds)
    assert result.dtype == torch.long
    assert (result != wanted).float().mean() < 0.01  # batches round otherwise
    assert torch.equal(result == 255, mask == 255)


def test_batches_and_lists_are_the_single_images(loaded):
    images = torch.stack([make_image(seed) for seed in range(2)])
    masks = torch.stack([make_mask(), make_mask().flip(1)])
    options = {"rounds": 2, "labels": [[2, 14], [14]]}
    batch = refine_with_sam(*loaded, images, masks, **options)
    listed = refine_with_sam(*loaded, [*images], [*masks.byte()], **options)
    for row in range(2):
        one = refine_with_sam(
            *loaded, images[row], masks[row], rounds=2, labels=options["labels"][row], prompts_at_once=1
        )
        assert torch.equal(batch[row], listed[row])
        assert (batch[row] != one).float().mean() < 0.01  # batches round otherwise
    assert set(batch[1].unique().tolist()) <= {0, 15, 255}


def test_normalised_and_half_images_are_the_bytes(loaded):
    image, mask = make_image(), make_mask()
    wanted = refine_with_sam(*loaded, image, mask, rounds=1)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    for form in (image / 255, (image / 255 - mean) / std, image.permute(1, 2, 0)):
        assert torch.equal(refine_with_sam(*loaded, form, mask, rounds=1), wanted)


def test_only_pixels_inside_boxes_change(loaded):
    result = refine_with_sam(
        *loaded, make_image(), make_mask(), boxes=(4, 3, 40, 30), box_format="xyxy", rounds=1
    )
    inside = torch.zeros(SIZE, dtype=torch.bool)
    inside[3:30, 4:40] = True
    assert (result[~inside] == 255).all()
    assert {3, 15} <= set(result[inside].unique().tolist())


def test_no_class_vanishes_and_small_regions_stay(loaded):
    mask = torch.zeros(SIZE, dtype=torch.long)
    mask[0, 0], mask[10:30, 10:30] = 7, 4
    result = refine_with_sam(*loaded, make_image(), mask, rounds=1)
    assert {4, 7} <= set(result.unique().tolist())
    kept = refine_with_sam(*loaded, make_image(), mask, rounds=1, min_pixels=1000)
    assert torch.equal(kept, mask)


def test_without_a_background_pixels_keep_what_they_had(loaded):
    mask = torch.zeros(SIZE, dtype=torch.long)
    mask[:, 30:] = 1
    result = refine_with_sam(*loaded, make_image(), mask, background="none", rounds=1)
    assert set(result.unique().tolist()) == {0, 1}


def test_inputs_and_model_stay(loaded):
    image, mask = make_image(), make_mask()
    before = [image.clone(), mask.clone(), *(one.clone() for one in loaded.model.parameters())]
    refine_with_sam(*loaded, image, mask, rounds=2)
    after = [image, mask, *loaded.model.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"model": torch.nn.Linear(1, 1)}, TypeError, "model must be a SamModel or Sam2Model"),
        ({"processor": None}, TypeError, "processor must be the model's SamProcessor"),
        ({"images": None}, TypeError, "images must be a torch.Tensor"),
        ({"images": make_image(size=(8, 8))}, ValueError, "images"),
        ({"rounds": 0}, ValueError, "rounds must be at least 1"),
        ({"min_pixels": 0}, ValueError, "min_pixels must be at least 1"),
        ({"prompts_at_once": 0.5}, TypeError, "prompts_at_once must be an int"),
        ({"gamma": 0.0}, ValueError, "gamma must be above 0"),
        ({"strength": 0.0}, ValueError, "strength must be above 0"),
        ({"masks": [make_mask()], "images": []}, ValueError, "images must have one entry for each of the 1"),
        ({"masks": [make_mask()], "images": None}, ValueError, "images must be given"),
        ({"masks": make_mask().bool()}, TypeError, "masks must hold labels"),
    ],
)
def test_wrong_calls_are_refused(change, error, text):
    loaded = MODELS["sam"]()
    call = {**loaded._asdict(), "images": make_image(), "masks": make_mask()}
    with pytest.raises(error, match=text):
        refine_with_sam(**{**call, **change})
