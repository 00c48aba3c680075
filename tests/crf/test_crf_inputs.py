"""What dense_crf takes: batches, dtypes, layouts, numbers; and what it refuses, by which words."""

from __future__ import annotations

import copy
import math
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from parity import IMAGE, PROBS
from photos import photo, scores

from dhr_refine import DenseCRFLattice, dense_crf, pamr

pytestmark = pytest.mark.usefixtures("one_thread")


def test_batch_equals_single_images(backend):
    images = torch.stack([photo(name, 70, 90) for name in ("coffee", "astronaut", "rocket")])
    probs = scores(5, 70, 90, batch=3)
    result = dense_crf(images, probs, backend=backend)
    for image, prob, one in zip(images, probs, result, strict=True):
        assert torch.equal(dense_crf(image, prob, backend=backend), one)


def test_callers_may_use_threads(backend):
    image, probs = photo("coffee", 64, 80), scores(3, 64, 80)
    expected = dense_crf(image, probs, backend=backend)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: dense_crf(image, probs, backend=backend), range(8)))
    assert all(torch.equal(result, expected) for result in results)


def test_keeps_dtype_and_device(backend, dtype, device):
    if backend == "numba" and device.type != "cpu":
        pytest.skip("numba runs on the CPU only")
    image, probs = photo("coffee", 30, 40).to(device), scores(3, 30, 40).to(device, dtype)
    result = dense_crf(image, probs, backend=backend)
    assert (result.dtype, result.device, result.shape) == (dtype, probs.device, probs.shape)
    expected = dense_crf(image, probs.float(), backend=backend)
    torch.testing.assert_close(result.float(), expected, atol=4e-3, rtol=0)


def test_runs_in_float32_under_autocast(backend, device):
    if backend == "numba" and device.type != "cpu":
        pytest.skip("numba runs on the CPU only")
    image, probs = photo("coffee", 30, 40).to(device), scores(3, 30, 40).to(device)
    expected = dense_crf(image, probs, backend=backend)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        result = dense_crf(image, probs, backend=backend)
    assert torch.equal(result, expected)


@pytest.mark.parametrize(("own", "other"), [("float16", "bfloat16"), ("bfloat16", "float16")])
def test_autocast_of_the_other_half_type(own, other):
    image, probs = photo("coffee", 20, 30), scores(3, 20, 30).to(getattr(torch, own))
    expected = dense_crf(image, probs), pamr(image, probs)
    with torch.autocast("cpu", getattr(torch, other)):
        for result, wanted in zip((dense_crf(image, probs), pamr(image, probs)), expected):
            assert result.dtype == probs.dtype
            assert torch.equal(result, wanted)


def test_non_contiguous_inputs_stay_untouched(backend):
    image = photo("coffee", 30, 40).permute(1, 2, 0).contiguous().permute(2, 0, 1)
    probs = scores(3, 40, 30).transpose(1, 2).requires_grad_()
    assert not image.is_contiguous()
    assert not probs.is_contiguous()
    before = copy.deepcopy((image, probs.detach()))
    result = dense_crf(image, probs, backend=backend)
    assert torch.equal(image, before[0])
    assert torch.equal(probs.detach(), before[1])
    assert not result.requires_grad
    expected = dense_crf(image.contiguous(), probs.detach().contiguous(), backend=backend)
    assert torch.equal(result, expected)
    result.zero_()  # an ordinary tensor, and the caller's own
    assert torch.equal(probs.detach(), before[1])


@pytest.mark.parametrize("backend", ["numba", "torch"])
@pytest.mark.parametrize("kept", [False, True])
def test_any_layout_of_memory(backend, kept):
    images = torch.stack([photo("coffee", 20, 31), photo("astronaut", 20, 31)])
    plain = scores(3, 20, 31, batch=2)
    wide = torch.rand(2, 6, 40, 62)
    layouts = {
        "channels last": plain.contiguous(memory_format=torch.channels_last),
        "from the last axis": plain.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        "transposed": plain.mT.contiguous().mT,
        "cut": wide[:, ::2, 3:23, :31],
        "every second": wide[:, :3, ::2, ::2],
        "expanded": torch.rand(1, 1, 20, 31).expand(2, 3, 20, 31),
        "lazily negated": torch.complex(plain, -plain).conj().imag,
    }
    for probs in layouts.values():
        copy = probs.resolve_neg().clone(memory_format=torch.contiguous_format)
        for pixels in (images, images.contiguous(memory_format=torch.channels_last)):
            lattice = DenseCRFLattice(pixels, backend=backend) if kept else None
            result = dense_crf(pixels, probs, backend=backend, lattice=lattice)
            torch.testing.assert_close(result, dense_crf(images, copy, backend=backend))


def test_empty_batch(backend):
    images = torch.zeros(0, 3, 8, 9, dtype=torch.uint8)
    probs = torch.zeros(0, 4, 8, 9)
    assert dense_crf(images, probs, backend=backend).shape == (0, 4, 8, 9)
    lattice = DenseCRFLattice(images, backend=backend)
    assert dense_crf(images, probs, lattice=lattice).shape == (0, 4, 8, 9)


def test_numpy_integers_count_as_integers(backend):
    image, probs = photo("coffee", 20, 30), scores(3, 20, 30)
    expected = dense_crf(image, probs, iterations=3, backend=backend)
    assert torch.equal(dense_crf(image, probs, iterations=np.int64(3), backend=backend), expected)


@pytest.mark.parametrize(
    ("images", "probs", "error", "message"),
    [
        (
            [1],
            PROBS,
            TypeError,
            "images must be a torch.Tensor of shape (B, C, H, W), (C, H, W) or (B, C, D, H, W)",
        ),
        (
            IMAGE,
            None,
            TypeError,
            "probs must be a torch.Tensor of shape (B, K, H, W), (K, H, W) or (B, K, D, H, W)",
        ),
        (
            IMAGE[0, 0],
            PROBS,
            ValueError,
            "images must have shape (B, C, H, W), (C, H, W) or (B, C, D, H, W), got a",
        ),
        (
            IMAGE,
            PROBS[0],
            ValueError,
            "images has 4 axes but probs has 3: give both a batch axis, or neither",
        ),
        (
            IMAGE.long(),
            PROBS,
            TypeError,
            "images must be uint8 or floating point, got torch.int64: pass images.to(",
        ),
        (IMAGE * math.nan, PROBS, ValueError, "images holds NaN or infinity: find"),
        (
            IMAGE.double() + 1e300,
            PROBS,
            ValueError,
            "images holds numbers too large for float32 arithmetic: scale",
        ),
        (
            IMAGE,
            PROBS.long(),
            TypeError,
            "probs must be floating point, got a torch.int64 tensor of shape (1, 2",
        ),
        (
            IMAGE.to("meta"),
            PROBS.to("meta"),
            ValueError,
            "images and probs are on the meta device, which hol",
        ),
        (IMAGE, PROBS.to_sparse(), TypeError, "probs must be a dense tensor, got torch.sparse_coo: call"),
        (IMAGE, PROBS.bool(), TypeError, "probs must be floating point, got a torch.bool tensor"),
        (IMAGE[:, :0], PROBS, ValueError, "images must have shape (B, C, H, W) with H and W above 0, got"),
        (IMAGE[:, :, :0], PROBS[:, :, :0], ValueError, "images must have shape (B, C, H, W) with H and W"),
        (IMAGE[0].movedim(0, 2), PROBS[0], ValueError, "(8, 9, 3): bring the channels to the front with"),
        (IMAGE.movedim(1, 3)[..., :1], PROBS, ValueError, "(1, 8, 9, 1): bring the channels to the front"),
        (
            IMAGE,
            PROBS[:, :, :4],
            ValueError,
            "probs has size (4, 9) but images has (8, 9): resize probs with",
        ),
        (IMAGE, PROBS[:, :0], ValueError, "probs must have at least one class, got"),
        (IMAGE, torch.cat([PROBS] * 2), ValueError, "probs has batch size 2 but images has 1"),
        (IMAGE, PROBS * math.nan, ValueError, "probs holds NaN or infinity"),
        (IMAGE, PROBS * math.inf, ValueError, "probs holds NaN or infinity"),
    ],
)
def test_errors_name_the_argument(images, probs, error, message):
    with pytest.raises(error, match=re.escape(message)):
        dense_crf(images, probs)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"iterations": -1}, ValueError, "iterations must be an int of at least 0, got -1: pass e.g. 10"),
        ({"iterations": 2.0}, ValueError, "iterations must be an int of at least 0, got 2.0"),
        ({"sxy": 0}, ValueError, "sxy must be above 0 and finite, got 0"),
        ({"srgb": math.nan}, ValueError, "srgb must be above 0 and finite, got nan"),
        ({"gauss_sxy": "1"}, TypeError, "gauss_sxy must be a number, got str '1'"),
        ({"sxy": (80,)}, ValueError, "sxy must be a number or two, (x, y), got tuple (80,): pass one number"),
        (
            {"gauss_sxy": [1, 2, 3]},
            ValueError,
            "gauss_sxy must be a number or two, (x, y), got list [1, 2, 3]",
        ),
        (
            {"srgb": (13, 13)},
            ValueError,
            "srgb must be a number or one for each of 3 channels, got tuple (13",
        ),
        ({"srgb": (13, 0, 13)}, ValueError, "srgb[1] must be above 0 and finite, got 0"),
        ({"srgb": (13, "a", 13)}, TypeError, "srgb[1] must be a number, got str 'a'"),
        ({"sxy": ((1, 2), 3)}, TypeError, "sxy[0] must be a number, got tuple (1, 2)"),
        ({"sxy": ()}, ValueError, "sxy must be a number or two, (x, y), got tuple ()"),
        ({"sxy": True}, TypeError, "sxy must be a number, got bool True"),
        ({"compat": -1}, ValueError, "compat must lie in [0, 1000000.0], got -1"),
        ({"gauss_compat": math.nan}, ValueError, "gauss_compat must lie in [0, 1000000.0], got nan"),
        ({"min_prob": 2}, ValueError, "min_prob must lie in [0, 1], got 2"),
        (
            {"backend": "cuda"},
            ValueError,
            "backend must be one of 'auto', 'torch', 'numba', 'triton', 'pydensecrf', got",
        ),
        ({"lattice": 1}, TypeError, "lattice must be a DenseCRFLattice, got int 1: build one with"),
        ({"srgb": 1e-2}, ValueError, "the lattice of sxy=67 and srgb=0.01 has 1.8e+21 cells and"),
        ({"gauss_sxy": 1e-9}, ValueError, "the lattice of gauss_sxy=1e-09 has"),
    ],
)
def test_errors_name_the_option(options, error, message):
    with pytest.raises(error, match=re.escape(message)):
        dense_crf(IMAGE, PROBS, **options)
