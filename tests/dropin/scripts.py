"""Short scripts that call the interface as well-known codebases do; each takes the modules to run on.

Written for these tests, after how the codebases call it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from originals import Interface


def irn(to: Interface, image: np.ndarray, labels: np.ndarray, classes: int) -> np.ndarray:
    """IRN, AdvCAM: labels of thresholded CAMs, made certain by 0.7."""
    height, width = image.shape[:2]
    d = to.densecrf.DenseCRF2D(width, height, classes)
    unary = to.utils.unary_from_labels(labels, classes, gt_prob=0.7, zero_unsure=False)
    d.setUnaryEnergy(unary)
    d.addPairwiseGaussian(sxy=3, compat=3)
    d.addPairwiseBilateral(sxy=50, srgb=5, rgbim=np.ascontiguousarray(np.copy(image)), compat=10)
    q = d.inference(10)
    return np.argmax(np.array(q).reshape((classes, height, width)), axis=0)


def seam(
    to: Interface, image: np.ndarray, cams: dict[int, np.ndarray], alpha: float
) -> dict[int, np.ndarray]:
    """SEAM, PSA: CAMs below a background score for each of several alphas, all scaled alike."""
    values = list(cams.values())
    background = np.power(1 - np.max(values, axis=0, keepdims=True), alpha)
    probs = np.concatenate((background, np.array(values)), axis=0)
    height, width = image.shape[:2]
    classes = probs.shape[0]
    d = to.densecrf.DenseCRF2D(width, height, classes)
    unary = np.ascontiguousarray(to.utils.unary_from_softmax(probs))
    d.setUnaryEnergy(unary)
    d.addPairwiseGaussian(sxy=3, compat=3)
    d.addPairwiseBilateral(sxy=80, srgb=13, rgbim=np.copy(image), compat=10)
    scores = np.array(d.inference(10)).reshape((classes, height, width))
    return {0: scores[0], **{key + 1: scores[index + 1] for index, key in enumerate(cams)}}


class DeepLabCRF:
    """The class that ports of DeepLab, CLIP-ES and many others carry along."""

    def __init__(self, to: Interface, **options: Any) -> None:
        self.to = to
        self.options = options

    def __call__(self, image: np.ndarray, probmap: np.ndarray) -> np.ndarray:
        options = self.options
        classes, height, width = probmap.shape
        energies = np.ascontiguousarray(self.to.utils.unary_from_softmax(probmap))
        image = np.ascontiguousarray(image)
        d = self.to.densecrf.DenseCRF2D(width, height, classes)
        d.setUnaryEnergy(energies)
        d.addPairwiseGaussian(sxy=options["pos_xy_std"], compat=options["pos_w"])
        d.addPairwiseBilateral(
            sxy=options["bi_xy_std"], srgb=options["bi_rgb_std"], rgbim=image, compat=options["bi_w"]
        )
        q = d.inference(options["iter_max"])
        return np.array(q).reshape((classes, height, width))


def readme_inference(to: Interface, image: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """The original's example of an annotated photo: 0 is unsure, tuples, every option named."""
    dcrf = to.densecrf
    d = dcrf.DenseCRF2D(image.shape[1], image.shape[0], count)
    d.setUnaryEnergy(to.utils.unary_from_labels(labels, count, gt_prob=0.7, zero_unsure=True))
    options = {"kernel": dcrf.DIAG_KERNEL, "normalization": dcrf.NORMALIZE_SYMMETRIC}
    d.addPairwiseGaussian(sxy=(3, 3), compat=3, **options)
    d.addPairwiseBilateral(sxy=(80, 80), srgb=(13, 13, 13), rgbim=image, compat=10, **options)
    return np.argmax(d.inference(5), axis=0)


def readme_features(to: Interface, image: np.ndarray, labels: np.ndarray, count: int) -> np.ndarray:
    """The same with kernels of features."""
    dcrf, utils = to.densecrf, to.utils
    d = dcrf.DenseCRF(image.shape[1] * image.shape[0], count)
    d.setUnaryEnergy(utils.unary_from_labels(labels, count, gt_prob=0.7, zero_unsure=True))
    options = {"kernel": dcrf.DIAG_KERNEL, "normalization": dcrf.NORMALIZE_SYMMETRIC}
    feats = utils.create_pairwise_gaussian(sdims=(3, 3), shape=image.shape[:2])
    d.addPairwiseEnergy(feats, compat=3, **options)
    feats = utils.create_pairwise_bilateral(sdims=(80, 80), schan=(13, 13, 13), img=image, chdim=2)
    d.addPairwiseEnergy(feats, compat=10, **options)
    return np.argmax(d.inference(5), axis=0)


def readme_grey(to: Interface, image: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """The notebook of the original on images that are not RGB: one floating point channel, steps by hand."""
    dcrf, utils = to.densecrf, to.utils
    labels, height, width = probs.shape
    d = dcrf.DenseCRF2D(width, height, labels)
    d.setUnaryEnergy(utils.unary_from_softmax(probs))
    energy = utils.create_pairwise_bilateral(sdims=(10, 10), schan=(0.01,), img=image, chdim=2)
    d.addPairwiseEnergy(energy, compat=10)
    q, tmp1, tmp2 = d.startInference()
    divergences = []
    for _ in range(5):
        d.stepInference(q, tmp1, tmp2)
        divergences.append(d.klDivergence(q) / (height * width))
    assert np.all(np.diff(divergences) < 0.05)
    return np.array(q)


def volume(to: Interface, scan: np.ndarray, probs: np.ndarray) -> np.ndarray:
    """Scans of three dimensions, as medical codebases refine them."""
    labels = len(probs)
    d = to.densecrf.DenseCRF(scan.size, labels)
    d.setUnaryEnergy(np.ascontiguousarray(-np.log(probs + 1e-8).reshape(labels, -1), dtype=np.float32))
    d.addPairwiseEnergy(to.utils.create_pairwise_gaussian(sdims=(1.0,) * 3, shape=scan.shape), compat=3)
    features = to.utils.create_pairwise_bilateral(sdims=(5.0,) * 3, schan=(0.05,), img=scan, chdim=-1)
    d.addPairwiseEnergy(features, compat=10)
    return np.array(d.inference(5)).reshape(probs.shape)
