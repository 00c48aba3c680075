"""Every error names the argument, what came, and a fix."""

from __future__ import annotations

import re

import numpy as np
import pytest
from originals import OURS

from dhr_refine.pydensecrf import use_device

DCRF, UTILS, EIGEN = OURS
WIDTH, HEIGHT, LABELS = 4, 3, 2
U = np.ones((LABELS, HEIGHT * WIDTH), np.float32)
IMAGE = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
LABELMAP = np.array([[0, 1, 2], [2, 1, 0]])


def holding(array: np.ndarray, number: float) -> np.ndarray:
    """The array as floats, with a number somewhere."""
    changed = array.astype(np.float32)
    changed.flat[1] = number
    return changed


def field():
    return DCRF.DenseCRF2D(WIDTH, HEIGHT, LABELS)


FIELDS = {
    "size as a text": (
        lambda: DCRF.DenseCRF2D("4", 3, 2),
        TypeError,
        "w must be a whole number, got str '4'",
    ),
    "size of nothing": (
        lambda: DCRF.DenseCRF(None, 2),
        TypeError,
        "nvar must be a whole number, got NoneType",
    ),
    "size of NaN": (
        lambda: DCRF.DenseCRF(np.nan, 2),
        TypeError,
        "nvar must be a whole number, got float nan",
    ),
    "size below 0": (
        lambda: DCRF.DenseCRF2D(4, -3, 2),
        ValueError,
        "h must be at least 0, got -3: pass 0 or",
    ),
    "no label": (
        lambda: DCRF.DenseCRF(4, 0),
        ValueError,
        "nlabels must be at least 1, got 0: pass 1 or more",
    ),
    "iterations": (lambda: field().inference("a"), TypeError, "niter must be a whole number, got str 'a'"),
}
ENERGIES = {
    "text": (np.array([["a"]]), TypeError, "u must be energies (2, 12), got a NumPy <U1 array"),
    "nothing": (None, TypeError, "u must be energies (2, 12), got NoneType None: pass real numbers"),
    "complex": (U * 1j, TypeError, "u must be energies (2, 12), got a NumPy complex64 array"),
    "transposed": (
        U.T,
        ValueError,
        "u must have shape (n_labels, n_pixels) = (2, 12), got (12, 2): pass u.T",
    ),
    "maps": (U.reshape(2, 3, 4), ValueError, "got (2, 3, 4): pass u.reshape(2, -1)"),
    "channels last": (
        np.ones((3, 4, 2)),
        ValueError,
        "got (3, 4, 2): pass np.moveaxis(u, -1, 0).reshape(2, -1)",
    ),
    "other size": (
        U[:, 1:],
        ValueError,
        "got (2, 11): pass one row for each label, one column for each pixel",
    ),
    "NaN": (holding(U, np.nan), ValueError, "u has NaN: pass finite energies, or +inf where"),
    "-inf": (holding(U, -np.inf), ValueError, "u has -inf: pass energies, -log(probability)"),
    "beyond float32": (U.astype(np.float64) - 1e300, ValueError, "u has -inf"),
}
IMAGES = {
    "text": ("photo.png", TypeError, "rgbim must be an image (3, 4, 3), got str 'photo.png': pass real"),
    "channels first": (
        np.zeros((3, 3, 4)),
        ValueError,
        "rgbim must have shape (h, w, 3) = (3, 4, 3), got a NumPy float64 array of shape (3, 3, 4): "
        "pass np.moveaxis(rgbim, 0, -1)",
    ),
    "sizes swapped": (
        np.zeros((4, 3, 3)),
        ValueError,
        "pass w = rgbim.shape[1] and h = rgbim.shape[0] to Dense",
    ),
    "grey": (IMAGE[..., 0], ValueError, "pass features of other than three channels to addPairwiseEnergy"),
    "four channels": (np.zeros((3, 4, 4)), ValueError, "utils.create_pairwise_bilateral makes them"),
    "other size": (
        IMAGE[1:],
        ValueError,
        "pass an RGB image of the size given to DenseCRF2D(w, h, n_labels)",
    ),
    "0..1": (
        IMAGE + 0.5,
        ValueError,
        "rgbim must hold whole numbers of 0..255, got a NumPy float64 array of shape (3, 4, 3) with others: "
        "pass (255 * rgbim).round().astype(np.uint8) if they lie in 0..1, or give them, with srgb in their "
        "own units, to utils.create_pairwise_bilateral and addPairwiseEnergy",
    ),
    "above 255": (IMAGE + np.int16(256), ValueError, "rgbim must hold whole numbers of 0..255"),
    "below 0": (IMAGE - np.int16(1), ValueError, "rgbim must hold whole numbers of 0..255"),
    "NaN": (holding(IMAGE, np.nan), ValueError, "rgbim must hold whole numbers of 0..255"),
}
FEATURES = {
    "text": ("a", TypeError, "features must be an array (d, n_pixels), got str 'a'"),
    "transposed": (
        np.ones((12, 2)),
        ValueError,
        "features must have shape (d, n_pixels) = (d, 12) with d above 0, got (12, 2): pass features.T",
    ),
    "other size": (np.ones((2, 11)), ValueError, "got (2, 11): pass one row for each feature, one column"),
    "no features": (np.ones((0, 12)), ValueError, "with d above 0, got (0, 12)"),
    "maps": (np.ones((2, 3, 4)), ValueError, "features must have shape (d, n_pixels), got a NumPy float64"),
    "NaN": (holding(U, np.nan), ValueError, "features has NaN or infinite numbers: pass finite ones"),
    "inf": (holding(U, np.inf), ValueError, "features has NaN or infinite numbers"),
    "-inf": (holding(U, -np.inf), ValueError, "features has NaN or infinite numbers"),
}
COMPATS = {
    "text": ("a", TypeError, "compat must be a number, a vector or a matrix of numbers, got str 'a'"),
    "nothing": (None, TypeError, "compat must be a number, a vector or a matrix of numbers, got NoneType"),
    "vector": (
        np.ones(3),
        ValueError,
        "compat must be a number, or have shape (2,) or (2, 2) for 2 labels, got a NumPy float64 array of "
        "shape (3,): pass a number for Potts' model, a vector for a diagonal, or a matrix",
    ),
    "matrix": (np.ones((2, 3)), ValueError, "or have shape (2,) or (2, 2) for 2 labels, got a NumPy"),
    "cube": (np.ones((2, 2, 2)), ValueError, "or have shape (2,) or (2, 2) for 2 labels, got a NumPy"),
    "NaN": (np.nan, ValueError, "compat must be finite and lie within 1e+15 of 0, got float nan: pass"),
    "inf": (np.array([1, np.inf]), ValueError, "lie within 1e+15 of 0, got a NumPy float64 array"),
    "beyond float32": (1e300, ValueError, "lie within 1e+15 of 0, got float 1e+300: pass smaller numbers"),
    "beyond energies": (np.full((2, 2), -3e38), ValueError, "lie within 1e+15 of 0, got a NumPy float64"),
}
SXYS = {
    "text": ("a", TypeError, "sxy must be a number or 2 of them (x, y), got str 'a'"),
    "nothing": (None, TypeError, "sxy must be a number or 2 of them (x, y), got NoneType None"),
    "three": (
        (3, 3, 3),
        ValueError,
        "sxy must be a number or 2 of them (x, y), got tuple (3, 3, 3): pass one",
    ),
    "one": ([3], ValueError, "sxy must be a number or 2 of them (x, y), got list [3]: pass one for all"),
    "zero": (0, ValueError, "sxy must be above 0, got int 0: pass positive numbers"),
    "negative": ((3, -1), ValueError, "sxy must be above 0, got tuple (3, -1)"),
    "NaN": (np.nan, ValueError, "sxy must be above 0, got float nan"),
}


def raises(kind: type[Exception], text: str):
    return pytest.raises(kind, match=re.escape(text))


@pytest.mark.parametrize(("call", "kind", "text"), FIELDS.values(), ids=FIELDS)
def test_sizes_and_iterations(call, kind, text):
    with raises(kind, text):
        call()


@pytest.mark.parametrize(("energies", "kind", "text"), ENERGIES.values(), ids=ENERGIES)
def test_energies(energies, kind, text):
    made = field()
    made.setUnaryEnergy(U)
    with raises(kind, text):
        made.setUnaryEnergy(energies)
    np.testing.assert_allclose(made.inference(1), 0.5)  # those before still stand


def test_energies_of_features():
    with raises(
        ValueError, "u and f must have shapes (2, n) and (n, 12) for 2 labels, n features and 12 pixels"
    ):
        field().setUnaryEnergy(np.ones((2, 5)), np.ones((4, 12)))
    with raises(
        ValueError, "got (2, 5) and (5, 11): pass weights u and features f whose product u @ f is the"
    ):
        field().setUnary(DCRF.LogisticUnary(np.ones((2, 5)), np.ones((5, 11))))
    with raises(ValueError, "u @ f has NaN"):
        field().setUnaryEnergy(np.ones((2, 5)), np.full((5, 12), np.nan))
    with raises(TypeError, "f must be an array (n, n_pixels), got str 'a'"):
        DCRF.LogisticUnary(np.ones((2, 5)), "a")
    with raises(TypeError, "L must be an array (n_labels, n), got NoneType None"):
        DCRF.LogisticUnary(None, U)


def test_kinds_of_energies():
    with raises(
        TypeError, "u must be a ConstUnary or a LogisticUnary, got a NumPy float32 array of shape (2, 12)"
    ):
        field().setUnary(U)
    with raises(TypeError, "u must be a ConstUnary or a LogisticUnary, got Unary"):
        field().setUnary(DCRF.Unary())
    with raises(
        ValueError, "u must have shape (n_labels, n_pixels), got a NumPy float32 array of shape (2, 3, 4)"
    ):
        DCRF.ConstUnary(U.reshape(2, 3, 4))
    with raises(ValueError, "u must have shape (n_labels, n_pixels) = (2, 12), got (12, 2): pass u.T"):
        field().setUnary(DCRF.ConstUnary(U.T))


@pytest.mark.parametrize(("image", "kind", "text"), IMAGES.values(), ids=IMAGES)
def test_images(image, kind, text):
    with raises(kind, text):
        field().addPairwiseBilateral(sxy=3, srgb=3, rgbim=image, compat=3)


@pytest.mark.parametrize(("features", "kind", "text"), FEATURES.values(), ids=FEATURES)
def test_features(features, kind, text):
    with raises(kind, text):
        field().addPairwiseEnergy(features, compat=3)


@pytest.mark.parametrize(("compat", "kind", "text"), COMPATS.values(), ids=COMPATS)
def test_weights(compat, kind, text):
    for call in (
        lambda: field().addPairwiseGaussian(3, compat),
        lambda: field().addPairwiseBilateral(3, 3, IMAGE, compat),
        lambda: field().addPairwiseEnergy(U, compat),
    ):
        with raises(kind, text):
            call()


@pytest.mark.parametrize(("sxy", "kind", "text"), SXYS.values(), ids=SXYS)
def test_deviations(sxy, kind, text):
    with raises(kind, text):
        field().addPairwiseGaussian(sxy=sxy, compat=3)
    with raises(kind, text):
        field().addPairwiseBilateral(sxy=sxy, srgb=3, rgbim=IMAGE, compat=3)


def test_colour_deviations():
    with raises(
        ValueError, "srgb must be a number or 3 of them (r, g, b), got tuple (3, 5): pass one for all"
    ):
        field().addPairwiseBilateral(3, (3, 5), IMAGE, 3)
    with raises(ValueError, "srgb must be above 0, got int 0"):
        field().addPairwiseBilateral(3, 0, IMAGE, 3)


def test_normalisation_and_kernel():
    text = "normalization must be one of NormalizationType, got 4: pass NORMALIZE_SYMMETRIC"
    with raises(ValueError, text):
        field().addPairwiseGaussian(3, 3, normalization=4)
    with raises(ValueError, "normalization must be at least 0, got -1"):
        field().addPairwiseGaussian(3, 3, normalization=-1)
    with raises(TypeError, "normalization must be a whole number, got str 'symmetric'"):
        field().addPairwiseGaussian(3, 3, normalization="symmetric")
    with raises(TypeError, "kernel must be a whole number, got str 'diag'"):
        field().addPairwiseGaussian(3, 3, kernel="diag")


def test_a_refused_term_is_not_added():
    made = field()
    made.setUnaryEnergy(holding(U, 0))
    expected = made.inference(1)
    for bad in ({"compat": np.nan}, {"compat": 3, "normalization": 9}):
        with pytest.raises(ValueError, match="must be"):
            made.addPairwiseGaussian(sxy=3, **bad)
    np.testing.assert_array_equal(made.inference(1), expected)


def test_marginals():
    made = field()
    q, *tmp = made.startInference()
    with raises(
        TypeError, "Q must be a NumPy array of floats, got list [1]: pass the first of startInference()"
    ):
        made.stepInference([1], *tmp)
    with raises(TypeError, "Q must be a NumPy array of floats, got a NumPy int64 array of shape (2, 12)"):
        made.stepInference(q.astype(np.int64), *tmp)
    with raises(
        ValueError, "Q must have shape (n_labels, n_pixels) = (2, 12), got (2, 3): pass what inference()"
    ):
        made.stepInference(q[:, :3], *tmp)
    with raises(ValueError, "Q must have shape (n_labels, n_pixels) = (2, 12), got (12, 2)"):
        made.klDivergence(q.T)
    with raises(TypeError, "Q must be an array (n_labels, n_pixels), got NoneType None"):
        made.klDivergence(None)
    for number in (np.nan, np.inf, 3e38):
        with raises(ValueError, "Q has NaN, infinite or huge numbers: pass marginals"):
            made.klDivergence(holding(q, number))
        with raises(ValueError, "Q has NaN, infinite or huge numbers: pass marginals"):
            made.stepInference(holding(q, number), *tmp)
    with raises(ValueError, "Q has numbers below 0: pass marginals"):
        made.klDivergence(holding(q, -0.5))
    q.setflags(write=False)
    with raises(ValueError, "Q is read-only, but is to take the next marginals: pass Q.copy()"):
        made.stepInference(q, *tmp)


# utils


def bilateral(**changed: object):
    arguments = {"sdims": (3, 3), "schan": 3, "img": IMAGE, "chdim": 2}
    return lambda: UTILS.create_pairwise_bilateral(**arguments | changed)


HELPERS = {
    "probabilities of text": (
        lambda: UTILS.unary_from_softmax("a"),
        TypeError,
        "sm must be probabilities (n_labels, ...), got str 'a': pass real numbers",
    ),
    "a number": (
        lambda: UTILS.unary_from_softmax(0.5),
        ValueError,
        "sm must have shape (n_labels, ...), got float",
    ),
    "no labels": (
        lambda: UTILS.unary_from_softmax(np.ones((0, 3))),
        ValueError,
        "sm must have shape (n_labels, ..",
    ),
    "scale 0": (
        lambda: UTILS.unary_from_softmax(U, 0),
        ValueError,
        "scale must lie in (0, 1], got 0: pass e.g. 0.9",
    ),
    "scale 2": (lambda: UTILS.unary_from_softmax(U, 2), ValueError, "scale must lie in (0, 1], got 2"),
    "gt_prob 0": (
        lambda: UTILS.unary_from_labels(LABELMAP, 2, 0),
        ValueError,
        "gt_prob must lie in (0, 1), got 0: pass e.g. 0.7",
    ),
    "gt_prob 1": (
        lambda: UTILS.unary_from_labels(LABELMAP, 2, 1.0),
        ValueError,
        "gt_prob must lie in (0, 1), got 1.0",
    ),
    "one label": (
        lambda: UTILS.unary_from_labels(LABELMAP, 1, 0.7),
        ValueError,
        "n_labels must be at least 2, got 1",
    ),
    "floating labels": (
        lambda: UTILS.unary_from_labels(LABELMAP * 1.0, 3, 0.7),
        TypeError,
        "labels must be whole numbers, got a NumPy float64 array of shape (2, 3): pass labels.astype(int)",
    ),
    "255": (
        lambda: UTILS.unary_from_labels(np.where(LABELMAP == 1, 255, LABELMAP), 21, 0.7, zero_unsure=False),
        ValueError,
        "labels must lie in 0..20 for n_labels=21 and zero_unsure=False, got 255: pass a larger n_labels, or "
        "label the pixels that have none (255, -1) with 0, all others with one more, and keep zero_uns",
    ),
    "too large": (
        lambda: UTILS.unary_from_labels(LABELMAP + 1, 2, 0.7),
        ValueError,
        "labels must lie in 0..2 for n_labels=2 and zero_unsure=True, got 3: pass a larger n_labels",
    ),
    "below 0": (
        lambda: UTILS.unary_from_labels(LABELMAP - 1, 3, 0.7, zero_unsure=False),
        ValueError,
        "labels must lie in 0..2 for n_labels=3 and zero_unsure=False, got -1",
    ),
    "-1 in bytes": (
        lambda: UTILS.unary_from_labels(np.int8([-1, 0]), 3, 0.7),
        ValueError,
        "got -1: pass a larger",
    ),
    "sdims of one": (
        lambda: UTILS.create_pairwise_gaussian(3, (4, 5)),
        TypeError,
        "sdims must be a sequence (s0, s1), got int 3: pass one number for each",
    ),
    "sdims too few": (
        lambda: UTILS.create_pairwise_gaussian((3,), (4, 5)),
        ValueError,
        "sdims must be a number or 2 of them (s0, s1), got tuple (3,)",
    ),
    "sdims too many": (
        lambda: UTILS.create_pairwise_gaussian((3, 3, 3), (4, 5)),
        ValueError,
        "sdims must be a number",
    ),
    "sdims 0": (
        lambda: UTILS.create_pairwise_gaussian((0, 3), (4, 5)),
        ValueError,
        "sdims must be above 0, got tuple",
    ),
    "shape of one": (
        lambda: UTILS.create_pairwise_gaussian((3,), 4),
        TypeError,
        "shape must be a sequence of sizes, got int 4: pass img.shape[:2], say",
    ),
    "shape of halves": (
        lambda: UTILS.create_pairwise_gaussian((3, 3), (4.5, 5)),
        ValueError,
        "shape must hold whole numbers, got (4.5, 5): round them first",
    ),
    "shape below 0": (
        lambda: UTILS.create_pairwise_gaussian((3, 3), (-4, 5)),
        ValueError,
        "shape must hold numbers of",
    ),
    "no shape": (
        lambda: UTILS.create_pairwise_gaussian((), ()),
        TypeError,
        "shape must be a sequence of sizes",
    ),
    "image of text": (bilateral(img="a"), TypeError, "img must be an image, got str 'a': pass real numbers"),
    "image of nothing": (
        bilateral(img=np.zeros(3), chdim=0),
        ValueError,
        "img must have an axis beside the channels'",
    ),
    "schan too few": (
        bilateral(schan=(3, 3)),
        ValueError,
        "schan must be a number or 3 of them (c0, c1, c2), got tup",
    ),
    "schan too many": (bilateral(schan=(3, 3, 3, 3)), ValueError, "schan must be a number or 3 of them"),
    "schan without channels": (
        bilateral(schan=(3, 3, 3), sdims=(1, 1, 1), chdim=-1),
        ValueError,
        "schan must be a number for an image without channels, got tuple (3, 3, 3): pass chdim, the axis",
    ),
    "schan 0": (bilateral(schan=0), ValueError, "schan must be above 0, got int 0"),
    "no such axis": (
        bilateral(chdim=3),
        ValueError,
        "chdim must be an axis of img, got 3 for a NumPy uint8 array of shape (3, 4, 3): pass 2 for (H, W",
    ),
    "axis of nothing": (bilateral(chdim=None), ValueError, "chdim must be an axis of img, got None"),
    "no matrix": (
        lambda: EIGEN.matrixXf([1, 2]),
        ValueError,
        "arr must have shape (rows, columns), got a NumPy",
    ),
    "no vector": (
        lambda: EIGEN.vectorXf([[1, 2]]),
        ValueError,
        "arr must have shape (numbers,), got a NumPy",
    ),
    "vector of text": (
        lambda: EIGEN.vectorXf("a"),
        TypeError,
        "arr must be an array (numbers,), got str 'a'",
    ),
}


@pytest.mark.parametrize(("call", "kind", "text"), HELPERS.values(), ids=HELPERS)
def test_helpers(call, kind, text):
    with raises(kind, text):
        call()


def test_fixes_work():
    """What the errors say to pass, passed."""
    made = field()
    made.setUnaryEnergy(np.moveaxis(np.ones((3, 4, 2)), -1, 0).reshape(2, -1))
    made.setUnaryEnergy(U.reshape(2, 3, 4).reshape(2, -1))
    made.addPairwiseBilateral(3, 3, np.moveaxis(np.zeros((3, 3, 4)), 0, -1), 3)
    made.addPairwiseBilateral(3, 3, (255 * np.full((3, 4, 3), 0.5)).round().astype(np.uint8), 3)
    grey = np.random.default_rng(0).random((3, 4))
    made.addPairwiseEnergy(UTILS.create_pairwise_bilateral((3, 3), 0.1, grey), compat=3)
    assert np.isfinite(made.inference(2)).all()
    ignore = np.array([[0, 1, 255]])
    shifted = np.where(ignore == 255, 0, ignore + 1)
    energies = UTILS.unary_from_labels(shifted, 2, 0.7)
    np.testing.assert_array_equal(energies.argmin(axis=0)[:2], [0, 1])
    assert energies[0, 2] == energies[1, 2]


@pytest.mark.parametrize(
    ("device", "kind", "text"),
    [
        ("gpu", TypeError, "device must name a device, got str 'gpu': pass 'cuda' or 'cpu'"),
        (None, TypeError, "device must name a device, got None"),
        ("meta", ValueError, "device meta cannot be used"),
        ("cuda:97", ValueError, "device cuda:97 cannot be used"),
    ],
)
def test_devices(device, kind, text):
    with pytest.raises(kind, match=text):
        use_device(device)


def test_more_labels_than_memory():
    large = DCRF.DenseCRF2D(1000, 1000, 10**8)  # 400 TB, more than addresses
    text = "no memory for 100000000 labels of 1000000 pixels, about 2000000.0 GB: pass a smaller nlabels"
    with pytest.raises(MemoryError, match=re.escape(text)):
        large.inference(1)
