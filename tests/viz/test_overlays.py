"""Masks, CAMs and scores over photos: exact colours, errors, and inputs that stay as they are."""

from __future__ import annotations

import matplotlib
import numpy as np
import pytest
import torch
from shown import CREAM

from dhr_refine import viz
from dhr_refine.inputs import IMAGENET_MEAN, IMAGENET_STD
from dhr_refine.viz.overlays import overlay_scores


@pytest.mark.parametrize("kind", [torch.uint8, torch.int64, np.uint8, np.int32])
def test_colour_mask_looks_labels_up(kind):
    labels = [[0, 1, 20], [21, 254, 255]]
    mask = torch.tensor(labels, dtype=kind) if isinstance(kind, torch.dtype) else np.array(labels, kind)
    colours = viz.colour_mask(mask)
    assert colours.dtype == np.uint8
    assert (colours == viz.palette(255)[np.array(labels)]).all()
    assert (viz.colour_mask(mask, colours=viz.palette(21)) == viz.palette(21)[np.array(labels)]).all()


def test_a_mask_without_data_is_refused():
    with pytest.raises(TypeError, match="mask is on the meta device, which holds no data"):
        viz.colour_mask(torch.zeros(2, 3, dtype=torch.long, device="meta"))


def test_colour_mask_shows_any_ignore_index_as_unknown():
    assert viz.colour_mask(torch.tensor([[1, -1]]), ignore_index=-1).tolist() == [[[128, 0, 0], CREAM]]
    assert viz.colour_mask(torch.tensor([[1, 300]]), ignore_index=300).tolist() == [[[128, 0, 0], CREAM]]
    assert viz.colour_mask(torch.tensor([[1, 0]]), ignore_index=0).tolist() == [[[128, 0, 0], CREAM]]


@pytest.mark.parametrize(
    ("mask", "options", "error", "text"),
    [
        (torch.tensor([[0, -1]]), {}, ValueError, r"mask holds label -1, but .* ignore_index \(255\)"),
        (torch.tensor([[0, 300]]), {}, ValueError, "mask holds label 300"),
        (torch.tensor([[255]]), {"ignore_index": -1}, ValueError, "mask holds label 255"),
        (torch.zeros(2, 4, 4).long(), {}, ValueError, r"mask must have shape \(H, W\), got a torch.int64"),
        (torch.zeros(0, 4).long(), {}, ValueError, r"mask must have shape \(H, W\)"),
        (torch.zeros(4, 4), {}, TypeError, "mask must hold integer labels"),
        ([[0]], {}, TypeError, "mask must be a tensor or an array"),
        (torch.zeros(2, 2).long(), {"ignore_index": 1.0}, TypeError, "ignore_index must be an int"),
        (torch.zeros(2, 2).long(), {"colours": np.zeros((21, 3), np.uint8)}, ValueError, r"shape \(256, 3\)"),
        (torch.zeros(2, 2).long(), {"colours": "voc"}, ValueError, r"call palette\(\)"),
    ],
)
def test_colour_mask_names_what_is_wrong(mask, options, error, text):
    with pytest.raises(error, match=text):
        viz.colour_mask(mask, **options)


def test_overlay_mask_blends_outlines_and_hatches():
    mask = torch.zeros(60, 60, dtype=torch.long)
    mask[:, 20:40] = 2
    mask[:, 40:] = 255
    image = np.full((60, 60, 3), 100, np.uint8)
    before = mask.clone()
    result = viz.overlay_mask(image, mask)
    assert result.shape == (60, 60, 3)
    assert result.dtype == np.uint8
    assert result[5, 5].tolist() == [45, 45, 45]  # 0.55 of black over 0.45 of grey
    assert result[5, 30].tolist() == [30, 120, 30]  # 0.7 of green over 0.3 of grey
    assert set(np.unique(result[:, 42:])) == {190, 250}  # hatched, never a class's colour
    assert (result[:, [19, 39]] == 255).all()  # outlines, in the lower label's last pixel
    assert (result[:, 20:39] != 255).all()
    assert (image == 100).all()
    assert torch.equal(mask, before)


@pytest.mark.parametrize(("side", "width"), [(60, 1), (600, 1), (900, 2)])
def test_a_small_region_is_outlined_on_all_sides(side, width):
    mask = torch.zeros(side, side, dtype=torch.long)
    mask[20:24, 30:34] = 2
    white = (viz.overlay_mask(np.zeros((side, side, 3), np.uint8), mask) == 255).all(axis=-1)
    wanted = np.zeros((side, side), bool)
    wanted[20 - width : 24 + width, 30 - width : 34 + width] = True
    wanted[20:24, 30:34] = False  # nothing of the region itself is hidden
    assert (white == wanted).all()


def test_overlay_mask_reads_every_kind_of_image():
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 12, 16), dtype=torch.uint8, generator=generator)
    mask = torch.randint(0, 3, (12, 16), generator=generator)
    wanted = viz.overlay_mask(image, mask)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    unit = image.float() / 255
    readonly = image.permute(1, 2, 0).numpy().copy()
    readonly.flags.writeable = False
    for same in (unit, unit.double(), (unit - mean) / std, image.permute(1, 2, 0), readonly, image.numpy()):
        assert (viz.overlay_mask(same, mask) == wanted).all()
    luma = (image.double() * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(0).numpy()
    inside = (mask == 2).numpy() & (wanted != 255).any(axis=-1)
    assert np.abs(wanted[inside][:, 0] - 0.3 * luma[inside]).max() <= 1


@pytest.mark.parametrize(
    ("image", "error", "text"),
    [
        (
            torch.zeros(4, 8, 8),
            ValueError,
            r"image must have shape \(3, H, W\) or \(H, W, 3\), got a torch.float32",
        ),
        (torch.zeros(1, 3, 8, 8), ValueError, "pass one RGB image"),
        (torch.zeros(3, 9, 8), ValueError, r"image has size \(9, 8\) but the mask has \(8, 8\)"),
        (torch.zeros(3, 8, 8).long(), TypeError, "image must be uint8 or floating point"),
        (torch.full((3, 8, 8), 99.0), ValueError, r"image span .* call .byte\(\) on images in 0..255"),
        (torch.full((3, 8, 8), torch.nan), ValueError, "NaN"),
    ],
)
def test_overlays_name_what_is_wrong_with_an_image(image, error, text):
    with pytest.raises(error, match=text):
        viz.overlay_mask(image, torch.zeros(8, 8).long())


def test_overlay_scores_mixes_by_share():
    scores = torch.tensor([[[5.0, 0.0, 2.0]], [[0.0, 0.1, 2.0]]])
    pixels = np.zeros((1, 3, 3), np.uint8)
    result = overlay_scores(pixels, scores, torch.tensor([1, 2]), viz.palette(21))
    # 0.7 * 128, whatever the scale of the scores, and half of each
    assert result[0].tolist() == [[90, 0, 0], [0, 90, 0], [45, 45, 0]]
    assert not overlay_scores(pixels, scores * 0, torch.tensor([1, 2]), viz.palette(21)).any()


def test_overlay_cam_is_turbo_over_grey():
    image = torch.full((3, 2, 3), 200, dtype=torch.uint8)
    cam = torch.tensor([[-3.0, 1.0, 4.0], [0.0, 2.0, 4.0]])
    before = cam.clone()
    result = viz.overlay_cam(image, cam)
    turbo = matplotlib.colormaps["turbo"](np.array([[0, 0.25, 1], [0, 0.5, 1]]))[..., :3] * 255
    assert np.abs(result - (0.65 * turbo + 0.35 * 200)).max() <= 0.5 + 1e-9
    assert torch.equal(cam, before)
    assert (viz.overlay_cam(image, 3 * cam) == result).all()  # its own maximum is the hottest
    assert (viz.overlay_cam(image, cam.numpy()) == result).all()
    assert (viz.overlay_cam(image, cam, vmax=8.0)[0, 2] == viz.overlay_cam(image, cam)[1, 1]).all()
    assert (viz.overlay_cam(image, cam, vmax=2.0)[1, 1] == result[0, 2]).all()  # clipped above
    cold = viz.overlay_cam(image, torch.zeros(5, 7))
    assert (cold == result[1, 0]).all()


def test_overlay_cam_enlarges_smoothly_what_is_above_zero():
    result = viz.overlay_cam(torch.zeros(3, 1, 4), torch.tensor([[-4.0, 4.0]]))
    turbo = matplotlib.colormaps["turbo"](np.array([0, 0.25, 0.75, 1]))[:, :3] * 255
    assert np.abs(result[0] - 0.65 * turbo).max() <= 0.5 + 1e-9


@pytest.mark.parametrize(
    ("cam", "options", "error", "text"),
    [
        (torch.zeros(2, 4, 4), {}, ValueError, r"cam must have shape \(h, w\).*pass the map of one class"),
        (torch.full((4, 4), torch.inf), {}, ValueError, "cam holds NaN or infinity"),
        (torch.zeros(4, 4), {"vmax": 0.0}, ValueError, "vmax must be above 0"),
        (torch.zeros(4, 4), {"vmax": "1"}, TypeError, "vmax must be a number"),
    ],
)
def test_overlay_cam_names_what_is_wrong(cam, options, error, text):
    with pytest.raises(error, match=text):
        viz.overlay_cam(torch.zeros(3, 8, 8), cam, **options)
