"""Fully connected conditional random field with Gaussian edge potentials (dense CRF)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..checks import check_choice, check_iterations, check_pair, check_range, describe
from ..compiled import eager, ordinary
from .backends import BACKENDS, Backend, choose_backend, implementation
from .geometry import LatticeParameters, read_parameters
from .images import Pixels, read_pixels, warn_of_grey_levels
from .lattice import DenseCRFLattice, bilateral_geometry_of, check_built_for, gaussian_lattice, run_on
from .scores import check_scores
from .unary import EXCLUDED
from .volumes import check_volumes, refine_volumes

# Defaults, those of DHR and of RSEPM and CLIP-ES: iterations, and the weights of the two kernels.
_ITERATIONS, _COMPAT, _GAUSS_COMPAT = 10, 4, 3


@eager
@ordinary
def dense_crf(
    images: Tensor,
    probs: Tensor,
    *,
    iterations: int = _ITERATIONS,
    sxy: float | Sequence[float] = 67,
    srgb: float | Sequence[float] = 3,
    compat: float = _COMPAT,
    gauss_sxy: float | Sequence[float] = 1,
    gauss_compat: float = _GAUSS_COMPAT,
    min_prob: float = 0.0,
    backend: Backend = "auto",
    lattice: DenseCRFLattice | None = None,
) -> Tensor:
    r"""Refine probabilities along the edges of an image with a fully connected CRF.

    Mean field inference with unaries ``-log(clip(probs, 1e-5, 1))`` and two Potts terms, each filtered
    through the permutohedral lattice with symmetric normalisation: a bilateral kernel of position and
    colour and a Gaussian kernel of position. The result is pydensecrf's, to within rounding.

    Parameters
    ----------
    images : Tensor of shape (B, C, H, W), (C, H, W) or (B, C, D, H, W), uint8 or floating point
        RGB (C = 3) in [0, 255], or any channels and numbers, in whose units ``srgb`` is then. Five axes are
        volumes. Four are a batch of images: a single volume has its batch axis, ``volume[None]``.
    probs : Tensor of shape (B, K, H, W), (K, H, W) or (B, K, D, H, W), floating point
        Probabilities at the size of the images, of two classes or more; or scores in [0, 1] that do not sum
        to 1. They are clipped and not rescaled: one score of a pixel may lie above 1, but not two, which
        would become equal (up to 1.25, as after bicubic interpolation, does not matter). Down to -0.25
        counts as 0, and so does a class that is negative in all of an image, down to -1: SEAM's
        ``(cam - 1e-5) / (max + 1e-5)`` makes such scores.
    iterations : int, default 10
        Mean field iterations.
    sxy, srgb : float, (x, y) and one for each channel, default 67, 3
        Bilateral kernel: standard deviations in pixels, (x, y, z) of volumes, and in grey levels. The
        defaults are those of DHR and of RSEPM and CLIP-ES.
    compat : float, default 4
        Weight of the bilateral kernel.
    gauss_sxy : float or (x, y), default 1
        Gaussian kernel: standard deviation in pixels, (x, y, z) of volumes.
    gauss_compat : float, default 3
        Weight of the Gaussian kernel.
    min_prob : float, default 0
        Leave out classes whose largest probability in an image is at most this; they get 0. An image that
        would lose all of them keeps all. With 1e-3, many channels of which few occur cost no more than those
        few, and Q changes by about 0.01. Our choice of default leaves none out.
    backend : {"auto", "torch", "numba", "triton", "pydensecrf"}, default "auto"
        "auto" takes numba on the CPU if it is installed, else torch.
        "triton" are fused kernels for a CUDA device, tested in Triton's interpreter but not on a GPU yet.
        "pydensecrf" runs the reference, one image at a time. What "auto" took is logged at level DEBUG by the
        logger "dhr_refine", and is the ``backend`` of a `DenseCRFLattice`. Volumes run on torch and numba.
    lattice : DenseCRFLattice, optional
        Lattice built for these images, parameters and device; not for volumes.

    Returns
    -------
    Tensor of the shape, dtype and device of ``probs``
        Marginal probabilities, summing to 1 over the classes.

    Raises
    ------
    TypeError
        If an argument is not of the kind asked for, such as images of int64.
    ValueError
        If shapes, sizes or devices differ, ``probs`` holds NaN, infinity, numbers that are no scores in
        [0, 1] (logits, percentages) or one class alone, an option is out of range, a backend is not
        installed, or ``lattice`` was built for something else.

    Notes
    -----
    Runs in float32 whatever autocast says, without gradients. The checks wait for the device (twice with
    a lattice, once more for floating point images). With three channels features of images are ordered as in
    pydensecrf's ``addPairwiseBilateral``, otherwise, and of all volumes, as in its
    ``create_pairwise_bilateral``. numba uses
    `torch.get_num_threads` threads: one image on each for a batch, several in one image otherwise. Its result
    then depends on the number of threads in the last bits only; for a given number it is reproducible, as is
    torch's.

    References
    ----------
    P. Kraehenbuehl and V. Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge
    Potentials", NeurIPS 2011, equations 2, 3 and algorithm 1. A. Adams, J. Baek and M. Davis, "Fast
    High-Dimensional Filtering Using the Permutohedral Lattice", Eurographics 2010.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine import dense_crf
    >>> image = torch.zeros(3, 16, 16, dtype=torch.uint8)
    >>> image[:, :, 8:] = 255
    >>> probs = torch.full((2, 16, 16), 0.5)
    >>> probs[1, 4:12, 10:14] = 0.9  # a hint of the second class, right of the edge,
    >>> probs[1, 6:10, 1:3] = 0.1  # and of the first one, left of it
    >>> probs[0] = 1 - probs[1]
    >>> refined = dense_crf(image, probs, backend="torch")
    >>> bool(refined[1, :, 8:].min() > 0.99), bool(refined[1, :, :8].max() < 0.01)
    (True, True)
    """
    pair = check_pair(images, probs, channels="C", volumes=True)
    check_scores(pair)
    check_choice(backend, "backend", BACKENDS)
    depth = None
    if pair.images.ndim == 5:
        check_volumes(backend, lattice)
        depth = pair.images.shape[2]
        pair = pair._replace(images=pair.images.flatten(2, 3), probs=pair.probs.flatten(2, 3))
    pixels = read_pixels(pair.images)
    channels = pixels.values.shape[1]
    parameters = read_parameters(sxy, srgb, gauss_sxy, channels, volumes=depth is not None)
    check_iterations(iterations)
    check_range(compat, "compat", 0, 1e6)
    check_range(gauss_compat, "gauss_compat", 0, 1e6)
    check_range(min_prob, "min_prob", 0, 1)
    if lattice is None:
        warn_of_grey_levels(pixels, parameters.srgb)
    elif not isinstance(lattice, DenseCRFLattice):
        raise TypeError(
            f"lattice must be a DenseCRFLattice, got {describe(lattice)}: "
            "build one with DenseCRFLattice(images)"
        )
    else:
        check_built_for(lattice, pixels.values, parameters, backend)
    with torch.autocast(pair.probs.device.type, enabled=False):
        result = _refine(pixels, pair.probs, parameters, backend, lattice, min_prob, {
            "iterations": int(iterations), "compat": compat, "gauss_compat": gauss_compat,
        }, depth).to(probs.dtype)  # fmt: skip
    if depth is not None:
        return result.reshape(probs.shape)
    return result if pair.batched else result[0]


def refine_checked(images: Tensor, probs: Tensor, lattice: DenseCRFLattice) -> Tensor:
    """:func:`dense_crf` with its defaults on checked input, and a lattice built for just these images."""
    options = {"iterations": _ITERATIONS, "compat": _COMPAT, "gauss_compat": _GAUSS_COMPAT}
    return _refine(Pixels(images, []), probs, lattice.parameters, "auto", lattice, 0.0, options)


def _refine(
    pixels: Pixels,
    probs: Tensor,
    parameters: LatticeParameters,
    backend: str,
    lattice: DenseCRFLattice | None,
    min_prob: float,
    options: dict[str, Any],
    depth: int | None = None,
) -> Tensor:
    if probs.shape[0] == 0 or probs.shape[1] == 1:
        return torch.ones_like(probs)  # one class takes all
    values = probs.float()
    chosen, order = values, None
    if min_prob > 0:
        # Classes left out go first and are cut off; images that keep fewer than others pad with
        # classes that take no part.
        keep = values.amax(dim=(2, 3)) > min_prob  # (B, K)
        keep |= ~keep.any(dim=1, keepdim=True)  # an image that would lose all keeps all
        kept = max(2, int(keep.sum(dim=1).max()))
        order = torch.argsort(keep.int(), dim=1, stable=True)[:, -kept:]  # (B, kept)
        index = order[:, :, None, None].expand(-1, -1, *values.shape[2:])
        allowed = keep.gather(1, order)
        chosen = torch.where(allowed[:, :, None, None], values.gather(1, index), EXCLUDED)
    if depth is not None:
        result = refine_volumes(pixels, depth, chosen, parameters, backend, options)
    elif lattice is None:
        result = _run_once(pixels, chosen, parameters, backend, options)
    else:
        result = run_on(lattice, chosen, **options)
    if order is not None:
        index = order[:, :, None, None].expand_as(result)
        result = torch.zeros_like(values).scatter_(1, index, result)
    return result


def _run_once(
    pixels: Pixels, probs: Tensor, parameters: LatticeParameters, backend: str, options: dict[str, Any]
) -> Tensor:
    """Run without a lattice to keep."""
    images = pixels.values
    backend = choose_backend(backend, images.device)
    module = implementation(backend)
    if backend == "pydensecrf":
        return module.mean_field(images, probs, parameters, **options)
    height, width = images.shape[2:]
    gaussian = gaussian_lattice(backend, height, width, parameters.gauss_sxy, images.device)
    geometry = bilateral_geometry_of(pixels, parameters)
    if backend == "numba":
        return module.build_and_infer(geometry, images, gaussian, probs, **options)
    return module.mean_field(module.build_bilateral(geometry, images), gaussian, probs, **options)
