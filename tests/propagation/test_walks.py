"""The walk: what it keeps, what it takes, its gradients, its errors."""

from __future__ import annotations

import copy
import pickle
import re

import numpy as np
import pytest
import torch
import walk_reference as reference
from hypothesis import given
from hypothesis import strategies as st

from dhr_refine import base_mask, random_walk
from dhr_refine.propagation import (
    Affinity,
    attention_affinity,
    edge_affinity,
    feature_affinity,
    pairwise_affinity,
)
from dhr_refine.propagation.polynomial import apply_power, chances, find_degree

pytestmark = pytest.mark.usefixtures("one_thread")
SIDES = st.integers(1, 6)
KINDS = ("edges", "near", "all", "pairs", "attention")


def affinity_of(kind, maps):
    """An affinity of (D, h, w) random numbers in [0, 1]."""
    grid = tuple(maps.shape[1:])
    if kind == "edges":
        return edge_affinity(maps[0], gate=False)
    if kind in ("near", "all"):
        return feature_affinity(maps - 0.4, radius=2.5 if kind == "near" else None, beta=3)
    vectors = maps.flatten(1)
    if kind == "pairs":
        return pairwise_affinity(vectors.mT @ vectors, grid=grid)
    return attention_affinity((vectors.mT @ vectors.roll(1, 0)).softmax(1), grid=grid, rounds=40)


@given(SIDES, SIDES, st.sampled_from(KINDS[:-1]), st.integers(0, 300), st.floats(-9, 9))
def test_a_constant_stays_what_it_is(height, width, kind, steps, value):
    affinity = affinity_of(kind, torch.rand(3, height, width))
    cams = torch.full((2, height, width), value)
    torch.testing.assert_close(random_walk(cams, affinity, steps=steps), cams)


@given(SIDES, SIDES, st.sampled_from(KINDS), st.integers(0, 99), st.integers(0, 99))
def test_steps_add_up(height, width, kind, first, second):
    affinity = affinity_of(kind, torch.rand(3, height, width))
    cams = torch.rand(2, height, width, dtype=torch.float64)
    parts = random_walk(random_walk(cams, affinity, steps=first), affinity, steps=second)
    whole = random_walk(cams, affinity, steps=first + second)
    torch.testing.assert_close(parts, whole, atol=1e-8, rtol=0)


@given(SIDES, SIDES, st.sampled_from(KINDS), st.integers(0, 40), st.sampled_from([None, 0.4]))
def test_classes_walk_alone(height, width, kind, steps, within):
    affinity = affinity_of(kind, torch.rand(3, height, width))
    cams = torch.rand(3, height, width, dtype=torch.float64)
    together = random_walk(cams, affinity, steps=steps, within=within)
    order = [2, 0, 1]
    permuted = random_walk(cams[order], affinity, steps=steps, within=within)
    torch.testing.assert_close(permuted, together[order], atol=1e-12, rtol=0)
    alone = random_walk(5 * cams[:1], affinity, steps=steps, within=within)
    torch.testing.assert_close(alone, 5 * together[:1], atol=1e-11, rtol=0)


@given(SIDES, SIDES, st.sampled_from(KINDS), st.sampled_from([(-1,), (-2,), (-2, -1)]))
def test_a_flipped_image_has_flipped_scores(height, width, kind, axes):
    maps, cams = torch.rand(3, height, width), torch.rand(2, height, width, dtype=torch.float64)
    walked = random_walk(cams, affinity_of(kind, maps), within=0.5)
    flipped = random_walk(cams.flip(axes), affinity_of(kind, maps.flip(axes)), within=0.5)
    torch.testing.assert_close(flipped.flip(axes), walked, atol=1e-5, rtol=0)


@given(SIDES, SIDES, st.sampled_from(KINDS[:-1]), st.integers(0, 300))
def test_scores_stay_between_the_lowest_and_the_highest(height, width, kind, steps):
    affinity = affinity_of(kind, torch.rand(3, height, width))
    cams = torch.randn(2, height, width, dtype=torch.float64)
    walked = random_walk(cams, affinity, steps=steps).flatten(1)
    assert bool((walked.amax(1) <= cams.flatten(1).amax(1) + 1e-8).all())
    assert bool((walked.amin(1) >= cams.flatten(1).amin(1) - 1e-8).all())


@pytest.mark.parametrize("power", [0, 1, 2, 7, 64, 256, 4096])
def test_powers_are_powers(power):
    places = torch.linspace(-1, 1, 301, dtype=torch.float64)
    calls = []

    def average(maps):
        calls.append(1)
        return maps * places

    result = apply_power(average, torch.ones_like(places), power, 1e-12)
    torch.testing.assert_close(result, places**power, atol=1.1e-12, rtol=0)  # and roundings
    assert len(calls) == find_degree(power, 1e-12)
    assert sum(chances(power)) == pytest.approx(1)


@pytest.mark.parametrize("power", [255, 256, 4096])
@pytest.mark.parametrize("error", [1e-3, 1e-6, 1e-9])
def test_a_short_sum_is_as_near_as_it_says(power, error):
    places = torch.linspace(-1, 1, 2001, dtype=torch.float64)
    result = apply_power(lambda maps: maps * places, torch.ones_like(places), power, error)
    assert float((result - places**power).abs().max()) <= error + 1e-12


def test_many_steps_cost_few_products():
    assert find_degree(256, 1e-12) < 120
    assert find_degree(64, 1e-12) < 60
    assert find_degree(4, 1e-12) == 4
    assert find_degree(0, 1e-12) == 0


def test_affinities_of_very_different_cells_are_walked_exactly():
    """What a short sum leaves out weighs more where a cell has little affinity."""
    matrix = torch.rand(30, 30, dtype=torch.float64)
    scale = 10.0 ** torch.linspace(-7, 0, 30, dtype=torch.float64)
    matrix = (matrix + matrix.mT) * scale * scale[:, None]
    cams = torch.rand(2, 5, 6, dtype=torch.float64)
    wanted = reference.walk(cams.numpy(), reference.transition(matrix.numpy()), 256)
    walked = random_walk(cams, pairwise_affinity(matrix, grid=(5, 6), beta=1), steps=256)
    np.testing.assert_allclose(walked, wanted, atol=1e-8)


@pytest.mark.parametrize("share", [0.0, 0.4, 0.8, 1.0])
def test_boxes_are_around_cells_that_touch(share):
    cams = torch.rand(2, 4, 8, 9).pow(4)
    cams[0, 1] = 0
    cams[1, 2] = -cams[1, 2]
    still = feature_affinity(torch.eye(72).view(72, 8, 9).expand(2, 72, 8, 9))  # no cell is like another
    walked = random_walk(cams, still, within=share)
    for image in range(2):
        for one, kept in zip(cams[image], walked[image], strict=True):
            wanted = one.numpy() * reference.box_mask(one.numpy(), share)
            np.testing.assert_allclose(kept.numpy(), wanted, atol=1e-7)
    assert not bool(walked[0, 1].any())
    assert not bool(walked[1, 2].any())


def test_two_cells_at_a_corner_share_a_box():
    cams = torch.zeros(1, 4, 4)
    cams[0, 1, 1] = cams[0, 2, 2] = 1.0
    cams[0, 1, 2] = 0.1
    still = feature_affinity(torch.eye(16).view(16, 4, 4))
    assert float(random_walk(cams, still, within=0.4)[0, 1, 2]) == pytest.approx(0.1)


def test_cams_of_another_size_come_to_the_grid():
    still = feature_affinity(torch.eye(12).view(12, 3, 4))
    cams = torch.rand(2, 9, 8)
    means = cams.unfold(1, 3, 3).unfold(2, 2, 2).mean((3, 4))  # PSA and SEAM take means of 8 x 8 pixels
    torch.testing.assert_close(random_walk(cams, still), means)
    small = torch.rand(2, 2, 2)
    enlarged = torch.nn.functional.interpolate(small[None], (3, 4), mode="bilinear")[0]
    torch.testing.assert_close(random_walk(small, still), enlarged)
    mixed = random_walk(torch.rand(2, 9, 2), still)
    assert mixed.shape == (2, 3, 4)


def test_one_cell_no_class_and_no_image():
    one = edge_affinity(torch.rand(1, 1))
    assert random_walk(torch.ones(2, 5, 5), one).shape == (2, 1, 1)
    assert random_walk(torch.ones(0, 5, 5), one).shape == (0, 1, 1)
    for none in (edge_affinity(torch.rand(0, 4, 5)), feature_affinity(torch.rand(0, 3, 4, 5))):
        assert none.matrix().shape == (0, 20, 20)
        assert random_walk(torch.ones(0, 2, 4, 5), none).shape == (0, 2, 4, 5)
    assert random_walk([], []) == []


def test_nothing_stays_nothing():
    walked = random_walk(torch.zeros(2, 4, 5), edge_affinity(torch.ones(4, 5)), within=0.4)
    assert not bool(walked.any())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [2, 40])
def test_gradients_flow_to_the_cams(kind, steps):
    affinity = affinity_of(kind, torch.rand(3, 3, 4))
    cams = torch.rand(1, 2, 3, 4, dtype=torch.float64, requires_grad=True)

    def walk(cams):
        return random_walk(cams, affinity, steps=steps)

    assert torch.autograd.gradcheck(walk, (cams,))
    assert torch.autograd.gradgradcheck(walk, (cams,))


def test_gradients_pass_gates_boxes_and_sizes():
    affinity = edge_affinity(torch.rand(3, 4))
    cams = torch.rand(2, 6, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda cams: random_walk(cams, affinity, within=0.6), (cams,))


def test_an_affinity_of_inference_mode_serves_training():
    edges, cams = torch.rand(3, 4), torch.rand(2, 3, 4, dtype=torch.float64, requires_grad=True)
    with torch.inference_mode():
        affinity = edge_affinity(edges)
    assert torch.autograd.gradcheck(lambda cams: random_walk(cams, affinity), (cams,))
    assert torch.autograd.gradgradcheck(lambda cams: random_walk(cams, affinity), (cams,))


def test_modes_and_settings_of_the_caller():
    edges, cams = torch.rand(2, 4, 5), torch.rand(2, 3, 4, 5)
    kept = edges.clone(), cams.clone()
    wanted = random_walk(cams, edge_affinity(edges))
    with torch.inference_mode():
        torch.testing.assert_close(random_walk(cams, edge_affinity(edges)), wanted)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(random_walk(cams, edge_affinity(edges)), wanted)
        features = torch.randn(2, 6, 4, 5)
        alike = random_walk(cams, feature_affinity(features))
    torch.testing.assert_close(random_walk(cams, feature_affinity(features)), alike)
    torch.set_default_dtype(torch.float64)
    try:
        assert torch.equal(random_walk(cams, edge_affinity(edges)), wanted)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(edges, kept[0])
    assert torch.equal(cams, kept[1])
    walked = random_walk(cams, edge_affinity(edges), steps=0)
    walked += 1  # an ordinary tensor, not the caller's
    assert torch.equal(cams, kept[1])
    torch.testing.assert_close(random_walk(cams.mT.contiguous().mT, edge_affinity(edges)), wanted)


def test_no_step_gives_a_copy():
    cams = torch.rand(2, 4, 5, dtype=torch.float64)
    for kind in KINDS:
        walked = random_walk(cams, affinity_of(kind, torch.rand(3, 4, 5)), steps=0)
        assert torch.equal(walked, cams)
        walked += 1
        assert float(cams.amax()) <= 1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_callers_get_the_same():
    affinity, cams = edge_affinity(torch.rand(4, 5)), torch.rand(2, 4, 5)
    compiled = torch.compile(lambda cams: random_walk(cams * 2, affinity) + 1, backend="eager")
    torch.testing.assert_close(compiled(cams), random_walk(cams * 2, affinity) + 1)


def test_irn_masks_from_walked_cams():
    """The lines of the docs: joint maximum, 0.25 as the background's score."""
    edges = torch.zeros(6, 12)
    edges[:, 6] = 1.0
    cams = torch.zeros(2, 6, 12)
    cams[0, 2, 2], cams[1, 3, 9] = 1.0, 0.9
    walked = random_walk(cams, edge_affinity(edges))
    scores = walked / walked.amax()
    mask = base_mask(scores, [3, 7], background=0.25, normalise=False)
    assert bool((mask[:, :6] == 4).all())
    assert bool((mask[:, 7:] == 8).all())
    assert bool((mask[:, 6] == 0).all())


CAMS, AFFINITY = torch.rand(2, 3, 4, 5), edge_affinity(torch.rand(2, 4, 5))


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (
            lambda: random_walk(CAMS, torch.rand(4, 5)),
            TypeError,
            "affinity must be an Affinity, got a torch.f",
        ),
        (lambda: random_walk(CAMS, None), TypeError, "affinity must be an Affinity, got NoneType None: make"),
        (lambda: random_walk(CAMS, [AFFINITY]), TypeError, "affinity must be an Affinity, got list"),
        (lambda: random_walk(CAMS.numpy(), AFFINITY), TypeError, "cams must be a tensor (B, C, h, w)"),
        (lambda: random_walk("cams", AFFINITY), TypeError, "cams must be a tensor (B, C, h, w)"),
        (lambda: random_walk(CAMS[0, 0], AFFINITY), ValueError, "cams must have shape (B, C, h, w)"),
        (lambda: random_walk(CAMS.long(), AFFINITY), TypeError, "cams must be floating point"),
        (lambda: random_walk(CAMS * torch.nan, AFFINITY), ValueError, "cams holds NaN or infinity"),
        (lambda: random_walk(CAMS * 1e30, AFFINITY), ValueError, "cams holds numbers too large"),
        (lambda: random_walk(CAMS[:, :, :0], AFFINITY), ValueError, "cams is empty"),
        (lambda: random_walk(CAMS[:1], AFFINITY), ValueError, "cams has 1 image(s) but affinity has 2"),
        (lambda: random_walk(CAMS[0], AFFINITY), ValueError, "cams has 1 image(s) but affinity has 2"),
        (
            lambda: random_walk([CAMS[0]], AFFINITY),
            ValueError,
            "cams is a list of 1 but affinity is Affinity",
        ),
        (lambda: random_walk([CAMS[0]], []), ValueError, "cams is a list of 1 but affinity is a list of 0"),
        (lambda: random_walk([CAMS], [AFFINITY]), ValueError, "cams[0] must have shape (C, h, w)"),
        (
            lambda: random_walk([CAMS[0]], [AFFINITY]),
            ValueError,
            "cams[0] has 1 image(s) but affinity[0] has 2",
        ),
        (lambda: random_walk([CAMS[0]], ["x"]), TypeError, "affinity[0] must be an Affinity"),
        (lambda: random_walk(CAMS, AFFINITY, steps=-1), ValueError, "steps must be at least 0, got -1"),
        (lambda: random_walk(CAMS, AFFINITY, steps=10**12), ValueError, "steps must lie in [0, 1048576]"),
        (lambda: random_walk(CAMS, AFFINITY, steps=2.0), TypeError, "steps must be an int"),
        (lambda: random_walk(CAMS, AFFINITY, within=1.5), ValueError, "within must lie in [0.0, 1.0]"),
        (lambda: random_walk(CAMS, AFFINITY, within="0.4"), TypeError, "within must be a number"),
        (
            lambda: random_walk(CAMS.to("meta"), AFFINITY),
            TypeError,
            "cams is on the meta device, which holds no",
        ),
    ],
)
def test_what_is_wrong_is_told(call, error, text):
    with pytest.raises(error, match=re.escape(text)):
        call()


def test_devices_do_not_mix(device):
    if device.type == "cpu":
        pytest.skip("needs two devices")
    with pytest.raises(
        ValueError, match=r"cams is on .* but affinity on cpu: make the affinity on the device"
    ):
        random_walk(CAMS.to(device), AFFINITY)


def test_an_affinity_shows_its_shape_and_not_its_numbers():
    assert repr(AFFINITY) == "Affinity(grid=(4, 5), steps=256)"
    assert isinstance(AFFINITY, Affinity)
    assert AFFINITY.images == 2
    assert AFFINITY.device.type == "cpu"


@pytest.mark.parametrize(
    "make", [lambda: edge_affinity(torch.rand(2, 4, 5)), lambda: feature_affinity(torch.rand(2, 3, 4, 5))]
)
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda affinity: pickle.loads(pickle.dumps(affinity))])
def test_copies_of_an_affinity_walk_the_same_and_lie_apart(make, clone):
    affinity, cams = make(), torch.rand(2, 3, 4, 5)
    wanted, copied = random_walk(cams, affinity), clone(affinity)
    assert torch.equal(random_walk(cams, copied), wanted)
    copied.averages.weights.zero_()
    assert torch.equal(random_walk(cams, affinity), wanted)
