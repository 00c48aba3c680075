"""Fully connected conditional random field with Gaussian edge potentials (dense CRF)."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections import OrderedDict
from functools import cache
from threading import Lock
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..checks import (
    check_choice,
    check_image_shape,
    check_iterations,
    check_pair,
    check_positive,
    check_range,
    check_tensor,
    describe,
)
from .backends import implementation
from .geometry import LatticeParameters, bilateral_geometry, gaussian_geometry
from .unary import EXCLUDED

Backend = Literal["auto", "torch", "numba", "triton", "pydensecrf"]

_BACKENDS = ("auto", "torch", "numba", "triton", "pydensecrf")
# Defaults, those of DHR and of RSEPM and CLIP-ES: iterations, and the weights of the two kernels.
_ITERATIONS, _COMPAT, _GAUSS_COMPAT = 10, 4, 3
_INSTALL = {
    "numba": "pip install 'dhr_refine[numba]'",
    "triton": "PyTorch for CUDA on Linux brings it, else pip install triton",
    "pydensecrf": "pip install 'dhr_refine[crf]'",
}
# Lattices of positions kept for images to come: one is 5 to 10 MB at 512 x 512 (numba).
_CACHED_SIZES = 8


class DenseCRFLattice:
    r"""The filtering lattices of a batch of images: build once, use for every CRF call on these images.

    Building takes 20 to 60 % of the first call of `dense_crf`; the lattice depends on the images and the
    standard deviations only, not on the probabilities, the compatibilities or the number of classes.

    Parameters
    ----------
    images : Tensor of shape (B, 3, H, W) or (3, H, W), uint8
        RGB.
    sxy : float, default 67
        Standard deviation of the bilateral kernel in pixels.
    srgb : float, default 3
        Standard deviation of the bilateral kernel in grey levels.
    gauss_sxy : float, default 1
        Standard deviation of the Gaussian kernel in pixels.
    backend : {"auto", "torch", "numba", "triton"}, default "auto"
        As in `dense_crf`. pydensecrf cannot keep a lattice.

    Attributes
    ----------
    backend : str
        The implementation chosen, never "auto".
    shape : tuple of int
        (B, H, W).
    device : torch.device
        Where it lives.
    nbytes : int
        Memory in bytes, without the Gaussian kernel's, which images of one size share. 11 to 40 MB for
        an image of 512 x 512.

    Raises
    ------
    TypeError
        If ``images`` is not a uint8 tensor, or a number is not a number.
    ValueError
        If a shape or an option is out of range, or the backend is not installed or not made for the
        device.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine import DenseCRFLattice, dense_crf
    >>> image = torch.zeros(3, 20, 30, dtype=torch.uint8)
    >>> lattice = DenseCRFLattice(image, sxy=50, srgb=5, backend="torch")
    >>> lattice
    DenseCRFLattice(1 x 20 x 30, sxy=50, srgb=5, gauss_sxy=1, backend='torch', device='cpu')
    >>> probs = torch.full((2, 20, 30), 0.5)
    >>> dense_crf(image, probs, sxy=50, srgb=5, lattice=lattice).shape
    torch.Size([2, 20, 30])
    """

    def __init__(
        self,
        images: Tensor,
        *,
        sxy: float = 67,
        srgb: float = 3,
        gauss_sxy: float = 1,
        backend: Backend = "auto",
    ) -> None:
        """Build the lattice."""
        check_tensor(images, "images", "(B, 3, H, W) or (3, H, W)", ndim=(3, 4))
        _check_uint8(images)
        images = images[None] if images.ndim == 3 else images
        check_image_shape(images)
        self.parameters = _check_parameters(sxy, srgb, gauss_sxy)
        self.backend = _choose_backend(backend, images.device)
        if self.backend == "pydensecrf":
            raise ValueError(
                "backend must be 'auto', 'torch', 'numba' or 'triton' for a lattice, got 'pydensecrf': "
                "pydensecrf builds its own at every call; call dense_crf without lattice"
            )
        batch, _, height, width = images.shape
        self.shape = (batch, height, width)
        self.device = images.device
        # Compared at each use: a lattice of other images would give a wrong result, silently.
        self._images = torch.empty_like(images)
        if images.device.type == "cpu":
            np.copyto(self._images.numpy(), images.numpy())  # on the calling thread alone, as find_extent
        else:
            self._images.copy_(images)
        module = implementation(self.backend)
        self._gaussian = _gaussian_lattices.get(self.backend, height, width, gauss_sxy, images.device)
        with torch.no_grad():
            geometry = bilateral_geometry(height, width, sxy, srgb)
            self._bilateral = module.build_bilateral(geometry, self._images)

    @property
    def nbytes(self) -> int:
        """Memory in bytes, without the shared Gaussian kernel's."""
        parts = self._bilateral if isinstance(self._bilateral, list) else [self._bilateral]
        return self._images.nbytes + sum(part.nbytes for part in parts)

    def __repr__(self) -> str:
        """Say what the lattice was built for."""
        size = " x ".join(map(str, self.shape))
        numbers = ", ".join(f"{name}={value!r}" for name, value in self.parameters._asdict().items())
        return f"DenseCRFLattice({size}, {numbers}, backend={self.backend!r}, device={str(self.device)!r})"

    def _check(self, images: Tensor, parameters: LatticeParameters, backend: str) -> None:
        """Raise unless the lattice was built for exactly this call."""
        batch, _, height, width = images.shape
        if self.shape != (batch, height, width):
            raise ValueError(
                f"lattice was built for {' x '.join(map(str, self.shape))} images but images is "
                f"{batch} x {height} x {width}: build a DenseCRFLattice for these images"
            )
        if self.device != images.device:
            raise ValueError(
                f"lattice is on {self.device} but images is on {images.device}: "
                "build a DenseCRFLattice from images on that device"
            )
        for name, own, wanted in zip(parameters._fields, self.parameters, parameters, strict=True):
            if own != wanted:
                raise ValueError(
                    f"lattice was built with {name}={own!r} but dense_crf was called with {name}={wanted!r}: "
                    f"pass {name}={own!r}, or build another DenseCRFLattice"
                )
        if backend not in ("auto", self.backend):
            raise ValueError(
                f"lattice was built with backend={self.backend!r} but dense_crf was called with "
                f"{backend!r}: pass backend='auto', or build another DenseCRFLattice"
            )
        if not _equal(self._images, images):
            raise ValueError(
                "lattice was built for other images of the same size: "
                "build a DenseCRFLattice for these images"
            )

    def _run(self, probs: Tensor, **options: Any) -> Tensor:
        module = implementation(self.backend)
        return module.mean_field(self._bilateral, self._gaussian, probs, **options)


@torch.no_grad()
def dense_crf(
    images: Tensor,
    probs: Tensor,
    *,
    iterations: int = _ITERATIONS,
    sxy: float = 67,
    srgb: float = 3,
    compat: float = _COMPAT,
    gauss_sxy: float = 1,
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
    images : Tensor of shape (B, 3, H, W) or (3, H, W), uint8
        RGB in [0, 255].
    probs : Tensor of shape (B, K, H, W) or (K, H, W), floating point
        Probabilities (or any non-negative scores) at the size of the images.
    iterations : int, default 10
        Mean field iterations.
    sxy, srgb, compat : float, default 67, 3, 4
        Bilateral kernel: standard deviations in pixels and in grey levels, and weight. The defaults are
        those of DHR and of RSEPM and CLIP-ES.
    gauss_sxy, gauss_compat : float, default 1, 3
        Gaussian kernel: standard deviation in pixels, and weight.
    min_prob : float, default 0
        Leave out classes whose largest probability in an image is at most this; they get 0. An image that
        would lose all of them keeps all. With 1e-3, many channels of which few occur cost no more than those
        few, and Q changes by about 0.01. Our choice of default leaves none out.
    backend : {"auto", "torch", "numba", "triton", "pydensecrf"}, default "auto"
        "auto" takes numba for tensors on the CPU if it is installed, else torch. "triton" are fused kernels
        for a CUDA device, tested in Triton's interpreter but not on a GPU yet. "pydensecrf" runs the
        reference, one image at a time. `DenseCRFLattice` shows the choice in its ``backend``.
    lattice : DenseCRFLattice, optional
        Lattice built for these images, parameters and device.

    Returns
    -------
    Tensor of the shape, dtype and device of ``probs``
        Marginal probabilities, summing to 1 over the classes.

    Raises
    ------
    TypeError
        If an argument is not of the kind asked for, such as images that are not uint8.
    ValueError
        If shapes, sizes or devices differ, ``probs`` holds NaN, infinity or negative values, an option is
        out of range, a backend is not installed, or ``lattice`` was built for something else.

    Notes
    -----
    Runs in float32 whatever autocast says, without gradients. The checks wait for the device (twice with
    a lattice). numba uses `torch.get_num_threads` threads: one image on each for a batch, several in one
    image otherwise. Its result then depends on the number of threads in the last bits only; for a given
    number it is reproducible, as is torch's.

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
    pair = check_pair(images, probs)
    _check_uint8(pair.images)
    parameters = _check_parameters(sxy, srgb, gauss_sxy)
    check_choice(backend, "backend", _BACKENDS)
    check_iterations(iterations)
    check_range(compat, "compat", 0, 1e6)
    check_range(gauss_compat, "gauss_compat", 0, 1e6)
    check_range(min_prob, "min_prob", 0, 1)
    if lattice is not None:
        if not isinstance(lattice, DenseCRFLattice):
            raise TypeError(
                f"lattice must be a DenseCRFLattice, got {describe(lattice)}: "
                "build one with DenseCRFLattice(images)"
            )
        lattice._check(pair.images, parameters, backend)
    with torch.autocast(pair.probs.device.type, enabled=False):
        result = _refine(pair.images, pair.probs, parameters, backend, lattice, min_prob, {
            "iterations": int(iterations), "compat": compat, "gauss_compat": gauss_compat,
        }).to(probs.dtype)  # fmt: skip
    return result if pair.batched else result[0]


def refine_checked(images: Tensor, probs: Tensor, lattice: DenseCRFLattice) -> Tensor:
    """:func:`dense_crf` with its defaults on checked input, and a lattice built for just these images."""
    options = {"iterations": _ITERATIONS, "compat": _COMPAT, "gauss_compat": _GAUSS_COMPAT}
    return _refine(images, probs, lattice.parameters, "auto", lattice, 0.0, options)


def _refine(
    images: Tensor,
    probs: Tensor,
    parameters: LatticeParameters,
    backend: str,
    lattice: DenseCRFLattice | None,
    min_prob: float,
    options: dict[str, Any],
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
    if lattice is None:
        result = _run_once(images, chosen, parameters, backend, options)
    else:
        result = lattice._run(chosen, **options)
    if order is not None:
        index = order[:, :, None, None].expand_as(result)
        result = torch.zeros_like(values).scatter_(1, index, result)
    return result


def _run_once(
    images: Tensor, probs: Tensor, parameters: LatticeParameters, backend: str, options: dict[str, Any]
) -> Tensor:
    """Run without a lattice to keep."""
    backend = _choose_backend(backend, images.device)
    if backend == "pydensecrf":
        return implementation(backend).mean_field(images, probs, parameters, **options)
    sxy, srgb, gauss_sxy = parameters
    if backend in ("torch", "triton"):
        lattice = DenseCRFLattice(images, sxy=sxy, srgb=srgb, gauss_sxy=gauss_sxy, backend=backend)
        return lattice._run(probs, **options)
    height, width = images.shape[2:]
    gaussian = _gaussian_lattices.get(backend, height, width, gauss_sxy, images.device)
    geometry = bilateral_geometry(height, width, sxy, srgb)
    return implementation(backend).build_and_infer(geometry, images, gaussian, probs, **options)


def probs_from_labels(
    labels: Tensor, *, num_classes: int, gt_prob: float = 0.7, ignore_index: int = 255
) -> Tensor:
    """Turn a label map into probabilities: ``gt_prob`` for the label, the rest shared out equally.

    ``dense_crf(images, probs_from_labels(labels, num_classes=n))`` is pydensecrf with
    ``unary_from_labels(labels, n, gt_prob, zero_unsure=False)``, the CRF on labels of IRN and AdvCAM.

    Parameters
    ----------
    labels : Tensor of shape (B, H, W) or (H, W), integer
        Class of each pixel, below ``num_classes``, or ``ignore_index``.
    num_classes : int
        Number of classes, at least 2.
    gt_prob : float, default 0.7
        Trust in the labels, between 0 and 1 (IRN's value).
    ignore_index : int, default 255
        Label of pixels that could be anything: all classes get the same probability.

    Returns
    -------
    Tensor of shape (B, K, H, W) or (K, H, W), float32
        Probabilities, on the device of ``labels``.

    Raises
    ------
    TypeError
        If ``labels`` is not an integer tensor.
    ValueError
        If a label or an option is out of range.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine import probs_from_labels
    >>> probs_from_labels(torch.tensor([[0, 1, 255]]), num_classes=3)[:, 0]
    tensor([[0.7000, 0.1500, 0.3333],
            [0.1500, 0.7000, 0.3333],
            [0.1500, 0.1500, 0.3333]])
    """
    check_tensor(labels, "labels", "(B, H, W) or (H, W)", ndim=(2, 3))
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise TypeError(f"labels must hold integers, got {describe(labels)}: call .long() on it")
    if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 2:
        raise ValueError(f"num_classes must be an int of at least 2, got {num_classes!r}: count background")
    if not (isinstance(gt_prob, (int, float)) and 0 < gt_prob < 1):
        raise ValueError(f"gt_prob must lie between 0 and 1, got {gt_prob!r}: pass e.g. 0.7")
    classes = torch.arange(num_classes, device=labels.device)[:, None, None]
    ignored = labels == ignore_index
    wrong = ~ignored & ((labels < 0) | (labels >= num_classes))
    if bool(wrong.any()):
        raise ValueError(
            f"labels must be below num_classes={num_classes} or {ignore_index}, got {int(labels[wrong][0])}: "
            "raise num_classes, or set ignore_index"
        )
    rest = (1 - gt_prob) / (num_classes - 1)
    probs = torch.where(labels.unsqueeze(-3) == classes, gt_prob, rest)
    return torch.where(ignored.unsqueeze(-3), 1 / num_classes, probs).float()


class _GaussianLattices:
    """Lattices of positions by backend, size, deviation and device: the last few used, for all threads."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
        self._lock = Lock()

    def get(self, backend: str, height: int, width: int, sxy: float, device: torch.device) -> Any:
        key = (backend, height, width, float(sxy), device)
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        # Built outside the lock: two threads may build the same one, which is harmless.
        with torch.no_grad():
            geometry = gaussian_geometry(height, width, sxy)
            built = implementation(backend).build_gaussian(geometry, height, width, device)
        with self._lock:
            self._kept[key] = built
            while len(self._kept) > _CACHED_SIZES:
                self._kept.popitem(last=False)
        return built

    def clear(self) -> None:
        with self._lock:
            self._kept.clear()


_gaussian_lattices = _GaussianLattices()


@cache
def _installed(package: str) -> bool:
    try:
        importlib.import_module(package)
    except ImportError:
        return False
    return True


def _choose_backend(backend: str, device: torch.device) -> str:
    check_choice(backend, "backend", _BACKENDS)
    if backend == "auto":
        return "numba" if device.type == "cpu" and _installed("numba") else "torch"
    # Triton's own switch: kernels run on the CPU, slowly, to be tested and debugged.
    if backend == "triton" and device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        raise ValueError(
            f"backend='triton' runs on a CUDA device but images is on {device}: "
            "pass backend='auto', or images.cuda()"
        )
    if backend in _INSTALL and not _installed(backend):
        raise ValueError(
            f"backend={backend!r} needs the package {backend}, which cannot be imported: "
            f"{_INSTALL[backend]}, or pass backend='auto'"
        )
    if backend == "numba" and device.type != "cpu":
        raise ValueError(
            f"backend='numba' runs on the CPU but images is on {device}: "
            "pass backend='torch', or images.cpu()"
        )
    return backend


def _equal(left: Tensor, right: Tensor) -> bool:
    if left.device.type == "cpu":  # on bytes, torch.equal takes ten times as long as NumPy
        return np.array_equal(left.numpy(), right.numpy())
    return torch.equal(left, right)


def _check_uint8(images: Tensor) -> None:
    if images.dtype != torch.uint8:
        raise TypeError(
            f"images must be uint8 in [0, 255], got {describe(images)}: "
            "pass (images * 255).round().to(torch.uint8) for images in [0, 1]"
        )


def _check_parameters(sxy: float, srgb: float, gauss_sxy: float) -> LatticeParameters:
    for name, value in (("sxy", sxy), ("srgb", srgb), ("gauss_sxy", gauss_sxy)):
        check_positive(value, name)
    return LatticeParameters(sxy, srgb, gauss_sxy)
