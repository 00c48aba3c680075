"""What fields take, give back, and leave as it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from originals import OURS, original

DCRF = OURS.densecrf
RNG = np.random.default_rng(0)
ENERGIES = np.ascontiguousarray(3 * RNG.random((3, 12 * 10)), dtype=np.float32)
IMAGE = RNG.integers(0, 256, (10, 12, 3)).astype(np.uint8)


def softmax(energies: np.ndarray) -> np.ndarray:
    exponentials = np.exp(-(energies - energies.min(axis=0)).astype(np.float64))
    return exponentials / exponentials.sum(axis=0)


def field(energies: object = ENERGIES, dcrf: object = DCRF):
    made = dcrf.DenseCRF2D(12, 10, 3)
    if energies is not None:
        made.setUnaryEnergy(energies)
    return made


def full(dcrf: object = DCRF, energies: object = ENERGIES, image: object = IMAGE, iterations: int = 5):
    made = field(energies, dcrf)
    made.addPairwiseGaussian(sxy=3, compat=3)
    made.addPairwiseBilateral(sxy=20, srgb=13, rgbim=image, compat=5)
    return np.array(made.inference(iterations))


@pytest.fixture(scope="module")
def usual():
    return full()


# Energies


@pytest.mark.parametrize(
    "form",
    [
        np.float64,
        np.asfortranarray,
        lambda u: np.repeat(u, 2, axis=1)[:, ::2],
        lambda u: u[::-1].copy()[::-1],
        lambda u: u.astype(">f4"),
        np.ndarray.tolist,
        torch.tensor,
    ],
    ids=["float64", "Fortran", "strided", "backwards", "big endian", "list", "tensor"],
)
def test_energies_of_any_type_and_layout(form, usual):
    given = form(ENERGIES)
    before = copy.deepcopy(given)
    np.testing.assert_array_equal(full(energies=given), usual)
    np.testing.assert_array_equal(given, before)


def test_half_precision_and_whole_numbers():
    half = ENERGIES.astype(np.float16)
    np.testing.assert_array_equal(full(energies=half), full(energies=half.astype(np.float32)))
    np.testing.assert_array_equal(full(energies=ENERGIES.astype(int)), full(energies=ENERGIES // 1))
    read_only = ENERGIES.copy()
    read_only.setflags(write=False)
    np.testing.assert_array_equal(full(energies=read_only), full())


def test_energies_are_copied_when_they_are_set():
    given = ENERGIES.copy()
    made = field(given)
    given[:] = 0
    np.testing.assert_allclose(made.inference(0), softmax(ENERGIES), atol=1e-6)


def test_without_terms_the_marginals_are_the_softmax():
    for iterations in (0, 1, 4):
        np.testing.assert_allclose(field().inference(iterations), softmax(ENERGIES), atol=1e-6)


def test_without_iterations_the_marginals_are_the_softmax():
    for iterations in (-3, 0):
        np.testing.assert_allclose(full(iterations=iterations), softmax(ENERGIES), atol=1e-6)


def test_without_energies_all_labels_are_equal():
    made = field(None)
    np.testing.assert_allclose(made.inference(2), 1 / 3)
    made.addPairwiseGaussian(sxy=2, compat=3)
    np.testing.assert_allclose(made.inference(2), 1 / 3, atol=1e-6)


def test_energies_are_replaced_and_terms_are_kept(usual):
    made = field(np.zeros_like(ENERGIES))
    made.addPairwiseGaussian(sxy=3, compat=3)
    made.addPairwiseBilateral(sxy=20, srgb=13, rgbim=IMAGE, compat=5)
    made.inference(2)
    made.setUnaryEnergy(ENERGIES)
    np.testing.assert_array_equal(made.inference(5), usual)


@pytest.mark.parametrize("interface", ["ours", "original"])
def test_the_kinds_of_energies(interface):
    """f turns u into weights of features; in the original as many as there are pixels."""
    dcrf = OURS.densecrf if interface == "ours" else original().densecrf
    weights = RNG.standard_normal((3, 7)).astype(np.float32)
    features = RNG.standard_normal((7, 120)).astype(np.float32)
    made = dcrf.DenseCRF2D(12, 10, 3)
    made.setUnary(dcrf.LogisticUnary(weights, features))
    np.testing.assert_allclose(made.inference(0), softmax(weights @ features), atol=1e-5)
    made.setUnary(dcrf.ConstUnary(ENERGIES))
    np.testing.assert_allclose(made.inference(0), softmax(ENERGIES), atol=1e-6)
    square = RNG.standard_normal((120, 120)).astype(np.float32)
    made.setUnaryEnergy(ENERGIES, square)
    np.testing.assert_allclose(made.inference(0), softmax(ENERGIES @ square), atol=1e-4)


def test_kinds_of_energies_can_be_used_again():
    """In the original an energy belongs to the first field that takes it, and is empty for a second one."""
    unary = DCRF.ConstUnary(ENERGIES.astype(np.float64))
    for _ in range(2):
        made = DCRF.DenseCRF(120, 3)
        made.setUnary(unary)
        np.testing.assert_allclose(made.inference(0), softmax(ENERGIES), atol=1e-6)
    made.setUnaryEnergy(np.ones((3, 2)), f=np.ones((2, 120)))
    np.testing.assert_allclose(made.inference(0), 1 / 3)


def test_impossible_labels():
    energies = ENERGIES.copy()
    energies[1:, :40] = np.inf
    energies[2, 40:80] = np.inf
    result = full(energies=energies)
    np.testing.assert_array_equal(result[:, :40], np.array([[1], [0], [0]]).repeat(40, axis=1))
    assert (result[2, 40:80] == 0).all()
    np.testing.assert_allclose(result, full(original().densecrf, energies), atol=1e-4)


def test_pixels_without_a_possible_label_count_as_unsure():
    """The original makes NaN of them."""
    energies, unsure = ENERGIES.copy(), ENERGIES.copy()
    energies[:, 5:30] = np.inf
    unsure[:, 5:30] = 0
    np.testing.assert_allclose(field(energies).inference(0)[:, 5:30], 1 / 3)
    np.testing.assert_array_equal(full(energies=energies), full(energies=unsure))
    assert np.isfinite(field(energies).klDivergence(full(energies=energies)))


def test_large_energies_are_no_danger():
    for size in (1e30, 1e300):
        result = full(energies=np.where(ENERGIES > 1, size, ENERGIES.astype(np.float64)))
        assert np.isfinite(result).all()
        np.testing.assert_allclose(result.sum(axis=0), 1, atol=1e-5)
    np.testing.assert_allclose(field(np.full((3, 120), 3e38)).inference(1), 1 / 3)


@pytest.mark.usefixtures("without_numba", "one_thread")
def test_without_numba(usual):
    np.testing.assert_allclose(full(), usual, atol=1e-4)
    made = field()
    made.addPairwiseEnergy(FEATURES, compat=[-1, -2, -3], normalization=DCRF.NORMALIZE_BEFORE)
    q, *tmp = made.startInference()
    made.stepInference(q, *tmp)
    np.testing.assert_allclose(q, made.inference(1), atol=1e-6)
    assert np.isfinite(made.klDivergence(q))


# Images, features and weights


@pytest.mark.parametrize(
    "form",
    [
        np.asfortranarray,
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        lambda a: a[::-1].copy()[::-1],
        np.float64,
        np.int64,
        np.ndarray.tolist,
    ],
    ids=["Fortran", "strided", "backwards", "float64", "int64", "list"],
)
def test_images_of_any_type_and_layout(form, usual):
    given = form(IMAGE)
    before = copy.deepcopy(given)
    np.testing.assert_array_equal(full(image=given), usual)
    np.testing.assert_array_equal(given, before)


def test_images_may_change_after_they_are_given(usual):
    image = IMAGE.copy()
    made = field()
    made.addPairwiseGaussian(sxy=3, compat=3)
    made.addPairwiseBilateral(sxy=20, srgb=13, rgbim=image, compat=5)
    image[:] = 0
    np.testing.assert_array_equal(made.inference(5), usual)


def test_positional_arguments_in_the_order_of_the_original(usual):
    made = field()
    made.addPairwiseGaussian(3, 3, DCRF.DIAG_KERNEL, DCRF.NORMALIZE_SYMMETRIC)
    made.addPairwiseBilateral(20, 13, IMAGE, 5, DCRF.FULL_KERNEL, DCRF.NORMALIZE_SYMMETRIC)
    np.testing.assert_array_equal(made.inference(5), usual)


@pytest.mark.parametrize("sxy", [(2, 7), [2, 7], np.array([2, 7]), np.array([2.0, 7.0], np.float32)])
def test_deviations_are_x_and_y(sxy):
    results = []
    for dcrf in (DCRF, original().densecrf):
        made = field(dcrf=dcrf)
        made.addPairwiseGaussian(sxy=sxy, compat=4)
        made.addPairwiseBilateral(sxy=sxy, srgb=(50, 30, 90), rgbim=IMAGE, compat=4)
        results.append(np.array(made.inference(5)))
    np.testing.assert_allclose(*results, atol=1e-4)


def test_infinite_deviations_leave_an_axis_out():
    results = []
    for dcrf in (DCRF, original().densecrf):
        made = field(dcrf=dcrf)
        made.addPairwiseGaussian(sxy=(np.inf, 3), compat=4)
        results.append(np.array(made.inference(5)))
    np.testing.assert_allclose(*results, atol=1e-4)


FEATURES = OURS.utils.create_pairwise_bilateral((5, 5), (13, 13, 13), IMAGE, chdim=2)


@pytest.mark.parametrize(
    "form", [np.float64, np.asfortranarray, np.ndarray.tolist], ids=["float64", "Fortran", "list"]
)
def test_features_of_any_type_and_layout(form):
    results = []
    for features in (FEATURES, form(FEATURES)):
        made = field()
        made.addPairwiseEnergy(features, compat=3)
        results.append(made.inference(4))
    np.testing.assert_array_equal(*results)


def add_gaussian(compat: object, dcrf: object = DCRF) -> np.ndarray:
    made = field(dcrf=dcrf)
    made.addPairwiseGaussian(sxy=3, compat=compat)
    return np.array(made.inference(4))


def test_forms_of_compat():
    potts = add_gaussian(3)
    for same in (3.0, np.float32(3), np.int64(3), np.array(3.0)):
        np.testing.assert_array_equal(add_gaussian(same), potts)
    for same in (np.full(3, -3), -3 * np.eye(3), [-3, -3, -3], np.full(3, -3, np.float16)):
        np.testing.assert_allclose(add_gaussian(same), potts, atol=1e-5)
    lopsided = np.array([[0, 3, 1], [1, 0, 2], [3, 4, 0]], np.float32)
    symmetric = (lopsided + lopsided.T) / 2
    np.testing.assert_array_equal(add_gaussian(lopsided), add_gaussian(symmetric))
    for matrix in (lopsided, symmetric, np.array([1, -2, 0.5], np.float32)):
        theirs = add_gaussian(matrix, original().densecrf)
        for same in (matrix, matrix.astype(np.float64), np.asfortranarray(matrix), matrix.tolist()):
            np.testing.assert_allclose(add_gaussian(same), theirs, atol=1e-5)


def test_weights_may_change_after_they_are_given():
    weights = np.array([-1, -2, -3], np.float32)
    made = field()
    made.addPairwiseGaussian(sxy=3, compat=weights)
    weights[:] = 100
    np.testing.assert_array_equal(made.inference(4), add_gaussian([-1, -2, -3]))


def test_compat_of_one_number_is_not_that_of_a_sum():
    """Terms add up, in any order."""
    many = [("addPairwiseGaussian", {"sxy": 2, "compat": w}) for w in (1, 2)]
    many.append(("addPairwiseBilateral", {"sxy": 9, "srgb": 20, "rgbim": IMAGE, "compat": 4}))
    results = []
    for calls in (many, many[::-1]):
        made = field()
        for name, arguments in calls:
            getattr(made, name)(**arguments)
        results.append(made.inference(5))
    made = field()
    made.addPairwiseGaussian(sxy=2, compat=3)
    made.addPairwiseBilateral(9, 20, IMAGE, 4)
    np.testing.assert_allclose(results[0], results[1], atol=1e-5)
    np.testing.assert_allclose(results[0], made.inference(5), atol=1e-5)


# Results


def test_marginals_are_an_array_of_the_caller(usual):
    made = field()
    q = made.inference(3)
    assert type(q) is np.ndarray
    assert q.shape == (3, 120)
    assert q.dtype == np.float32
    assert q.flags.writeable
    assert isinstance(q, OURS.eigen.MatrixXf)
    assert memoryview(q).shape == (3, 120)
    np.testing.assert_array_equal(np.argmax(q, axis=0).reshape(10, 12), q.reshape(3, 10, 12).argmax(axis=0))
    q[:] = 7
    np.testing.assert_allclose(made.inference(3).sum(axis=0), 1, atol=1e-5)
    np.testing.assert_array_equal(full(), usual)


def test_steps_are_those_of_inference(usual):
    made = field()
    made.addPairwiseGaussian(sxy=3, compat=3)
    made.addPairwiseBilateral(sxy=20, srgb=13, rgbim=IMAGE, compat=5)
    q, tmp1, tmp2 = made.startInference()
    np.testing.assert_allclose(q, softmax(ENERGIES), atol=1e-6)
    assert tmp1.shape == tmp2.shape == (0, 0)
    divergences = [made.klDivergence(q)]
    for _ in range(5):
        made.stepInference(q, tmp1, tmp2)
        divergences.append(made.klDivergence(q))
    np.testing.assert_allclose(q, usual, atol=1e-5)
    assert isinstance(divergences[0], float)
    assert divergences[-1] < divergences[0]


def test_steps_change_any_array_in_place():
    made = field()
    made.addPairwiseGaussian(sxy=3, compat=3)
    q, *tmp = made.startInference()
    others = [np.asfortranarray(q), q.astype(np.float64)]
    made.stepInference(q, *tmp)
    for other in others:
        made.stepInference(other, *tmp)
        np.testing.assert_allclose(other, q, atol=1e-6)


def test_divergence_in_numbers():
    """Without terms: the divergence from the softmax, up to the sum of its normalisers."""
    for energies in (ENERGIES, 7 * ENERGIES):  # marginals of nearly nothing too
        made = field(energies)
        assert made.klDivergence(softmax(energies)) == pytest.approx(
            -np.log(np.exp(-energies.astype(np.float64)).sum(axis=0)).sum(), rel=1e-5
        )
    made = field()
    sure = np.zeros_like(ENERGIES)
    sure[1] = 1
    assert made.klDivergence(sure) == pytest.approx(ENERGIES[1].sum(), rel=1e-5)
    made.setUnaryEnergy(np.where(sure == 1, ENERGIES, np.inf))
    assert made.klDivergence(sure) == pytest.approx(ENERGIES[1].sum(), rel=1e-5)


@pytest.mark.parametrize(
    ("width", "height", "labels"), [(0, 10, 3), (1, 1, 3), (7, 1, 2), (1, 5, 2), (12, 10, 1)]
)
def test_fields_of_hardly_anything(width, height, labels):
    made = DCRF.DenseCRF2D(width, height, labels)
    made.setUnaryEnergy(np.ones((labels, height * width)))
    made.addPairwiseGaussian(sxy=3, compat=3)
    made.addPairwiseBilateral(3, 3, np.zeros((height, width, 3), np.uint8), 3)
    q = made.inference(2)
    assert q.shape == (labels, height * width)
    np.testing.assert_allclose(q, 1 / labels, atol=1e-6)
    made.stepInference(q, None, None)
    assert np.isfinite(made.klDivergence(q))


def test_sizes_are_cut_to_whole_numbers():
    made = DCRF.DenseCRF2D(25 / 2, np.float32(10), np.int64(3))
    made.setUnaryEnergy(ENERGIES)
    np.testing.assert_array_equal(made.inference(1.9), field().inference(1))


def test_names_of_the_original():
    theirs = original()
    for name in ("densecrf", "utils", "eigen"):
        module = getattr(theirs, name)
        public = {one for one in vars(module) if not one.startswith("_")} - {
            "np",
            "Number",
            "eigen",
            "warning",
        }
        assert public <= set(vars(getattr(OURS, name)))
    for kind in ("KernelType", "NormalizationType"):
        mine, real = getattr(OURS.densecrf, kind), getattr(theirs.densecrf, kind)
        assert [(one.name, int(one)) for one in mine] == [(one.name, int(one)) for one in real]
        for one in real:
            assert getattr(OURS.densecrf, one.name) == one == getattr(mine, one.name)


@pytest.mark.parametrize("compat", [1e15, -1e15, np.full((3, 3), 1e15), np.full(3, 1e15)])
def test_the_largest_weights_and_marginals_are_no_danger(compat):
    made = field()
    for normalization in DCRF.NormalizationType:
        made.addPairwiseGaussian(sxy=3, compat=compat, normalization=normalization)
    marginals, *tmp = made.startInference()
    marginals[:] = 9999
    made.stepInference(marginals, *tmp)
    for result in (marginals, made.inference(3)):
        np.testing.assert_allclose(result.sum(0), 1, atol=1e-5)
