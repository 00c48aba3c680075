"""The permutohedral lattice of any features: Gaussian filters in high dimensions in linear time."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ..checks import (
    check_choice,
    check_data,
    check_filled,
    check_finite,
    check_tensor,
    describe,
    find_extent,
    raise_magnitude,
)
from ..compiled import eager, ordinary
from .backends import choose_backend, implementation
from .geometry import feature_geometry
from .images import read_channels
from .terms import NORMALIZATIONS, Normalization

_SHAPES = ("(B, d, N)", "(B, d, H, W)", "(B, d, D, H, W)")
_SHAPE = f"{_SHAPES[0]}, {_SHAPES[1]} or {_SHAPES[2]}"


class PermutohedralLattice:
    r"""Gaussian filter over the distances of any features, built once and used for any values.

    The filter of values :math:`v` is, to the accuracy of the lattice (Adams et al., 2010),

    .. math:: (K v)_i = \sum_j \exp(-\tfrac{1}{2} |f_i - f_j|^2) v_j

    over all elements :math:`j`, :math:`i` included, up to a factor that depends on the number of features; in
    time linear in the number of elements. It is the filter of `dense_crf`, of pydensecrf's
    ``addPairwiseEnergy`` and of `dense_energy_loss`, for features of your own.

    Parameters
    ----------
    features : Tensor of shape (B, d, N), (B, d, H, W) or (B, d, D, H, W), floating point
        Features in units of their standard deviations: positions divided by pixels, colours by grey levels.
        A single image has its batch axis as well, ``features[None]``. They are constants: no gradients reach
        them.
    backend : {"auto", "torch", "numba"}, default "auto"
        "auto" takes numba on the CPU if it is installed, else torch, which runs on any device.

    Attributes
    ----------
    backend : str
        The implementation chosen, never "auto".
    shape : tuple of int
        That of the features.
    device : torch.device
        Where it lives.
    nbytes : int
        Memory in bytes.

    Raises
    ------
    TypeError
        If ``features`` is not a floating point tensor.
    ValueError
        If the shape is another one, a number is NaN or infinite, features span more deviations than 2**60
        cells hold (the error says what to divide by), or the backend is not installed or not made for the
        device.

    References
    ----------
    A. Adams, J. Baek and M. Davis, "Fast High-Dimensional Filtering Using the Permutohedral Lattice",
    Eurographics 2010.

    Examples
    --------
    A bilateral filter that averages a noisy map within the two halves of an image:

    >>> import torch
    >>> from dhr_refine import PermutohedralLattice
    >>> image = torch.zeros(1, 1, 8, 8)
    >>> image[..., 4:] = 1
    >>> rows, columns = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
    >>> features = torch.stack([columns / 5, rows / 5, image[0, 0] / 0.1])[None]
    >>> lattice = PermutohedralLattice(features, backend="torch")
    >>> noisy = image + torch.linspace(-0.5, 0.5, 8)[:, None]
    >>> smooth = lattice.filter(noisy, normalization="after")
    >>> bool((smooth[..., :4].abs() < 0.3).all()), bool((smooth[..., 4:] > 0.7).all())
    (True, True)
    """

    @eager
    @ordinary
    def __init__(self, features: Tensor, *, backend: Literal["auto", "torch", "numba"] = "auto") -> None:
        """Build the lattice."""
        check_tensor(features, "features", _SHAPE, ndim=(3, 4, 5), floating=True)
        check_data(features, "features")
        check_filled(features, "features")
        check_choice(backend, "backend", ("auto", "torch", "numba"))
        self.backend: str = choose_backend(backend, features.device)
        self.shape: tuple[int, ...] = tuple(features.shape)
        self.device: torch.device = features.device
        self._kernel = self._build(features)

    def _build(self, features: Tensor) -> Any:
        """The kernels of all batch entries."""
        flat = features.flatten(2, -2) if features.ndim > 3 else features[:, :, None]
        pixels = read_channels(flat, "features")
        try:
            geometry = feature_geometry(pixels.extents)
        except ValueError as error:
            if features.ndim > 4 or len(features) == 1:
                raise
            raise ValueError(
                f"{error}; the shape {(*features.shape,)} was read as {_SHAPES[features.ndim - 3]}: if the "
                "first axis is that of the features, pass features[None]"
            ) from None
        module = implementation(self.backend)
        if self.backend == "numba":
            return module.build_features(geometry, pixels.values.numpy(), torch.get_num_threads())
        return module.build_features(geometry, pixels.values)

    @property
    def nbytes(self) -> int:
        """Memory in bytes."""
        parts = self._kernel if isinstance(self._kernel, list) else [self._kernel]
        return sum(part.nbytes for part in parts)

    @eager
    def filter(self, values: Tensor, *, normalization: Normalization = "symmetric") -> Tensor:
        r"""Filter values: gradients flow through, of any order, and in forward mode.

        Parameters
        ----------
        values : Tensor of shape (B, C, N), (B, C, H, W) or (B, C, D, H, W), floating point
            Any channels, at the size of the features.
        normalization : {"symmetric", "after", "before", "none"}, default "symmetric"
            With :math:`k = K 1`: :math:`D K D v` with :math:`D = k^{-1/2}`, the one of dense CRFs; the
            weighted mean :math:`(K v) / k`; :math:`K (v / k)`; or :math:`K v` itself.

        Returns
        -------
        Tensor of the shape, dtype and device of ``values``
            Filtered values. Computed in float32, of float64 values in float64 by the torch backend (the
            weights are those of float32 in any case).

        Raises
        ------
        TypeError
            If ``values`` is not a floating point tensor.
        ValueError
            If shape or device differ from those of the features, or ``values`` holds NaN, infinity or, with
            numba, numbers beyond float32.
        """
        check_tensor(values, "values", _SHAPE.replace("d,", "C,"), ndim=len(self.shape), floating=True)
        check_choice(normalization, "normalization", NORMALIZATIONS)
        if values.shape[0] != self.shape[0] or values.shape[2:] != self.shape[2:]:
            raise ValueError(
                f"values must have the batch and size of features, {self.shape}, got {describe(values)}: "
                "resize one of them, or build a PermutohedralLattice of that size"
            )
        if values.device != self.device:
            raise ValueError(
                f"values is on {values.device} but the lattice on {self.device}: pass "
                f"values.to('{self.device}')"
            )
        check_finite(values, "values")
        if self.backend == "numba" and values.dtype == torch.float64:
            low, high = find_extent(values)
            if max(-low, high) > torch.finfo(torch.float32).max:
                raise_magnitude(values, "values")
        return filter_values(self, values, normalization)

    def __repr__(self) -> str:
        """Say what the lattice was built for."""
        size = " x ".join(map(str, self.shape))
        return f"PermutohedralLattice({size}, backend={self.backend!r}, device={str(self.device)!r})"


def filter_values(lattice: PermutohedralLattice, values: Tensor, normalization: Normalization) -> Tensor:
    """:meth:`PermutohedralLattice.filter` of checked values."""
    with torch.autocast(values.device.type, enabled=False):
        return _Filter.apply(values, lattice, normalization, False)


class _Filter(torch.autograd.Function):
    """The filter as a linear map: its derivative is the filter itself, its gradient the transpose."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any,
        values: Tensor,
        lattice: PermutohedralLattice,
        normalization: Normalization,
        backwards: bool,
    ) -> Tensor:
        ctx.options = lattice, normalization, backwards
        return _run(lattice, values, normalization, backwards)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        lattice, normalization, backwards = ctx.options
        return _Filter.apply(gradient, lattice, normalization, not backwards), None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        lattice, normalization, backwards = ctx.options
        return _Filter.apply(tangent, lattice, normalization, backwards)


def _run(
    lattice: PermutohedralLattice, values: Tensor, normalization: Normalization, backwards: bool
) -> Tensor:
    """Filter without a graph."""
    module, kernel = implementation(lattice.backend), lattice._kernel
    if values.numel() == 0:
        return torch.zeros_like(values)
    if lattice.backend == "numba":
        flat = values.detach().float().resolve_neg().flatten(2).numpy()
        filtered = module.filter_values(
            kernel, flat, normalization, backwards=backwards, threads=torch.get_num_threads()
        )
        return torch.from_numpy(filtered).view(values.shape).to(values.dtype)
    channels = values.shape[1]
    own = values.detach().to(torch.float64 if values.dtype == torch.float64 else torch.float32)
    rows = own.flatten(2).permute(2, 0, 1)  # the order of the kernel's pixels
    filtered = module.filter_with(
        kernel, rows.reshape(-1, channels), normalization, backwards=backwards
    ).view(rows.shape)
    return filtered.permute(1, 2, 0).reshape(values.shape).to(values.dtype)
