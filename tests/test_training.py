"""Views of augmented crops against the augmentation itself, and crops without labels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from dhr_refine import Recipe, class_avg_pool, refine_mask
from dhr_refine.training import View, has_labels, has_split_labels


@st.composite
def augmentations(draw):
    """Arguments of View.of with a window that overlaps the image or not, and whether to mirror last."""
    sides = st.integers(1, 41)
    image, resized = draw(st.tuples(sides, sides)), draw(st.tuples(sides, sides))
    x0, y0 = draw(st.integers(-30, 40)), draw(st.integers(-30, 40))
    width, height = draw(st.integers(1, 50)), draw(st.integers(1, 50))
    options = {"resized": resized, "window": (x0, y0, x0 + width, y0 + height), "flip": draw(st.booleans())}
    return image, options, draw(st.booleans())


def make_view(image, options, flip_last):
    view = View.of(image, **options)
    return view.flipped() if flip_last else view


def augment(resized_maps, options, flip_last, fill):
    """Mirror, pad and cut (D, h, w) maps of the scaled image pixel by pixel, as data loaders do."""
    x0, y0, x1, y1 = options["window"]
    maps = resized_maps.flip(-1) if options["flip"] else resized_maps
    crop = maps.new_full((maps.shape[0], y1 - y0, x1 - x0), fill)
    for y in range(max(0, y0), min(maps.shape[1], y1)):
        for x in range(max(0, x0), min(maps.shape[2], x1)):
            crop[:, y - y0, x - x0] = maps[:, y, x]
    return crop.flip(-1) if flip_last else crop


def ramp(rows, columns):
    """(2, h, w) vertical and horizontal place of each cell's centre, as shares of the image."""
    down = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    right = (torch.arange(columns, dtype=torch.float64) + 0.5) / columns
    return torch.stack(torch.meshgrid(down, right, indexing="ij"))


@given(augmentations(), st.tuples(st.integers(1, 13), st.integers(1, 13)))
def test_crop_shows_what_the_augmentation_shows(augmentation, grid):
    image, options, flip_last = augmentation
    grid = tuple(min(pair) for pair in zip(grid, image))
    view = make_view(*augmentation)
    resized = F.interpolate(ramp(*image)[None], options["resized"], mode="bilinear", align_corners=False)[0]
    expected = augment(resized, options, flip_last, -1.0)
    result = view.crop(ramp(*grid), size=view.size)
    inside = expected[0] >= 0
    # Beyond the centres of its outermost cells a map is constant.
    edge = 0.5 / torch.tensor(grid, dtype=torch.float64)[:, None, None]
    expected = torch.where(inside, expected.clamp(edge, 1 - edge), 0.0)
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-9)
    x0, y0, x1, y1 = view.box
    box = torch.zeros_like(inside)
    box[y0:y1, x0:x1] = True
    assert torch.equal(box, inside)


@given(augmentations())
def test_nearest_equals_pillow(augmentation):
    pillow = pytest.importorskip("PIL.Image", reason="needs Pillow, not installed here")
    image, options, flip_last = augmentation
    view = make_view(*augmentation)
    labels = np.random.default_rng(0).integers(1, 255, size=image, dtype=np.uint8)
    height, width = options["resized"]
    picture = pillow.fromarray(labels).resize((width, height), pillow.Resampling.NEAREST)
    if options["flip"]:
        picture = picture.transpose(pillow.Transpose.FLIP_LEFT_RIGHT)
    picture = picture.crop(options["window"])
    if flip_last:
        picture = picture.transpose(pillow.Transpose.FLIP_LEFT_RIGHT)
    result = view.crop(torch.from_numpy(labels)[None], size=view.size, mode="nearest")
    assert result.dtype == torch.uint8
    # A pixel centre on the border of two source pixels goes either way, by rounding errors.
    tied = torch.zeros(1, height, width, dtype=torch.bool)
    tied[:, [(2 * y + 1) * image[0] % (2 * height) == 0 for y in range(height)]] = True
    tied[:, :, [(2 * x + 1) * image[1] % (2 * width) == 0 for x in range(width)]] = True
    tied = augment(tied, options, flip_last, False)
    assert torch.equal(result[~tied], torch.from_numpy(np.array(picture))[None][~tied])


@pytest.mark.parametrize("flip", [False, True])
def test_nearest_is_exact_on_the_border_of_two_pixels(flip):
    for cells in (3, 7, 22, 26, 44):
        for pixels in range(1, 61):
            view = View.of((1, cells), resized=(1, pixels), window=(0, 0, pixels, 1), flip=flip)
            shown = view.crop(torch.arange(cells).view(1, 1, -1), size=(1, pixels), mode="nearest")[0, 0]
            expected = [(2 * x + 1) * cells // (2 * pixels) for x in range(pixels)]
            assert shown.tolist() == (expected[::-1] if flip else expected)


@given(augmentations())
def test_flipped_mirrors_everything(augmentation):
    image, options, _ = augmentation
    view = View.of(image, **options)
    mirrored = view.flipped()
    assert mirrored.flipped() == view
    assert mirrored.size == view.size
    (x0, y0, x1, y1), width = view.box, view.size[1]
    if x1 > x0:
        assert mirrored.box == (width - x1, y0, width - x0, y1)
    features = torch.rand(3, 5, 7)
    torch.testing.assert_close(mirrored.crop(features), view.crop(features).flip(-1), rtol=0, atol=1e-6)


@given(augmentations(), st.integers(1, 12), st.integers(1, 12))
def test_default_size_keeps_the_resolution(augmentation, rows, columns):
    _, options, _ = augmentation
    view = make_view(*augmentation)
    result = view.crop(torch.rand(2, rows, columns))
    for cells, crop, whole, axis in zip((rows, columns), view.size, options["resized"], (1, 2)):
        assert abs(result.shape[axis] - cells * crop / whole) <= 0.5 or result.shape[axis] == 1


def test_whole_cells_are_copied():
    features = torch.rand(4, 6, 8)
    whole = View.of((60, 80), window=(0, 0, 80, 60))
    assert torch.equal(whole.crop(features), features)
    part = View.of((60, 80), resized=(120, 160), window=(40, 20, 120, 100))
    assert torch.equal(part.crop(features), features[:, 1:5, 2:6])
    mirrored = View.of((60, 80), resized=(120, 160), window=(40, 20, 120, 100), flip=True)
    assert torch.equal(mirrored.crop(features), features.flip(-1)[:, 1:5, 2:6])
    beyond = View.of((60, 80), window=(-20, 40, 20, 80))
    expected = F.pad(features[:, 4:, :2], (2, 0, 0, 2))
    assert torch.equal(beyond.crop(features[None]), expected[None])


def test_cells_cover_an_image_that_is_no_multiple_of_the_patch():
    # 27 x 36 cells of an image of 375 x 500, resized to 378 x 504 for patches of 14.
    view = View.of((375, 500), window=(100, 50, 400, 350))
    result = view.crop(ramp(27, 36), size=(10, 10))
    expected = ramp(10, 10) * torch.tensor([300 / 375, 300 / 500])[:, None, None]
    expected = expected + torch.tensor([50 / 375, 100 / 500])[:, None, None]
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)


def test_crop_keeps_dtype_device_gradients_and_input(dtype, device):
    features = torch.rand(3, 5, 7, device=device).to(dtype)
    before = features.clone()
    view = View.of((50, 70), resized=(65, 93), window=(-9, 11, 55, 75), flip=True)
    result = view.crop(features.requires_grad_())
    assert result.dtype == dtype
    assert result.device == features.device
    exact = view.crop(features.detach().double())
    torch.testing.assert_close(result.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-6)
    result.sum().backward()
    assert features.grad is not None
    assert torch.equal(features.detach(), before)
    strided = torch.rand(5, 7, 3, device=device).to(dtype).permute(2, 0, 1)
    assert torch.equal(view.crop(strided), view.crop(strided.contiguous()))


def test_view_is_hashable_and_reads_arrays():
    view = View.of(np.array([50, 70]), window=torch.tensor([1, 2, 30, 40]), resized=[60, 80], flip=np.True_)
    assert view == View((50, 70), (60, 80), (1, 2, 30, 40), True)
    assert hash(view) == hash(View((50, 70), (60, 80), (1, 2, 30, 40), True))
    assert type(view.flip) is bool


@pytest.mark.parametrize(
    ("image", "options", "error", "text"),
    [
        ((50,), {"window": (0, 0, 9, 9)}, TypeError, r"image_size must be \(H, W\)"),
        (50, {"window": (0, 0, 9, 9)}, TypeError, r"image_size must be \(H, W\), got int 50"),
        ((0, 50), {"window": (0, 0, 9, 9)}, ValueError, "image_size must hold numbers of at least 1"),
        ((50, 50), {"window": (0, 0, 9, 9), "resized": (40, 40.5)}, ValueError, "resized must hold whole"),
        ((50, 50), {"window": (0, 0, 9)}, TypeError, r"window must be \(x0, y0, x1, y1\)"),
        ((50, 50), {"window": (9, 0, 9, 9)}, ValueError, "window holds no pixel"),
        (
            (50, 50),
            {"window": (0, 0, 9, 9), "flip": "False"},
            TypeError,
            "flip must be a bool, got str 'False'",
        ),
        ((50, 50), {"window": (0, 9, 9, 8)}, ValueError, "window holds no pixel"),
        ((50, 50), {"window": (0, 0, float("nan"), 9)}, ValueError, "window must hold whole numbers"),
    ],
)
def test_view_errors(image, options, error, text):
    with pytest.raises(error, match=text):
        View.of(image, **options)


@pytest.mark.parametrize(
    ("features", "options", "error", "text"),
    [
        (torch.rand(5, 7), {}, ValueError, r"features must have shape \(D, h, w\) or \(1, D, h, w\)"),
        (torch.rand(2, 3, 5, 7), {}, ValueError, "crop each image with its own view"),
        (torch.rand(3, 0, 7), {}, ValueError, "features is empty"),
        (torch.ones(3, 5, 7, dtype=torch.long), {}, TypeError, "mode='nearest' for labels"),
        (torch.rand(3, 5, 7), {"mode": "area"}, ValueError, "mode must be one of 'bilinear', 'nearest'"),
        (torch.rand(3, 5, 7), {"size": 4}, TypeError, r"size must be \(rows, columns\)"),
        (torch.rand(3, 5, 7), {"size": (4, 0)}, ValueError, "size must hold numbers of at least 1"),
    ],
)
def test_crop_errors(features, options, error, text):
    with pytest.raises(error, match=text):
        View.of((50, 70), window=(0, 0, 9, 9)).crop(features, **options)


def scene():
    """An image of 96 x 144 with two objects, and its features and prototypes."""
    y, x = torch.meshgrid(torch.arange(96), torch.arange(144), indexing="ij")
    truth = torch.zeros(96, 144, dtype=torch.long)
    truth[((y - 50) / 30) ** 2 + ((x - 40) / 22) ** 2 < 1] = 1
    truth[((y - 40) / 16) ** 2 + ((x - 112) / 16) ** 2 < 1] = 2
    prototypes = torch.eye(6)[:3] + 0.1
    cells = F.adaptive_avg_pool2d(F.one_hot(truth, 3).permute(2, 0, 1)[None].double(), (24, 36))[0]
    saved = torch.einsum("kd,khw->dhw", prototypes.double(), cells).float()
    return truth, prototypes, saved


def iou(mask, truth, label):
    return float(((mask == label) & (truth == label)).sum() / ((mask == label) | (truth == label)).sum())


def test_unaligned_features_give_wrong_classes():
    """The released DHR code uses features of the full image with an augmented crop; this is what it does."""
    truth, prototypes, saved = scene()
    view = View.of(truth.shape, resized=(120, 180), window=(10, -8, 138, 120), flip=True)
    crop = view.crop(truth[None], size=view.size, mode="nearest")[0]
    assert crop.unique().tolist() == [0, 1, 2]
    aligned = view.crop(saved)[None]

    for features, right in ((aligned, True), (saved[None], False)):
        centroids = class_avg_pool(features, crop[None], num_classes=3).vectors[0]
        likeness = F.cosine_similarity(centroids, prototypes)
        assert (likeness[1:] > 0.95).all() == right, likeness

    # The base mask lost class 2; its CAM is coarse.
    base = torch.where(crop == 2, 0, crop)
    onehot = F.one_hot(crop, 3).permute(2, 0, 1)[None, 1:].float()
    cams = F.avg_pool2d(F.adaptive_avg_pool2d(onehot, 8), 3, 1, 1)
    wss = aligned
    # Without the prior of the default recipe, which makes up for part of what the features get wrong.
    recipe = replace(Recipe(), prior=0.0)
    options = {
        "labels": [[0, 1]],
        "boxes": [view.box],
        "box_format": "xyxy",
        "boundary": None,
        "recipe": recipe,
    }
    x0, y0, x1, y1 = view.box
    refined = refine_mask(cams, base[None], aligned, wss, **options)[0, y0:y1, x0:x1]
    with pytest.warns(UserWarning, match="uss_features has 24 x 36 cells, whose aspect ratio is neither"):
        wrong = refine_mask(cams, base[None], saved[None], wss, **options)[0, y0:y1, x0:x1]
    inside = crop[y0:y1, x0:x1]
    assert min(iou(refined, inside, label) for label in (1, 2)) > 0.85
    assert min(iou(wrong, inside, label) for label in (1, 2)) < 0.5


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.int64, torch.float32])
def test_has_labels(kind, device):
    masks = torch.full((4, 5, 6), 255, dtype=kind, device=device)
    masks[1, 4, 5] = 0
    masks[3] = 20
    result = has_labels(masks)
    assert result.dtype == torch.bool
    assert result.device == masks.device
    assert result.tolist() == [False, True, False, True]
    assert has_labels(masks, ignore_index=20).tolist() == [True, True, True, False]


def test_has_labels_tells_a_nan_loss():
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    for ignored in range(33):
        masks = torch.full((2, 4, 4), 255)
        masks.view(-1)[ignored:] = 1
        loss = F.cross_entropy(logits, masks, ignore_index=255)
        assert bool(loss.isnan()) == (not has_labels(masks).any())


@pytest.mark.parametrize("kind", [torch.uint8, torch.int32, torch.int64, torch.float32])
def test_has_split_labels(kind, device):
    masks = torch.full((4, 5, 6), 255, dtype=kind, device=device)
    masks[1, 4, 5] = 0
    masks[2] = 20
    masks[3] = 20
    masks[3, 0, 0] = 0
    result = has_split_labels(masks)
    assert result.background.tolist() == [False, True, False, True]
    assert result.foreground.tolist() == [False, False, True, True]
    assert {part.dtype for part in result} == {torch.bool}
    assert {part.device for part in result} == {masks.device}
    other = has_split_labels(masks, background=20, ignore_index=0)
    assert other.background.tolist() == [False, False, True, True]
    assert other.foreground.tolist() == [True, True, False, False]


def test_has_split_labels_tells_a_nan_of_either_mean():
    logits = torch.randn(1, 3, 4, 4)
    for text in ("0", "1", "255", "0 1", "0 255", "1 255", "0 2 255"):
        labels = [int(label) for label in text.split()]
        masks = torch.tensor([labels[i % len(labels)] for i in range(16)]).view(1, 4, 4)
        has = has_split_labels(masks)
        parts = masks == 0, (masks != 0) & (masks != 255)
        for part, pixels in zip(has, parts):
            loss = F.cross_entropy(logits, torch.where(pixels, masks, 255), ignore_index=255)
            assert bool(loss.isnan()) == (not part.any())


def test_has_split_labels_errors():
    with pytest.raises(ValueError, match=r"masks must have shape \(B, H, W\)"):
        has_split_labels(torch.zeros(4, 4))
    with pytest.raises(TypeError, match="ignore_index must be an int"):
        has_split_labels(torch.zeros(1, 4, 4), ignore_index=255.0)
    with pytest.raises(TypeError, match="background must be an int"):
        has_split_labels(torch.zeros(1, 4, 4), background=None)
    with pytest.raises(ValueError, match="background and ignore_index are both 0"):
        has_split_labels(torch.zeros(1, 4, 4), ignore_index=0)


def test_has_labels_errors():
    with pytest.raises(ValueError, match=r"masks must have shape \(B, H, W\)"):
        has_labels(torch.zeros(4, 4))
    with pytest.raises(TypeError, match="ignore_index must be an int"):
        has_labels(torch.zeros(1, 4, 4), ignore_index=255.0)


def test_labels_of_few_bits_are_compared_as_numbers():
    masks = torch.tensor([[[0, 0]], [[255, 255]]], dtype=torch.uint8)
    # To torch, -1 is 255 of 8 bits, and 256 is 0.
    assert has_labels(masks, ignore_index=-1).tolist() == [True, True]
    assert has_labels(masks, ignore_index=256).tolist() == [True, True]
    has = has_split_labels(masks, background=256, ignore_index=-1)
    assert (has.background.tolist(), has.foreground.tolist()) == ([False, False], [True, True])
    assert has_split_labels(masks, background=np.int64(0)).background.tolist() == [True, False]


def test_masks_of_any_integer_type_are_cropped():
    view = View.of((4, 6), window=(-1, 0, 5, 4), flip=True)
    mask = torch.arange(24).view(1, 4, 6)
    expected = view.crop(mask, mode="nearest")
    for dtype in (torch.uint8, torch.int8, torch.int32, torch.uint16, torch.bool):
        result = view.crop(mask.to(dtype), mode="nearest")
        assert result.dtype == dtype
        assert torch.equal(result.long(), expected.to(dtype).long())
