"""class_avg_pool against the NumPy reference and its own definition."""

# ruff: noqa: E501  (tables of errors, one case a line)

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import reference
import torch
from hypothesis import given
from hypothesis import strategies as st

from dhr_refine import ClassCentroids, class_avg_pool

REFERENCES = {"area": reference.pool_by_area, "majority": reference.pool_by_majority}


def problem(seed: int, grid=(5, 7), size=(20, 21), classes=4, batch=1, depth=3, ignore=0.1):
    rng = np.random.default_rng(seed)
    features = torch.from_numpy(rng.normal(size=(batch, depth, *grid)))
    mask = torch.from_numpy(rng.integers(0, classes, size=(batch, *size)))
    mask[torch.from_numpy(rng.random((batch, *size)) < ignore)] = 255
    return features, mask


@pytest.mark.parametrize("assign", ["area", "majority"])
@pytest.mark.parametrize(
    ("grid", "size"),
    [
        ((5, 7), (20, 21)),  # whole pixels per cell
        ((5, 7), (23, 31)),  # not whole
        ((6, 6), (6, 6)),  # one pixel per cell
        ((9, 11), (4, 5)),  # the mask is coarser than the features
        ((9, 4), (5, 13)),  # coarser along one axis only
        ((1, 1), (7, 8)),
        ((8, 8), (1, 1)),
    ],
)
def test_equals_the_reference(assign, grid, size):
    for seed in range(3):
        features, mask = problem(seed, grid, size)
        vectors, counts = class_avg_pool(features, mask, num_classes=4, assign=assign)
        expected = REFERENCES[assign](features[0].numpy(), mask[0].numpy(), [0, 1, 2, 3])
        assert np.abs(vectors[0].numpy() - expected[0]).max() < 1e-12
        assert np.abs(counts[0].numpy() - expected[1]).max() < 1e-5


@pytest.mark.parametrize("assign", ["area", "majority"])
def test_dtypes_devices_and_layouts(assign, device, dtype):
    features, mask = problem(1, batch=2)
    features = features.to(device, dtype)
    mask = mask.to(device)
    vectors, counts = class_avg_pool(features, mask, num_classes=4, assign=assign)
    assert vectors.dtype == dtype
    assert counts.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert vectors.device == counts.device == features.device
    for b in range(2):
        expected, _ = REFERENCES[assign](
            features[b].double().cpu().numpy(), mask[b].cpu().numpy(), [0, 1, 2, 3]
        )
        error = np.abs(vectors[b].double().cpu().numpy() - expected).max()
        assert error < (1e-12 if dtype == torch.float64 else 1e-6 + 2 * torch.finfo(dtype).eps)
    strided = features.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    turned = mask.mT.contiguous().mT
    again = class_avg_pool(strided, turned, num_classes=4, assign=assign)
    assert torch.allclose(again.vectors.double(), vectors.double(), rtol=1e-5, atol=torch.finfo(dtype).eps)
    assert torch.equal(again.counts, counts)


def test_half_precision_is_averaged_in_float32():
    features = torch.full((1, 1, 1, 4096), 1000.0, dtype=torch.float16)  # the sum overflows float16
    vectors, _ = class_avg_pool(features, torch.zeros(1, 1, 4096, dtype=torch.long), num_classes=1)
    assert vectors.item() == 1000.0


@pytest.mark.parametrize(
    "kind", [torch.uint8, torch.int16, torch.int32, torch.int64, torch.float32, torch.float16]
)
def test_masks_of_any_type(kind):
    features, mask = problem(2)
    expected = class_avg_pool(features, mask, num_classes=4)
    result = class_avg_pool(features, mask.to(kind), num_classes=4)
    assert isinstance(result, ClassCentroids)
    assert all(torch.equal(x, y) for x, y in zip(expected, result, strict=True))


def test_an_absent_class_has_zeros_and_count_zero():
    features, mask = problem(3)
    mask[mask == 2] = 0
    for assign in ("area", "majority"):
        vectors, counts = class_avg_pool(features, mask, num_classes=6, assign=assign)
        assert (vectors[0, [2, 4, 5]] == 0).all()
        assert (counts[0, [2, 4, 5]] == 0).all()
        assert (counts[0, [0, 1]] > 0).all()


def test_a_class_smaller_than_a_cell():
    features, mask = torch.arange(4.0).view(1, 1, 2, 2), torch.zeros(1, 8, 8, dtype=torch.long)
    mask[0, 5, 6] = 1  # one of the 16 pixels of the last cell
    area = class_avg_pool(features, mask, num_classes=2)
    assert area.vectors[0, 1].item() == 3.0
    assert area.counts.tolist() == [[3.9375, 0.0625]]
    majority = class_avg_pool(features, mask, num_classes=2, assign="majority")
    assert majority.counts.tolist() == [[4.0, 0.0]]
    assert majority.vectors[0, 1].item() == 0.0


def test_majority_ties_go_to_the_lowest_label_and_ignored_cells_drop_out():
    features = torch.tensor([[[[1.0, 2.0, 4.0]]]])
    mask = torch.tensor(
        [[[2, 1, 255, 2, 255, 255], [1, 2, 2, 255, 255, 0]]]
    )  # ties: 1-2, 2-ignore; ignore wins
    vectors, counts = class_avg_pool(features, mask, num_classes=3, assign="majority")
    assert counts.tolist() == [[0.0, 1.0, 1.0]]
    assert vectors[0, :, 0].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("ignore", [255, -1, 0, 77])
def test_ignored_pixels_feed_nothing(ignore):
    features, mask = problem(4)
    mask = torch.where(mask == 255, ignore, mask)
    vectors, counts = class_avg_pool(features, mask, num_classes=4, ignore_index=ignore)
    plain = mask[0].numpy().copy()
    plain[plain == ignore] = 99
    expected = reference.pool_by_area(features[0].numpy(), plain, [0, 1, 2, 3])
    assert np.abs(vectors[0].numpy() - expected[0]).max() < 1e-12
    assert np.abs(counts[0].numpy() - expected[1]).max() < 1e-5


def test_an_all_ignored_mask_and_an_empty_batch():
    features, mask = problem(5)
    vectors, counts = class_avg_pool(features, torch.full_like(mask, 255), num_classes=4)
    assert (vectors == 0).all()
    assert (counts == 0).all()
    vectors, counts = class_avg_pool(features[:0], mask[:0], num_classes=4)
    assert vectors.shape == (0, 4, 3)
    assert counts.shape == (0, 4)


@given(seed=st.integers(0, 10**6), h=st.integers(1, 6), w=st.integers(1, 6), up=st.integers(1, 4))
def test_flips_permutations_and_mass(seed, h, w, up):
    features, mask = problem(seed, (h, w), (h * up, w * up))
    vectors, counts = class_avg_pool(features, mask, num_classes=4)
    known = (mask != 255).double().mean() * h * w
    assert abs(counts.double().sum() - known) < 1e-4
    # Whatever the classes, their sums add up to the sum over all known pixels.
    big = features.repeat_interleave(up, 2).repeat_interleave(up, 3) / up**2
    total = (big * (mask != 255)[:, None]).sum((2, 3))
    assert torch.allclose((vectors * counts[..., None]).sum(1), total, atol=1e-5)
    flipped = class_avg_pool(features.flip(3), mask.flip(2), num_classes=4)
    assert torch.allclose(flipped.vectors, vectors, atol=1e-10)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    renamed = torch.where(mask == 255, 255, order[mask.clamp_max(3)])
    moved = class_avg_pool(features, renamed, num_classes=4)
    assert torch.allclose(moved.vectors[:, order], vectors, atol=1e-10)
    assert torch.equal(moved.counts[:, order], counts)
    doubled = class_avg_pool(2 * features + 1, mask, num_classes=4)
    assert torch.allclose(doubled.vectors[counts > 0], 2 * vectors[counts > 0] + 1, atol=1e-10)


@pytest.mark.parametrize("assign", ["area", "majority"])
def test_gradients_pass_gradcheck(assign):
    features, mask = problem(6, (3, 4), (7, 9), classes=3, batch=2, depth=2)
    features.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda f: class_avg_pool(f, mask, num_classes=4, assign=assign).vectors, (features,)
    )


def test_inputs_are_untouched_and_autocast_changes_nothing(device):
    features, mask = (t.to(device) for t in problem(7))
    features = features.float()
    before = copy.deepcopy((features, mask))
    plain = class_avg_pool(features, mask, num_classes=4)
    with torch.autocast(device_type=device.type, dtype=torch.bfloat16):
        cast = class_avg_pool(features, mask, num_classes=4)
    assert torch.equal(plain.vectors, cast.vectors)
    assert torch.equal(features, before[0])
    assert torch.equal(mask, before[1])


def test_a_batch_equals_its_images():
    features, mask = problem(8, batch=3)
    batch = class_avg_pool(features, mask, num_classes=4)
    for b in range(3):
        alone = class_avg_pool(features[b : b + 1], mask[b : b + 1], num_classes=4)
        assert torch.allclose(alone.vectors[0], batch.vectors[b], atol=1e-13)
        assert torch.equal(alone.counts[0], batch.counts[b])


F, M = torch.zeros(2, 3, 4, 5), torch.zeros(2, 8, 8, dtype=torch.long)
CORNER = torch.zeros_like(M).index_put((torch.tensor(1), torch.tensor(7), torch.tensor(7)), torch.tensor(1))


@pytest.mark.parametrize(
    ("features", "mask", "options", "error", "text"),
    [
        ([1], M, {}, TypeError, r"features must be a torch.Tensor of shape \(B, D, h, w\), got list \[1\]"),
        (F[0], M, {}, ValueError, r"features must have shape \(B, D, h, w\), got a torch.float32 tensor of shape \(3, 4, 5\)"),
        (F.int(), M, {}, TypeError, "features must be floating point, got a torch.int32 tensor"),
        (F, M[0], {}, ValueError, r"mask must have shape \(B, H, W\)"),
        (F, M.numpy(), {}, TypeError, r"mask must be a torch.Tensor of shape \(B, H, W\), got a NumPy int64 array of shape"),
        (F, M[:1], {}, ValueError, "mask has batch size 1 but features has 2: pass the same images in both"),
        (F.to("meta"), M, {}, ValueError, r"mask is on cpu but features is on meta: move mask with .to\(features.device\)"),
        (F.to("meta"), M.to("meta"), {}, TypeError, "mask is on the meta device, which holds no data"),
        (F, M + 2, {}, ValueError, r"mask holds the label 2, outside 0..1 and not ignore_index 255: raise num_classes"),
        (F, M - 1, {}, ValueError, "mask holds the label -1, outside"),
        (F, M + 255, {"ignore_index": -1}, ValueError, "mask holds the label 255, outside 0..1 and not ignore_index -1"),
        (F, M + 2 * CORNER, {}, ValueError, "mask holds the label 2, outside 0..1"),  # one pixel is enough
        (F, M + 0.5 * CORNER, {}, ValueError, "mask holds values that are no whole numbers"),
        (F, M, {"ignore_index": 2.5}, TypeError, "ignore_index must be an int, got float 2.5: pass 255"),
        (F, M + 0.5, {}, ValueError, "mask holds values that are no whole numbers: pass labels"),
        (F, M + math.nan, {}, ValueError, "mask holds values that are no whole numbers"),
        (F, M + math.inf, {}, ValueError, "mask holds values that are no whole numbers"),
        (F, M.bool(), {}, TypeError, "mask must hold labels, got a torch.bool tensor"),
        (F, M, {"assign": "mode"}, ValueError, "assign must be one of 'area', 'majority', got 'mode'"),
        (F, M, {"num_classes": 0}, ValueError, "num_classes must be a positive int, got int 0"),
        (F, M, {"num_classes": 2.0}, ValueError, "num_classes must be a positive int, got float 2.0"),
        (F, M, {"num_classes": True}, ValueError, "num_classes must be a positive int, got bool True"),
        (F + math.nan, M, {}, ValueError, r"features holds NaN or infinity: .* torch.nan_to_num\(features\)"),
        (F + math.inf, M, {}, ValueError, "features holds NaN or infinity"),
    ],
)  # fmt: skip
def test_errors_name_the_argument_what_came_and_the_fix(features, mask, options, error, text):
    with pytest.raises(error, match=text):
        class_avg_pool(features, mask, **{"num_classes": 2, **options})


def test_large_finite_features_are_accepted():
    features = torch.full((1, 1, 4, 5), 3e38)  # their sum overflows
    vectors, _ = class_avg_pool(features, M[:1], num_classes=1)
    assert vectors.shape == (1, 1, 1)


def test_an_error_does_not_print_a_whole_array():
    with pytest.raises(TypeError, match=r"mask must be a torch\.Tensor") as caught:
        class_avg_pool(F, np.zeros((2, 8, 8)), num_classes=2)
    assert len(str(caught.value)) < 300
    assert "(2, 8, 8)" in str(caught.value)
