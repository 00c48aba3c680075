"""The whole step on an accelerator that is pretended: its tensors never meet those of the host."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from photos import photo, scores
from scenes import make_scene, stack

from dhr_refine import (
    DenseCRFLattice,
    PermutohedralLattice,
    Recipe,
    dense_crf,
    pamr,
    par,
    refine_mask,
    refine_steps,
)
from dhr_refine.pydensecrf import use_device
from dhr_refine.pydensecrf.densecrf import NORMALIZE_AFTER, DenseCRF2D

pretend_device = pytest.importorskip("pretend_device", exc_type=ImportError)
DEVICE, PretendDevice = pretend_device.DEVICE, pretend_device.PretendDevice


def move(value):
    if isinstance(value, (list, tuple)):
        return [move(entry) for entry in value]
    return value.to(DEVICE) if isinstance(value, torch.Tensor) else value


def check_equal(function, *args, **options):
    """On the device as on the host, and without leaving it on the way."""
    expected = function(*args, **options)
    with PretendDevice():
        result = function(*move(args), **{key: move(value) for key, value in options.items()})
    pairs = zip(result, expected, strict=True) if isinstance(expected, list) else [(result, expected)]
    for own, wanted in pairs:
        assert own.device == DEVICE
        torch.testing.assert_close(own.host, wanted, atol=2e-3, rtol=1e-3)


SCENES = [make_scene(seed, tags=(2, 6), alike=(2, 6)) for seed in range(2)]
INPUTS = stack(SCENES)[:4]
IMAGES = torch.stack([photo(name, *INPUTS[1].shape[1:]) for name in ("coffee", "astronaut")])
TAGS = torch.zeros(2, 8)
TAGS[:, [2, 6]] = 1


@pytest.mark.parametrize("boundary", [None, "crf", "pamr", "par"])
@pytest.mark.parametrize(
    "recipe", [Recipe(), Recipe.paper(), Recipe.released()], ids=["own", "paper", "code"]
)
def test_the_step(boundary, recipe):
    check_equal(refine_mask, *INPUTS, IMAGES, labels=TAGS, boundary=boundary, recipe=recipe)


def test_boxes_float_images_and_tags_of_the_host():
    boxes = torch.tensor([[2, 3, 50, 22], [0, 0, 30, 30]])
    check_equal(refine_mask, *INPUTS, IMAGES, labels=TAGS, boxes=boxes, box_format="xyxy")
    check_equal(refine_mask, *INPUTS, IMAGES / 255, labels=[[2, 6], [6]])


def test_lists_of_images_of_different_size():
    cams, masks, uss = (list(part) for part in INPUTS[:3])
    levels = [list(level) for level in INPUTS[3]]
    masks[1] = masks[1][:30, :50]
    check_equal(refine_mask, cams, masks, uss, levels, labels=[[2, 6], [6]], boundary=None)


def test_steps():
    with PretendDevice():
        steps = refine_steps(*move(INPUTS), labels=move(TAGS), boundary=None)
    expected = refine_steps(*INPUTS, labels=TAGS, boundary=None)
    torch.testing.assert_close(steps.probs.host, expected.probs, atol=2e-3, rtol=1e-3)
    assert torch.equal(steps.mask.host, expected.mask)


@pytest.mark.parametrize("options", [{}, {"min_prob": 0.3}, {"gauss_sxy": 0.3, "iterations": 3}])
def test_boundary_tools(options):
    probs = scores(5, *IMAGES.shape[2:], batch=2)

    def kept(images, probs):
        lattice = DenseCRFLattice(images, backend="torch", gauss_sxy=options.get("gauss_sxy", 1))
        return dense_crf(images, probs, lattice=lattice, **options)

    check_equal(dense_crf, IMAGES, probs, backend="torch", **options)
    check_equal(kept, IMAGES, probs)
    check_equal(pamr, IMAGES, probs)
    check_equal(par, IMAGES, probs)


@pytest.mark.parametrize("normalization", ["symmetric", "none", "before", "after"])
def test_the_lattice_of_any_features(normalization):
    features, values = torch.randn(2, 4, 9, 7), torch.rand(2, 10, 9, 7)

    def run(features, values):
        return PermutohedralLattice(features, backend="torch").filter(values, normalization=normalization)

    check_equal(run, features, values)


@pytest.fixture
def fields_on_the_device():
    with PretendDevice():
        use_device(DEVICE)
        yield
    use_device("cpu")


def run_field(classes=3):
    """Marginals, another step and the divergence of a field with all kinds of kernels."""
    generator = np.random.default_rng(0)
    image = IMAGES[0, :, :20, :30].permute(1, 2, 0).numpy()
    field = DenseCRF2D(30, 20, classes)
    field.setUnaryEnergy(generator.random((classes, 600)))
    field.addPairwiseGaussian(sxy=2, compat=3)
    field.addPairwiseBilateral(sxy=9, srgb=20, rgbim=image, compat=[-3] * classes)
    features = generator.normal(size=(4, 600))
    field.addPairwiseEnergy(features, np.eye(classes), normalization=NORMALIZE_AFTER)
    marginals = field.inference(3)
    field.stepInference(marginals, None, None)
    return marginals, field.klDivergence(marginals)


def test_fields_of_pydensecrf(fields_on_the_device):
    marginals, divergence = run_field()
    use_device("cpu")
    expected, wanted = run_field()
    assert np.allclose(marginals, expected, atol=1e-4)
    assert abs(divergence - wanted) < 1e-3 * abs(wanted)


def test_the_pretence_holds():
    with PretendDevice():
        ours, host = torch.arange(6.0).to(DEVICE).view(2, 3), torch.ones(2, 3)
        assert ours.device == DEVICE
        assert (ours + 1).sum().item() == 21
        assert ours.cpu().tolist() == ours.tolist() == [[0, 1, 2], [3, 4, 5]]
        ours[:, 1] = 0  # through a view
        assert ours.sum().item() == 10
        assert ours.mul_(2) is ours
        for mixed in (
            lambda: ours + host,
            lambda: ours.add_(host),
            lambda: torch.cat([host, ours]),
            lambda: ours[host.bool()],
        ):
            with pytest.raises(RuntimeError, match="mixes tensors"):
                mixed()
        with pytest.raises((TypeError, RuntimeError)):
            ours.numpy()
