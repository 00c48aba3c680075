"""The original's classes: energies and kernels are gathered call by call, then mean field runs on them."""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from functools import partial
from typing import Any

import numpy as np

from ..checks import describe
from ..crf.energies import mean_field, pairwise
from ..crf.kept import bilateral_kernel, feature_kernel, gaussian_kernel
from ..crf.terms import Normalization, Term
from .arguments import (
    LARGEST_MARGINAL,
    Numbers,
    lie_within,
    read_array,
    read_compat,
    read_count,
    read_deviations,
    read_energies,
    read_features,
    read_image,
)
from .device import chosen_device
from .unaries import ConstUnary, LogisticUnary, Unary

__all__ = [
    "CONST_KERNEL",
    "DIAG_KERNEL",
    "FULL_KERNEL",
    "NORMALIZE_AFTER",
    "NORMALIZE_BEFORE",
    "NORMALIZE_SYMMETRIC",
    "NO_NORMALIZATION",
    "ConstUnary",
    "DenseCRF",
    "DenseCRF2D",
    "KernelType",
    "LogisticUnary",
    "NormalizationType",
    "Unary",
]


class KernelType(IntEnum):
    """What learning would change of a kernel; nothing at inference, which is all there is here."""

    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


class NormalizationType(IntEnum):
    """Where the filter's response to ones divides: nowhere, before or after it, or its root on both sides."""

    NO_NORMALIZATION = 0
    NORMALIZE_BEFORE = 1
    NORMALIZE_AFTER = 2
    NORMALIZE_SYMMETRIC = 3


CONST_KERNEL = KernelType.CONST_KERNEL
DIAG_KERNEL = KernelType.DIAG_KERNEL
FULL_KERNEL = KernelType.FULL_KERNEL
NO_NORMALIZATION = NormalizationType.NO_NORMALIZATION
NORMALIZE_BEFORE = NormalizationType.NORMALIZE_BEFORE
NORMALIZE_AFTER = NormalizationType.NORMALIZE_AFTER
NORMALIZE_SYMMETRIC = NormalizationType.NORMALIZE_SYMMETRIC
_NORMALIZATIONS: tuple[Normalization, ...] = ("none", "before", "after", "symmetric")


class DenseCRF:
    """Fully connected CRF over any number of pixels, or other things with features.

    Parameters
    ----------
    nvar : int
        Number of pixels.
    nlabels : int
        Number of labels.

    Raises
    ------
    TypeError
        A size is no number.
    ValueError
        A size is below 0, or there is no label.

    Examples
    --------
    A volume (10, 12, 14) of two labels:

    >>> import numpy as np
    >>> from dhr_refine.pydensecrf.densecrf import DenseCRF
    >>> from dhr_refine.pydensecrf.utils import create_pairwise_bilateral, unary_from_softmax
    >>> volume = np.zeros((10, 12, 14), np.float32)
    >>> volume[5:] = 1
    >>> field = DenseCRF(volume.size, 2)
    >>> field.setUnaryEnergy(unary_from_softmax(np.stack([0.6 - 0.2 * volume, 0.4 + 0.2 * volume])))
    >>> field.addPairwiseEnergy(create_pairwise_bilateral((3, 3, 3), 0.1, volume), compat=5)
    >>> Q = np.array(field.inference(5))
    >>> Q.shape, bool(np.all(Q.argmax(axis=0).reshape(volume.shape) == volume))
    ((2, 1680), True)
    """

    def __init__(self, nvar: int, nlabels: int) -> None:
        """Start without any energy."""
        self._pixels = read_count(nvar, "nvar", 0)
        self._labels = read_count(nlabels, "nlabels", 1)
        self._size: tuple[int, int] | None = None
        self._energies: np.ndarray | None = None
        self._terms: list[Term] = []
        self._device = chosen_device()

    def setUnaryEnergy(self, u: Numbers, f: Numbers | None = None) -> None:
        """Set the energies of pixels by themselves, usually -log(probability).

        Without this call all labels are equal. A further call replaces the energies of the one before. The
        array is copied.

        Parameters
        ----------
        u : array_like of real numbers, (n_labels, n_pixels)
            Energies of any number type and memory layout; +inf where a label is impossible. Where all labels
            of a pixel are, they count as equal.
        f : array_like of real numbers, (n, n_pixels), optional
            Features of the pixels: the energies are then ``u @ f``, with weights ``u`` (n_labels, n).

        Raises
        ------
        TypeError
            These are no real numbers.
        ValueError
            Their shape does not fit, or they hold NaN or -inf.
        """
        self._energies = read_energies(u, f, self._labels, self._pixels)

    def setUnary(self, u: Unary) -> None:
        """Set the energies of pixels by themselves.

        Parameters
        ----------
        u : ConstUnary or LogisticUnary
            The energies; they can be set again, and in other fields.

        Raises
        ------
        TypeError
            ``u`` is neither.
        ValueError
            It does not fit this field, or holds NaN or -inf.
        """
        if not isinstance(u, (ConstUnary, LogisticUnary)):
            raise TypeError(
                f"u must be a ConstUnary or a LogisticUnary, got {describe(u)}: pass arrays to setUnaryEnergy"
            )
        self.setUnaryEnergy(u.weights, u.features)

    def addPairwiseEnergy(
        self,
        features: Numbers,
        compat: Numbers,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a Gaussian kernel of any features; pixels with like features pull each other to like labels.

        Parameters
        ----------
        features : array_like of real numbers, (d, n_pixels)
            Features over their deviations, as ``create_pairwise_gaussian`` and ``create_pairwise_bilateral``
            of `dhr_refine.pydensecrf.utils` make them.
        compat : float, or array_like of real numbers, (n_labels,) or (n_labels, n_labels)
            What the labels of two pixels cost, times the kernel. A number w: the same label earns w (Potts).
            A vector: what each label costs beside itself, so that -w for all is the number w. A matrix: what
            each pair of labels costs; the mean of the matrix and its transpose counts.
        kernel : KernelType, default DIAG_KERNEL
            Without effect at inference.
        normalization : NormalizationType, default NORMALIZE_SYMMETRIC
            How the kernel is brought to sum 1.

        Raises
        ------
        TypeError
            An argument is no number, or holds none.
        ValueError
            A shape does not fit, ``features`` or ``compat`` is not finite, ``compat`` lies beyond 1e15,
            ``normalization`` is none of the four.
        """
        values = read_features(features, self._pixels)
        build = partial(feature_kernel, values, self._size, device=self._device)
        self._add(build, compat, kernel, normalization)

    def inference(self, niter: int) -> np.ndarray:
        """Run mean field.

        Parameters
        ----------
        niter : int
            Number of iterations; 0 and fewer give the softmax of the negative energies.

        Returns
        -------
        ndarray of float32, (n_labels, n_pixels)
            Marginals, which sum to 1 for each pixel.

        Raises
        ------
        TypeError
            ``niter`` is no number.
        MemoryError
            There is no memory for so many labels and pixels.
        """
        return self._run(max(0, read_count(niter, "niter", -(2**31))))

    def startInference(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Start mean field, to go on with :meth:`stepInference`.

        Returns
        -------
        Q : ndarray of float32, (n_labels, n_pixels)
            Softmax of the negative energies.
        tmp1, tmp2 : ndarray of float32, (0, 0)
            What the original works in; empty here.
        """
        return self._run(0), np.empty((0, 0), np.float32), np.empty((0, 0), np.float32)

    def stepInference(self, Q: np.ndarray, tmp1: Numbers, tmp2: Numbers) -> None:
        """Run one iteration of mean field, in place.

        Parameters
        ----------
        Q : ndarray of float, (n_labels, n_pixels)
            Marginals, which are replaced by the next ones.
        tmp1, tmp2 : ndarray
            From :meth:`startInference`, (0, 0); not used.

        Raises
        ------
        TypeError
            ``Q`` is no floating point array.
        ValueError
            Its shape is another one, it is read-only, or it holds NaN, infinite, huge or negative numbers.
        """
        if not isinstance(Q, np.ndarray) or Q.dtype.kind != "f":
            raise TypeError(
                f"Q must be a NumPy array of floats, got {describe(Q)}: pass the first of startInference()"
            )
        start = self._read_marginals(Q)
        if not Q.flags.writeable:
            raise ValueError("Q is read-only, but is to take the next marginals: pass Q.copy()")
        Q[...] = self._run(1, start)

    def klDivergence(self, Q: Numbers) -> float:
        """Kullback-Leibler divergence of marginals from the field, up to a constant.

        Parameters
        ----------
        Q : array_like of real numbers, (n_labels, n_pixels)
            Marginals.

        Returns
        -------
        float
            Sum of ``Q * (log(Q) + energies + pairwise)``; mean field lowers it. 0 times infinity counts as 0.

        Raises
        ------
        TypeError
            ``Q`` holds no real numbers.
        ValueError
            Its shape is another one, or it holds NaN, infinite, huge or negative numbers.
        """
        marginals = self._read_marginals(Q)
        parts = self._unary()
        if self._terms:
            parts = parts + pairwise(marginals, self._terms, device=self._device)
        parts = parts + np.log(np.maximum(marginals, np.float32(1e-20)))
        taken = marginals != 0
        return float(np.sum(marginals * np.where(taken, parts, 0), dtype=np.float64))

    def _add(self, build: Callable[[], Any], compat: Any, kernel: Any, normalization: Any) -> None:
        """Add the term of a kernel, which is built after the other arguments are read."""
        weights = read_compat(compat, self._labels)
        read_count(kernel, "kernel", -(2**31))
        number = read_count(normalization, "normalization", 0)
        if number >= len(_NORMALIZATIONS):
            raise ValueError(
                f"normalization must be one of NormalizationType, got {number}: pass NORMALIZE_SYMMETRIC"
            )
        if self._pixels:
            self._terms.append(Term(build(), _NORMALIZATIONS[number], weights))

    def _unary(self) -> np.ndarray:
        if self._energies is None:
            return np.zeros((self._labels, self._pixels), dtype=np.float32)
        return self._energies

    def _run(self, iterations: int, start: np.ndarray | None = None) -> np.ndarray:
        if self._pixels == 0:
            return np.empty((self._labels, 0), dtype=np.float32)
        try:
            return mean_field(
                self._unary(), self._terms, iterations=iterations, start=start, device=self._device
            )
        except MemoryError:
            need = 5 * 4e-9 * self._labels * self._pixels  # energies, logits, marginals, messages, result
            raise MemoryError(
                f"no memory for {self._labels} labels of {self._pixels} pixels, about {need:.1f} GB: pass a "
                "smaller nlabels, or a smaller image"
            ) from None

    def _read_marginals(self, Q: Any) -> np.ndarray:
        marginals = read_array(Q, "Q", "(n_labels, n_pixels)")
        if marginals.shape != (self._labels, self._pixels):
            raise ValueError(
                f"Q must have shape (n_labels, n_pixels) = ({self._labels}, {self._pixels}), got "
                f"{marginals.shape}: pass what inference() or startInference() of this field returned"
            )
        if not lie_within(marginals, LARGEST_MARGINAL):
            raise ValueError("Q has NaN, infinite or huge numbers: pass marginals, which lie in 0..1")
        if marginals.min(initial=0) < 0:
            raise ValueError("Q has numbers below 0: pass marginals, which lie in 0..1")
        return marginals


class DenseCRF2D(DenseCRF):
    """Fully connected CRF over the pixels of an image, row by row.

    Parameters
    ----------
    w : int
        Width of the image; it comes first.
    h : int
        Height.
    nlabels : int
        Number of labels.

    Raises
    ------
    TypeError
        A size is no number.
    ValueError
        A size is below 0, or there is no label.

    Examples
    --------
    >>> import numpy as np
    >>> from dhr_refine.pydensecrf.densecrf import DenseCRF2D
    >>> from dhr_refine.pydensecrf.utils import unary_from_softmax
    >>> image = np.zeros((16, 20, 3), np.uint8)
    >>> image[:, 10:] = 255
    >>> probs = np.full((2, 16, 20), 0.5)
    >>> probs[:, 8, 5] = 0.9, 0.1  # a hint on either side of the edge
    >>> probs[:, 8, 15] = 0.1, 0.9
    >>> field = DenseCRF2D(20, 16, 2)
    >>> field.setUnaryEnergy(unary_from_softmax(probs))
    >>> field.addPairwiseGaussian(sxy=3, compat=3)
    >>> field.addPairwiseBilateral(sxy=40, srgb=13, rgbim=image, compat=10)
    >>> labels = np.argmax(field.inference(10), axis=0).reshape(16, 20)
    >>> bool(np.all(labels[:, :10] == 0)), bool(np.all(labels[:, 10:] == 1))
    (True, True)
    """

    def __init__(self, w: int, h: int, nlabels: int) -> None:
        """Start without any energy."""
        width, height = read_count(w, "w", 0), read_count(h, "h", 0)
        super().__init__(width * height, nlabels)
        self._height, self._width = self._size = height, width

    def addPairwiseGaussian(
        self,
        sxy: Numbers,
        compat: Numbers,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a Gaussian kernel of positions: it smooths, and removes small regions.

        Parameters
        ----------
        sxy : float or sequence of two, (x, y)
            Standard deviation in pixels.
        compat, kernel, normalization
            As in :meth:`DenseCRF.addPairwiseEnergy`, a number, (n_labels,) or (n_labels, n_labels).

        Raises
        ------
        TypeError
            An argument is no number, or holds none.
        ValueError
            ``sxy`` is not above 0, or another argument is refused by `DenseCRF.addPairwiseEnergy`.
        """
        x, y = read_deviations(sxy, "sxy", "(x, y)")
        size = self._height, self._width
        build = partial(gaussian_kernel, *size, (x, y), device=self._device)
        self._add(build, compat, kernel, normalization)

    def addPairwiseBilateral(
        self,
        sxy: Numbers,
        srgb: Numbers,
        rgbim: Numbers,
        compat: Numbers,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a Gaussian kernel of positions and colours: labels follow the edges of the image.

        Parameters
        ----------
        sxy : float or sequence of two, (x, y)
            Standard deviation in pixels.
        srgb : float or sequence of three, (r, g, b)
            Standard deviation in grey levels.
        rgbim : array_like of whole numbers in 0..255, (h, w, 3)
            The image, of any number type and memory layout.
        compat, kernel, normalization
            As in :meth:`DenseCRF.addPairwiseEnergy`, a number, (n_labels,) or (n_labels, n_labels).

        Raises
        ------
        TypeError
            An argument is no number, or holds none.
        ValueError
            ``sxy`` or ``srgb`` is not above 0, ``rgbim`` has another shape or other numbers, or another
            argument is refused by `DenseCRF.addPairwiseEnergy`.
        """
        x, y = read_deviations(sxy, "sxy", "(x, y)")
        r, g, b = read_deviations(srgb, "srgb", "(r, g, b)")
        image = read_image(rgbim, self._height, self._width)
        build = partial(bilateral_kernel, image, (x, y), (r, g, b), device=self._device)
        self._add(build, compat, kernel, normalization)
