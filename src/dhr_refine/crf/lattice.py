"""Lattices of images, kept by callers (DenseCRFLattice), and of positions, kept here for images to come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checks import check_data, check_image_shape, check_tensor, describe
from ..compiled import eager, ordinary
from .backends import Backend, choose_backend, implementation
from .geometry import Geometry, LatticeParameters, bilateral_geometry, gaussian_geometry, read_parameters
from .images import Pixels, read_pixels, warn_of_grey_levels
from .recent import Recent

# Lattices of positions kept for images to come: one is 5 to 10 MB at 512 x 512 (numba).
_CACHED_SIZES = 8


class DenseCRFLattice:
    r"""The filtering lattices of a batch of images: build once, use for every CRF call on these images.

    Building takes 20 to 60 % of the first call of `dense_crf`; the lattice depends on the images and the
    standard deviations only, not on the probabilities, the compatibilities or the number of classes.

    Parameters
    ----------
    images : Tensor of shape (B, C, H, W) or (C, H, W), uint8 or floating point
        As in `dense_crf`.
    sxy : float or (x, y), default 67
        Standard deviation of the bilateral kernel in pixels.
    srgb : float or one for each channel, default 3
        Standard deviation of the bilateral kernel in grey levels, or units of floating point images.
    gauss_sxy : float or (x, y), default 1
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
        If ``images`` is not a uint8 or floating point tensor, or a number is not a number.
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

    @eager
    @ordinary
    def __init__(
        self,
        images: Tensor,
        *,
        sxy: float | Sequence[float] = 67,
        srgb: float | Sequence[float] = 3,
        gauss_sxy: float | Sequence[float] = 1,
        backend: Backend = "auto",
    ) -> None:
        """Build the lattice."""
        if isinstance(images, Tensor) and images.ndim == 5:
            raise ValueError(
                f"images must have shape (B, C, H, W) or (C, H, W) for a lattice, got {describe(images)}: "
                "lattices of volumes are not kept, call dense_crf without lattice"
            )
        check_tensor(images, "images", "(B, C, H, W) or (C, H, W)", ndim=(3, 4))
        check_data(images, "images")
        check_image_shape(images, "C")
        pixels = read_pixels(images[None] if images.ndim == 3 else images)
        images = pixels.values
        self.parameters: LatticeParameters = read_parameters(sxy, srgb, gauss_sxy, images.shape[1])
        warn_of_grey_levels(pixels, self.parameters.srgb)
        self.backend: str = choose_backend(backend, images.device)
        if self.backend == "pydensecrf":
            raise ValueError(
                "backend must be 'auto', 'torch', 'numba' or 'triton' for a lattice, got 'pydensecrf': "
                "pydensecrf builds its own at every call; call dense_crf without lattice"
            )
        batch, _, height, width = images.shape
        self.shape: tuple[int, int, int] = (batch, height, width)
        self.device: torch.device = images.device
        self._images, self._gaussian, self._bilateral = self._build(pixels)

    def _build(self, pixels: Pixels) -> tuple[Tensor, Any, Any]:
        """Copy of the images, and the kernels of positions and of both positions and colours."""
        images = pixels.values
        # Compared at each use: a lattice of other images would give a wrong result, silently.
        own = torch.empty_like(images)
        if images.device.type == "cpu":
            np.copyto(own.numpy(), images.numpy())  # on the calling thread alone, as find_extent
        else:
            own.copy_(images)
        module = implementation(self.backend)
        gaussian = gaussian_lattice(self.backend, *self.shape[1:], self.parameters.gauss_sxy, images.device)
        geometry = bilateral_geometry_of(pixels, self.parameters)
        return own, gaussian, module.build_bilateral(geometry, own)

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


def check_built_for(
    lattice: DenseCRFLattice, images: Tensor, parameters: LatticeParameters, backend: str
) -> None:
    """Raise unless a lattice was built for exactly this call."""
    batch, _, height, width = images.shape
    if lattice.shape != (batch, height, width):
        raise ValueError(
            f"lattice was built for {' x '.join(map(str, lattice.shape))} images but images is "
            f"{batch} x {height} x {width}: build a DenseCRFLattice for these images"
        )
    if lattice.device != images.device:
        raise ValueError(
            f"lattice is on {lattice.device} but images is on {images.device}: "
            "build a DenseCRFLattice from images on that device"
        )
    for name, own, wanted in zip(parameters._fields, lattice.parameters, parameters, strict=True):
        if own != wanted:
            raise ValueError(
                f"lattice was built with {name}={own!r} but dense_crf was called with {name}={wanted!r}: "
                f"pass {name}={own!r}, or build another DenseCRFLattice"
            )
    if backend not in ("auto", lattice.backend):
        raise ValueError(
            f"lattice was built with backend={lattice.backend!r} but dense_crf was called with "
            f"{backend!r}: pass backend='auto', or build another DenseCRFLattice"
        )
    if not _equal(lattice._images, images):
        raise ValueError(
            "lattice was built for other images of the same size: build a DenseCRFLattice for these images"
        )


def run_on(lattice: DenseCRFLattice, probs: Tensor, **options: Any) -> Tensor:
    """Mean field from probabilities (B, K, H, W) on a lattice that was built for these images."""
    module = implementation(lattice.backend)
    return module.mean_field(lattice._bilateral, lattice._gaussian, probs, **options)


def bilateral_geometry_of(pixels: Pixels, parameters: LatticeParameters) -> Geometry:
    """The geometry of the bilateral kernel of images."""
    _, channels, height, width = pixels.values.shape
    return bilateral_geometry(
        height, width, parameters.sxy, parameters.srgb, channels=channels, extents=pixels.extents
    )


def _equal(left: Tensor, right: Tensor) -> bool:
    if left.dtype != right.dtype:
        return False
    if left.device.type == "cpu":  # on bytes, torch.equal takes ten times as long as NumPy
        return np.array_equal(left.numpy(), right.numpy())
    return torch.equal(left, right)


gaussian_lattices = Recent(_CACHED_SIZES)


def gaussian_lattice(
    backend: str, height: int, width: int, sxy: float | tuple[float, ...], device: torch.device
) -> Any:
    """The lattice of positions, which images of one size share: one of the last few used, or a new one."""

    def build() -> Any:
        with torch.no_grad():
            geometry = gaussian_geometry(height, width, sxy)
            return implementation(backend).build_gaussian(geometry, height, width, device)

    return gaussian_lattices.get((backend, height, width, sxy, device), build)
