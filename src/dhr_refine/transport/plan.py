"""The public call: checks, one solve, and the plan."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from ..checks import (
    check_choice,
    check_count,
    check_data,
    check_positive,
    check_tensor,
    show_shapes,
    warn,
    way_to_finite,
)
from ..compiled import eager
from .marginals import class_masses, pixel_masses
from .solver import LARGEST_RANGE, Method, check_class_penalty, check_reg, extent_of, solve


class ConvergenceWarning(UserWarning):
    """A solver ran out of passes before it met its tolerance; the result says how far it came."""


class _TransportPlan(NamedTuple):
    plan: Tensor
    """Transported mass, same shape and dtype as the scores, sums to 1 per image."""
    residual: Tensor
    """(B,) largest relative error of a class marginal, ``max |sum_n plan - b| / b``. With a class penalty,
    b is the mass that the class potentials ask for."""
    iterations: Tensor
    """(B,) int64, passes over all pixels."""


class TransportPlan(_TransportPlan):
    """Result of :func:`sinkhorn_ot`: a named tuple (plan, residual, iterations), and how it was solved."""

    solver: str = "torch"
    """"numba" or "torch" (where the compiled path does not apply, or numba is not installed), or "pot"."""

    @property
    def class_mass(self) -> Tensor:
        """(B, K) mass that each class carries, the plan summed over the pixels (float32 or float64)."""
        plan = self.plan if self.plan.dtype == torch.float64 else self.plan.float()
        return plan.flatten(2).sum(-1)

    def __repr__(self) -> str:
        """Name the shapes and the solver, not the numbers."""
        return f"{show_shapes(self)} by {self.solver}"


@eager
def sinkhorn_ot(
    scores: Tensor,
    *,
    reg: float = 0.1,
    pixel_mass: Tensor | None = None,
    class_mass: Tensor | None = None,
    class_penalty: float | None = None,
    valid: Tensor | None = None,
    tol: float = 1e-3,
    max_iter: int = 1000,
    method: Method = "newton",
) -> TransportPlan:
    r"""Entropic optimal transport between pixels and classes (the paper's f_OT, section 3.2).

    Minimises :math:`\langle T, 1 - S\rangle + \lambda \sum T (\log T - 1)` over plans ``T`` whose sums over
    classes are the pixel masses ``a`` and whose sums over pixels are the class masses ``b``. ``plan * N`` is
    each pixel's share per class (for uniform pixel masses), the scale that the rebalancing steps use.

    Parameters
    ----------
    scores : Tensor, (B, K, H, W) or (B, K, N), floating point
        Class scores S, usually in [0, 1]; the cost is ``1 - S``. fp16 and bf16 are computed in float32,
        float64 in float64. The plan comes back in the dtype of the scores: fp16 cannot hold masses below
        6e-8, so pass ``scores.float()`` for images of more than a few thousand pixels.
    reg : float
        Entropic regulariser (the paper's lambda = 0.1). Down to 1e-3 for scores in [0, 1] without NaN.
    pixel_mass : Tensor, (B, H, W) / (B, N) or without B, optional
        Non-negative mass of each pixel, brought to sum 1. Default: uniform over the valid pixels.
    class_mass : Tensor, (B, K) or (K,), optional
        Non-negative mass of each class, brought to sum 1. Default: uniform over the valid classes. A class
        of mass 0 takes no part.
    class_penalty : float, optional
        Relaxes the class masses ("unbalanced", here semi-relaxed transport): instead of being met exactly
        they are asked for by a penalty :math:`\rho\,\mathrm{KL}(m \,|\, b)` on the class sums ``m``, and this
        is its weight :math:`\rho` (POT's ``reg_m``), 1e-12 or more, in units of the scores like ``reg``.
        Large: the class sums stay near ``class_mass``; None (default) or ``math.inf``: they are equal. Small:
        each pixel's shares come near the softmax of ``scores / reg``, which knows no class masses. Pixel
        masses stay exact throughout. A good first value is ``reg``.
    valid : bool Tensor, (B, H, W) or (B, N) for pixels, (B, K) for classes, optional
        What takes part; everything else gets 0. To mask both, set masses of 0 as well.
    tol : float
        Largest relative error of a class marginal to accept. Never tighter than the dtype can resolve
        (about 7e-7 at ``reg=0.1`` in float32; 2.4e-6 with a class penalty).
    max_iter : int
        Passes over all pixels at most. Where they do not suffice, a :class:`ConvergenceWarning` says so.
    method : {"newton", "sinkhorn", "pot"}
        ``"newton"``: semi-dual Newton from a subsampled start. ``"sinkhorn"``: log-domain Sinkhorn steps.
        ``"pot"``: :func:`ot.bregman.sinkhorn_log` of the POT library or, with a class penalty,
        :func:`ot.unbalanced.sinkhorn_unbalanced`, image by image, on the CPU and without gradients. All solve
        the same problem to the same tolerance; POT's relaxed solver works on exponentials of the scores, and
        gives up where ``reg`` is so small that float64 cannot hold them.

    Returns
    -------
    TransportPlan
        ``plan`` (shape and dtype of ``scores``, sums to 1 per image), ``residual`` (B,), ``iterations`` (B,);
        its attribute ``solver`` tells which implementation ran, ``class_mass`` (B, K) the plan's class sums.
        An image without a valid pixel or class gets zeros, residual 0 and 0 iterations.

    Raises
    ------
    ValueError, TypeError
        Wrong rank or dtype, mismatched shapes or devices, non-finite scores, negative or non-finite masses,
        ``reg``, ``class_penalty``, ``tol`` or ``max_iter`` not positive, an unknown method.
    ImportError
        ``method="pot"`` without POT.

    Notes
    -----
    Gradients flow to ``scores`` and to both masses, exactly, by differentiating one Newton step at the
    solution (implicit differentiation); the plan is the same with and without them, to rounding. First
    derivatives in reverse mode only: ``create_graph=True`` and forward mode raise a RuntimeError.

    With a class penalty the plan is ``a_n softmax_k(scores / reg + g)`` with potentials
    :math:`g_k = (\rho / \lambda) \log(b_k / m_k)`: a class is raised as far as it falls short. ``residual``
    then compares ``m`` with the mass that the potentials ask for, :math:`b_k \exp(-g_k \lambda / \rho)`
    scaled to sum 1, which equals ``m`` at the solution and ``b`` without a penalty. A class may shrink
    without limit; masses below 1e-12 count as 1e-12 there.

    With numba installed (``pip install numba``), float32 problems on the CPU are solved by a
    compiled loop, one image a thread (:func:`torch.get_num_threads`); otherwise, and for what that loop
    leaves unfinished, by torch operations on any device. The results agree to rounding.

    On an accelerator the host waits for the device once to check the input and once or twice to test
    convergence: it first asks after the second pass from a subsampled start (1024 pixels and more), after the
    fourth from cold, then after each.

    References
    ----------
    Cuturi, Sinkhorn Distances: Lightspeed Computation of Optimal Transport, NeurIPS 2013.
    Benamou, Numerical resolution of an "unbalanced" mass transport problem, ESAIM: M2AN 37, 2003; Frogner et
    al., Learning with a Wasserstein Loss, NeurIPS 2015 (the KL penalty on marginals).
    Chizat, Peyre, Schmitzer, Vialard, Scaling Algorithms for Unbalanced Optimal Transport Problems,
    Mathematics of Computation 87, 2018 (the damped Sinkhorn step); Sejourne, Vialard, Peyre, Faster
    Unbalanced Optimal Transport: Translation Invariant Sinkhorn and 1-D Frank-Wolfe, AISTATS 2022.
    Jo et al., DHR: Dual Features-Driven Hierarchical Rebalancing, ECCV 2024, section 3.2.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine import sinkhorn_ot
    >>> scores = torch.tensor([[[0.9, 0.8, 0.2, 0.1], [0.1, 0.2, 0.3, 0.1]]])  # 1 image, 2 classes, 4 pixels
    >>> plan, residual, iterations = sinkhorn_ot(scores)
    >>> bool((plan.sum(-1) - 0.5).abs().max() < 1e-3)  # each class gets half of the mass
    True
    >>> relaxed = sinkhorn_ot(scores, class_penalty=0.1)  # less for the class that scores less
    >>> [round(mass, 2) for mass in relaxed.class_mass[0].tolist()]
    [0.63, 0.37]
    """
    check_choice(method, "method", ("newton", "sinkhorn", "pot"))
    check_reg(reg)
    check_class_penalty(class_penalty)
    check_positive(tol, "tol")
    check_count(max_iter, "max_iter", 1)
    check_tensor(scores, "scores", "(B, K, H, W) or (B, K, N)", ndim=(3, 4), floating=True)
    flat = scores.flatten(2).contiguous()
    if scores.dtype != torch.float64:
        flat = flat.float()
    pixels = pixel_masses(scores, flat, pixel_mass, valid)
    classes = class_masses(flat, class_mass, valid)
    check_data(scores, "scores")
    _refuse_forward_mode(scores, pixel_mass, class_mass)

    if flat.numel() == 0:
        zero = flat.new_zeros(flat.shape[0])
        return _plan_by("torch", torch.zeros_like(scores), zero, zero.long())
    low, high = _checked_extent(scores, flat, reg)
    with torch.autocast(device_type=flat.device.type, enabled=False):
        shares, residual, iterations, solver, finished = solve(
            flat,
            pixels,
            classes,
            reg=reg,
            tol=float(tol),
            class_penalty=class_penalty,
            max_iter=int(max_iter),
            method=method,
            extent=(low, high),
            scale=1.0 / flat.shape[-1] if pixels is None else 1.0,
        )
        if not finished:
            warn(
                f"sinkhorn_ot did not reach tol={tol:g} in {int(max_iter)} passes (residual "
                f"{float(residual.max()):.2g}): raise max_iter, tol or reg",
                ConvergenceWarning,
            )
        # Pixels without mass transport nothing.
        plan = shares if pixels is None else shares * pixels[:, None]
    return _plan_by(solver, plan.reshape(scores.shape).to(scores.dtype), residual, iterations)


def _refuse_forward_mode(*inputs: Tensor | None) -> None:
    """Raise where a derivative in forward mode would come back as zero."""
    if any(value is not None and forward_ad.unpack_dual(value).tangent is not None for value in inputs):
        raise RuntimeError(
            "sinkhorn_ot has no derivatives in forward mode: call backward or torch.autograd.grad instead"
        )


def _checked_extent(scores: Tensor, flat: Tensor, reg: float) -> tuple[float, float]:
    """Smallest and largest score; raises where the transport cannot be solved for them."""
    low, high = extent_of(flat.detach())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(
            "scores hold NaN or infinity: find the layer that produced them, or pass "
            f"{way_to_finite(scores, 'scores')}"
        )
    if (high - low) / reg > LARGEST_RANGE:
        raise ValueError(f"scores span {high - low:.3g}, too much for reg={reg}: scale them to [0, 1]")
    return low, high


def _plan_by(solver: str, plan: Tensor, residual: Tensor, iterations: Tensor) -> TransportPlan:
    """A plan that knows its solver."""
    result = TransportPlan(plan, residual, iterations)
    result.solver = solver
    return result
