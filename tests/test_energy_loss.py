"""The dense energy loss: against NumPy, its gradient, what callers hold, degenerate input, errors."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from energy_loss_peer import energy, filter_by_pairs, softmax_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import forward_ad

from dhr_refine import dense_energy_loss

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
BACKENDS = ["torch", "numba"]


@pytest.fixture(params=BACKENDS)
def backend(request):
    if request.param == "numba":
        pytest.importorskip("numba", reason="needs numba: pip install numba")
    return request.param


def scene(batch=2, classes=4, height=24, width=32, *, seed=0):
    """Images of smooth colours in two halves, logits and labels a third of which are 255."""
    generator = torch.Generator().manual_seed(seed)
    images = 40 * torch.rand(batch, 3, height, width, generator=generator)
    images[..., width // 2 :] += 150
    logits = 2 * torch.randn(batch, classes, height, width, generator=generator)
    labels = torch.randint(0, 3, (batch, height, width), generator=generator)
    return images.byte(), logits, labels.masked_fill(labels == 2, 255)


def loss_and_gradient(images, logits, labels, **options):
    """The loss, and its gradient to the logits."""
    logits = logits.detach().clone().requires_grad_()
    loss = dense_energy_loss(images, logits, labels, **options)
    loss.backward()
    return loss.detach(), logits.grad


def check_against(images, logits, labels, boxes=None, *, rtol, backend, **options):
    """Compare loss and gradient with the reference's: each gradient to a share of the largest."""
    probs = logits.double().softmax(1).numpy()
    expected = energy(images, probs, labels, boxes, **options)
    options.pop("filtering", None)
    loss, gradient = loss_and_gradient(
        images, logits, labels, boxes=boxes, box_format="xyxy", backend=backend, **options
    )
    assert loss.shape == ()
    assert float(loss) == pytest.approx(expected.loss, rel=rtol)
    wanted = softmax_gradient(probs, expected.gradient)
    assert np.abs(gradient.numpy() - wanted).max() <= rtol * np.abs(wanted).max()
    assert expected.loss < 0


CASES = {
    "defaults": {},
    "odd": {"height": 25, "width": 31},
    "one class": {"classes": 1},
    "many classes": {"classes": 21, "batch": 1},
    "full size": {"scale_factor": 1},
    "a third": {"scale_factor": 0.3},
    "fine": {"sigma_rgb": 5, "sigma_xy": 12, "weight": 0.5},
    "boxes": {"boxes": [(3, 1, 20, 17), (0, 0, 32, 24)]},
    "an empty box": {"boxes": [(3, 4, 3, 9), (1, 2, 29, 23)]},
}


@pytest.mark.parametrize("case", CASES)
def test_equals_the_formula_on_the_lattice_of_pydensecrf(case, backend):
    pytest.importorskip("pydensecrf", reason="the reference's lattice")
    options = dict(CASES[case])
    given = scene(**{k: options.pop(k) for k in ("batch", "classes", "height", "width") if k in options})
    tolerance = 1e-4 if case != "one class" else 1e-3  # whose gradient to logits is rounding
    if case == "one class":
        images, logits, labels = given
        expected = energy(images, logits.softmax(1).numpy(), labels).loss
        loss, gradient = loss_and_gradient(images, logits, labels, backend=backend)
        assert float(loss) == pytest.approx(expected, rel=tolerance)
        assert bool((gradient == 0).all())
        return
    check_against(*given, options.pop("boxes", None), rtol=tolerance, backend=backend, **options)


@pytest.mark.parametrize("scale_factor", [0.5, 1])
def test_equals_the_formula_by_all_pairs_to_the_error_of_the_lattice(scale_factor, backend):
    """The lattice of five features gives 0.6 of the sum here, within 7 %: as the original's does."""
    images, logits, labels = scene(1)
    probs = logits.double().softmax(1).numpy()
    expected = energy(images, probs, labels, scale_factor=scale_factor, filtering=filter_by_pairs)
    options = {"scale_factor": scale_factor, "softmax": False, "backend": backend}
    loss, gradient = loss_and_gradient(images, logits.double().softmax(1), labels, **options)
    assert float(loss) / expected.loss == pytest.approx(0.595, abs=0.015)
    ratios = gradient.numpy() / expected.gradient
    assert ratios.mean() == pytest.approx(0.595, abs=0.015)
    assert ratios.std() < 0.07 * ratios.mean()


def test_defaults_are_those_of_the_field():
    given = scene()
    same = dense_energy_loss(*given, weight=1e-7, sigma_rgb=15, sigma_xy=100, scale_factor=0.5)
    assert dense_energy_loss(*given) == same
    assert -1e-3 < float(same) < 0


def test_gradient_is_that_of_constant_affinities(backend):
    """Softmax and resizing are differentiated exactly: the rest is linear in the resized probabilities."""
    images, logits, labels = scene(height=9, width=10)
    logits = logits.double().requires_grad_()
    (gradient,) = torch.autograd.grad(dense_energy_loss(images, logits, labels, backend=backend), logits)
    small = torch.nn.functional.interpolate(logits.softmax(1), (4, 5), mode="bilinear")
    direct = small.detach().requires_grad_()
    pixels = images[:, :, [0, 2, 4, 6]][..., [0, 2, 4, 6, 8]]  # nearest: every 9 / 4th row
    picked = labels[:, [0, 2, 4, 6]][..., [0, 2, 4, 6, 8]]
    options = {"scale_factor": 1, "sigma_xy": 50, "softmax": False, "backend": backend}
    (affinity,) = torch.autograd.grad(dense_energy_loss(pixels, direct, picked, **options), direct)
    (expected,) = torch.autograd.grad((small * affinity).sum(), logits)
    assert torch.allclose(gradient, expected, rtol=1e-5, atol=1e-12)


def test_gradient_is_the_derivative_where_no_label_is_known():
    """There the gate is 1, and what is left is how far the lattice is from symmetric."""
    images, logits, labels = scene(1)
    labels = torch.full_like(labels, 255)
    logits = logits.double()
    _, gradient = loss_and_gradient(images, logits, labels, backend="torch")
    step = gradient / gradient.abs().max()
    ends = [dense_energy_loss(images, logits + e * step, labels, backend="torch") for e in (1e-4, -1e-4)]
    assert float((gradient * step).sum()) == pytest.approx(float(ends[0] - ends[1]) / 2e-4, rel=0.02)


def test_the_loss_scales_with_what_it_is_multiplied_by():
    given = scene()
    loss, gradient = loss_and_gradient(*given)
    larger, steeper = loss_and_gradient(*given, weight=3e-7)
    assert torch.allclose(larger, 3 * loss)
    assert torch.allclose(steeper, 3 * gradient)
    nothing, flat = loss_and_gradient(*given, weight=0)
    assert nothing == 0
    assert bool((flat == 0).all())
    logits = given[1].clone().requires_grad_()
    (5 * dense_energy_loss(given[0], logits, given[2])).backward()
    assert torch.allclose(logits.grad, 5 * gradient)


def test_one_step_down_the_gradient_brings_alike_neighbours_together():
    images, logits, labels = scene(1)
    labels = torch.full_like(labels, 255)
    loss, gradient = loss_and_gradient(images, logits, labels)
    assert dense_energy_loss(images, logits - 0.1 * gradient / gradient.abs().max(), labels) < loss


@settings(max_examples=40)
@given(
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 14),
    st.integers(1, 14),
    st.sampled_from([0.5, 1.0, 0.34]),
    st.integers(0, 2**31),
    st.data(),
)
def test_batches_are_the_means_of_their_images(batch, classes, height, width, factor, seed, data):
    images, logits, labels = scene(batch, classes, height, width, seed=seed)
    edges = [data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2)) for n in [height, width] * batch]
    boxes = [[*sorted(y), *sorted(x)] for y, x in zip(edges[::2], edges[1::2], strict=True)]
    options = {"box_format": "yyxx", "scale_factor": factor, "backend": "torch"}
    loss, gradient = loss_and_gradient(images, logits, labels, boxes=boxes, **options)
    assert torch.isfinite(loss)
    assert loss <= 0
    assert bool(torch.isfinite(gradient).all())
    singles = [
        loss_and_gradient(
            images[i : i + 1], logits[i : i + 1], labels[i : i + 1], boxes=boxes[i : i + 1], **options
        )
        for i in range(batch)
    ]
    assert torch.allclose(loss, torch.stack([one for one, _ in singles]).mean(), rtol=1e-4, atol=1e-12)
    rows = torch.cat([own for _, own in singles]) / batch
    assert torch.allclose(gradient, rows, rtol=1e-3, atol=1e-5 * float(rows.abs().max()) + 1e-15)
    for i, (y0, y1, x0, x1) in enumerate(boxes):
        if factor == 1:
            outside = torch.ones(height, width, dtype=torch.bool)
            outside[y0:y1, x0:x1] = False
            assert bool((gradient[i][:, outside] == 0).all())


@pytest.mark.parametrize("labels", [0, 255])
def test_labels_that_are_all_alike(labels, backend):
    images, logits, known = scene()
    loss, gradient = loss_and_gradient(images, logits, torch.full_like(known, labels), backend=backend)
    assert loss < 0
    assert bool(torch.isfinite(gradient).all())


def test_sure_pixels_with_labels_are_left_alone():
    images, _, labels = scene()
    sure = torch.full((2, 4, 24, 32), -200.0)
    sure[:, 1] = 200
    loss, gradient = loss_and_gradient(images, sure, torch.zeros_like(labels))
    assert loss == 0
    assert bool((gradient == 0).all())


def test_probabilities_that_rounding_brought_above_1_do_not_turn_the_gate_around():
    images, logits, labels = scene()
    probs = torch.zeros_like(logits)
    probs[:, 1] = 1.004
    loss, gradient = loss_and_gradient(images, probs, torch.zeros_like(labels), softmax=False)
    assert loss == 0
    assert bool((gradient == 0).all())


def test_boxes_in_every_form_are_those_of_refine_mask():
    given = scene()
    inside = [[1, 20, 3, 17], [0, 24, 0, 32]]
    expected = dense_energy_loss(*given, boxes=inside, box_format="yyxx")
    for boxes in (torch.tensor(inside, dtype=torch.int16), np.array(inside), [inside[0], None]):
        assert dense_energy_loss(*given, boxes=boxes, box_format="yyxx") == expected
    turned = [[3, 1, 17, 20], [0, 0, 32, 24]]
    assert dense_energy_loss(*given, boxes=turned, box_format="xyxy") == expected
    assert expected > dense_energy_loss(*given)
    assert dense_energy_loss(*given, boxes=[None, None]) == dense_energy_loss(*given)


def test_what_is_outside_all_boxes_does_not_count():
    images, logits, labels = scene()
    boxes, inside = [[4, 20, 4, 28]] * 2, (slice(None), slice(None), slice(4, 20), slice(4, 28))
    other = torch.randn_like(logits)
    other[inside] = logits[inside]
    options = {"boxes": boxes, "box_format": "yyxx"}
    changed = torch.randint_like(labels, 0, 2)
    changed[:, 4:20, 4:28] = labels[:, 4:20, 4:28]
    assert dense_energy_loss(images, other, changed, **options) == dense_energy_loss(
        images, logits, labels, **options
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.float32, torch.float16])
def test_labels_of_every_type(dtype):
    images, logits, labels = scene()
    assert dense_energy_loss(images, logits, labels.to(dtype)) == dense_energy_loss(images, logits, labels)


def test_another_ignore_index():
    images, logits, labels = scene()
    expected = dense_energy_loss(images, logits, labels)
    other = labels.masked_fill(labels == 255, -1)
    assert dense_energy_loss(images, logits, other, ignore_index=-1) == expected
    # To torch, 255 of 8 bits is -1.
    none = dense_energy_loss(images, logits, torch.zeros_like(labels))
    assert dense_energy_loss(images, logits, labels.byte(), ignore_index=-1) == none


def test_images_in_every_form(backend):
    images, logits, labels = scene()
    expected = dense_energy_loss(images, logits, labels, backend=backend)
    for dtype in (torch.float32, torch.float16, torch.float64):
        assert torch.allclose(
            dense_energy_loss(images.to(dtype), logits, labels, backend=backend), expected, rtol=1e-6
        )
    mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (MEAN, STD))
    normalised = (images - mean) / std
    for options in ({"mean": MEAN, "std": STD}, {"mean": np.array(MEAN), "std": torch.tensor(STD)}):
        loss = dense_energy_loss(normalised, logits, labels, backend=backend, **options)
        assert torch.allclose(loss, expected, rtol=2e-4)
    assert dense_energy_loss(images, logits, labels, mean=MEAN, std=STD, backend=backend) == expected


def test_probabilities_in_place_of_logits():
    images, logits, labels = scene()
    expected = dense_energy_loss(images, logits, labels)
    assert dense_energy_loss(images, logits.softmax(1), labels, softmax=False) == expected


def test_types_of_logits(dtype, backend):
    images, logits, labels = scene()
    given = logits.to(dtype)
    loss, gradient = loss_and_gradient(images, given, labels, backend=backend)
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    assert loss.dtype == wide
    assert gradient.dtype == dtype
    exact, slopes = loss_and_gradient(images, given.float(), labels, backend=backend, weight=1.0)
    assert torch.allclose(1e7 * loss.float(), exact, rtol=1e-5)
    _, scaled = loss_and_gradient(images, given, labels, backend=backend, weight=1.0)
    assert torch.allclose(scaled.float(), slopes, rtol=1e-2, atol=1e-2 * float(slopes.abs().max()))


def test_autocast_changes_nothing():
    given = scene()
    expected = loss_and_gradient(*given)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = loss_and_gradient(*given)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


def test_layout_and_device_change_nothing_and_inputs_stay(device):
    images, logits, labels = scene()
    expected = dense_energy_loss(
        images, logits, labels, boxes=[[1, 20, 3, 17], None], box_format="yyxx", backend="torch"
    )
    given = [images.mT.contiguous().mT, logits.to(memory_format=torch.channels_last), labels.flip(0).flip(0)]
    given = [tensor.to(device) for tensor in given]
    kept = [tensor.clone() for tensor in given]
    loss = dense_energy_loss(*given, boxes=[[1, 20, 3, 17], None], box_format="yyxx", backend="torch")
    assert loss.device.type == device.type
    assert torch.allclose(loss.cpu(), expected, rtol=1e-4)
    assert all(torch.equal(tensor.cpu(), own.cpu()) for tensor, own in zip(given, kept, strict=True))


def test_no_images_give_zero_and_a_gradient():
    images, logits, labels = scene()
    loss, gradient = loss_and_gradient(images[:0], logits[:0], labels[:0])
    assert loss == 0
    assert gradient.shape == (0, 4, 24, 32)
    assert dense_energy_loss(images[:0].float(), logits[:0], labels[:0], boxes=[], box_format="xyxy") == 0


def test_without_gradients():
    given = scene()
    with torch.no_grad():
        assert not dense_energy_loss(*given).requires_grad
    assert not dense_energy_loss(*given).requires_grad


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:DeprecationWarning")
def test_further_derivatives_are_refused():
    images, logits, labels = scene()
    leaf = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(dense_energy_loss(images, leaf, labels), leaf, create_graph=True)
    assert torch.equal(gradient, loss_and_gradient(images, logits, labels)[1])
    with pytest.raises(TypeError, match="dense_energy_loss has a first derivative only"):
        gradient.square().sum().backward()
    with (
        forward_ad.dual_level(),
        pytest.raises(TypeError, match="dense_energy_loss has no derivative in forward mode"),
    ):
        dense_energy_loss(images, forward_ad.make_dual(logits, torch.ones_like(logits)), labels)
    with pytest.raises(TypeError, match="within a transform"):
        torch.func.grad(lambda values: dense_energy_loss(images, values, labels))(logits)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # which the compiler looks at
def test_within_a_compiled_function():
    given = scene()
    compiled = torch.compile(lambda *tensors: 2 * dense_energy_loss(*tensors), backend="eager")
    found = loss_and_gradient(*given)
    logits = given[1].clone().requires_grad_()
    loss = compiled(given[0], logits, given[2])
    loss.backward()
    assert torch.allclose(loss, 2 * found[0])
    assert torch.allclose(logits.grad, 2 * found[1])


IMAGES, LOGITS, LABELS = scene(1, 3, 8, 10)
NORMALISED = (IMAGES - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"images": IMAGES.numpy()}, TypeError, r"images must be a torch.Tensor of shape \(B, 3, H, W\)"),
        ({"images": IMAGES[0]}, ValueError, r"images must have shape \(B, 3, H, W\)"),
        ({"images": IMAGES[:, :1]}, ValueError, "repeat the channel"),
        ({"images": IMAGES.movedim(1, -1)}, ValueError, "bring the channels to the front"),
        ({"images": IMAGES.long()}, TypeError, "images must be uint8 or floating point"),
        (
            {"images": IMAGES[..., :8]},
            ValueError,
            r"logits has size \(8, 10\) but images has \(8, 8\): pass torch",
        ),
        ({"images": IMAGES.float().fill_(torch.nan)}, ValueError, "images holds NaN or infinity"),
        (
            {"images": IMAGES.float() * 257},
            ValueError,
            "not grey levels in .*scale them, or pass uint8 images",
        ),
        ({"images": NORMALISED}, ValueError, "images are normalised, they span .*pass mean and std in grey"),
        ({"images": IMAGES.float(), "mean": MEAN, "std": STD}, ValueError, "undoing.*leave mean and std out"),
        ({"logits": LOGITS.long()}, TypeError, "logits must be floating point"),
        ({"logits": LOGITS[:, :0]}, ValueError, "logits is empty"),
        ({"logits": LOGITS[0]}, ValueError, r"logits must have shape \(B, K, H, W\)"),
        ({"logits": LOGITS / 0}, ValueError, "logits holds NaN or infinity"),
        ({"logits": LOGITS.masked_fill(LOGITS > 1, -torch.inf)}, ValueError, "nan"),
        ({"logits": LOGITS.softmax(1)}, ValueError, "logits are probabilities.*pass softmax=False"),
        ({"logits": LOGITS.softmax(1).bfloat16()}, ValueError, "logits are probabilities"),
        (
            {"softmax": False},
            ValueError,
            "logits must be probabilities where softmax=False.*pass softmax=True",
        ),
        ({"softmax": 1}, TypeError, "softmax must be True or False"),
        ({"logits": LOGITS.expand(2, -1, -1, -1)}, ValueError, "logits has batch size 2 but images has 1"),
        ({"labels": LABELS[:, None]}, ValueError, r"labels must have shape \(B, H, W\)"),
        ({"labels": LABELS == 255}, TypeError, "labels must be whole numbers, got a torch.bool tensor"),
        ({"labels": LABELS[:, ::2]}, ValueError, "labels has size .*: pass torch"),
        ({"labels": LABELS.expand(3, -1, -1)}, ValueError, "labels has batch size 3 but images has 1"),
        ({"labels": LABELS.to("meta")}, TypeError, "labels is on the meta device"),
        ({"boxes": [[0, 4, 0, 4]]}, ValueError, "box_format must be 'xyxy' or 'yyxx'"),
        ({"boxes": [[0, 9, 0, 4]], "box_format": "yyxx"}, ValueError, r"boxes\[0\] is .* outside the image"),
        ({"boxes": [None, None]}, ValueError, "box_format"),
        ({"sigma_rgb": 0}, ValueError, "sigma_rgb must be above 0"),
        ({"sigma_xy": -1}, ValueError, "sigma_xy must be above 0"),
        ({"sigma_xy": "1"}, TypeError, "sigma_xy must be a number"),
        ({"scale_factor": 0}, ValueError, "scale_factor must be above 0"),
        ({"scale_factor": 2}, ValueError, r"scale_factor must lie in \[0, 1\]"),
        ({"weight": -1}, ValueError, "weight must lie in"),
        ({"weight": float("nan")}, ValueError, "weight must lie in"),
        ({"ignore_index": 2.5}, TypeError, "ignore_index must be an int"),
        ({"backend": "triton"}, ValueError, "backend must be one of"),
        ({"mean": MEAN}, ValueError, "mean and std must be given together"),
        ({"mean": MEAN, "std": (1, 2, 0)}, ValueError, "std must have 3 entries, finite, above 0"),
        ({"mean": (1, 2), "std": STD}, ValueError, "mean must have 3 entries, finite, got"),
        ({"mean": (1, 2, torch.inf), "std": STD}, ValueError, "mean must have 3 entries, finite, got"),
        ({"mean": "abc", "std": STD}, TypeError, "mean must be three numbers"),
        ({"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}, ValueError, "multiply both by 255"),
    ],
)
def test_wrong_input(changes, error, words):
    given = {"images": IMAGES, "logits": LOGITS, "labels": LABELS} | changes
    with pytest.raises(error, match=words):
        dense_energy_loss(given.pop("images"), given.pop("logits"), given.pop("labels"), **given)


@pytest.mark.parametrize("name", ["logits", "labels"])
def test_other_sizes_are_resized_as_the_error_says(name):
    given = {"images": IMAGES, "logits": LOGITS, "labels": LABELS}
    given[name] = given[name][..., ::2]
    with pytest.raises(ValueError, match=f"{name} has size") as caught:
        dense_energy_loss(**given)
    given[name] = eval(str(caught.value).partition("pass ")[2], {"torch": torch}, given)
    assert dense_energy_loss(**given) < 0


@pytest.mark.parametrize(
    "sigmas", [{"sigma_rgb": 1e-4}, {"sigma_xy": 1e-9}, {"sigma_rgb": 1e-300, "sigma_xy": 1e-300}]
)
def test_too_fine_a_lattice_says_what_is_coarse_enough(sigmas):
    with pytest.raises(ValueError, match="make too fine a lattice: pass larger ones") as caught:
        dense_energy_loss(IMAGES, LOGITS, LABELS, **sigmas)
    fix = dict(part.strip().split("=") for part in str(caught.value).split("e.g. ")[1].split(" and "))
    loss = dense_energy_loss(IMAGES, LOGITS, LABELS, **{name: float(value) for name, value in fix.items()})
    assert loss < 0


def test_huge_deviations_are_as_good_as_infinite():
    everything = dense_energy_loss(IMAGES, LOGITS, LABELS, sigma_rgb=1e200, sigma_xy=1e200)
    assert torch.isfinite(everything)
    assert torch.allclose(everything, dense_energy_loss(IMAGES, LOGITS, LABELS, sigma_rgb=1e9, sigma_xy=1e9))


def test_images_that_are_likely_not_in_grey_levels_are_warned_of():
    with pytest.warns(UserWarning, match="sigma_rgb is 15.*pass sigma_rgb / 255 for images in") as caught:
        dense_energy_loss(IMAGES / 255, LOGITS, LABELS)
    assert caught[0].filename == __file__
    with pytest.warns(UserWarning, match="images lie in .0, 1. but are taken for normalised ones") as caught:
        dense_energy_loss(IMAGES / 255, LOGITS, LABELS, mean=MEAN, std=STD)
    assert caught[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dense_energy_loss(IMAGES / 255, LOGITS, LABELS, sigma_rgb=15 / 255)
        dense_energy_loss(torch.zeros(1, 3, 8, 10), LOGITS, LABELS)
