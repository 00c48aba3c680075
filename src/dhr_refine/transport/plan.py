"""Entropic optimal transport between the pixels of an image and its few classes.

The number of classes K is tiny beside the number of pixels N, so the problem is solved in the K class
potentials alone (the semi-dual): the pixel marginals hold exactly at every step, and what remains is a
smooth concave problem in K unknowns, which Newton's method finishes in a handful of passes over the pixels
where Sinkhorn's alternation needs dozens.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from types import ModuleType
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from ..checks import (
    check_choice,
    check_count,
    check_positive,
    check_range,
    check_same,
    check_tensor,
    describe,
    find_extent,
    show_shapes,
)
from ..compiled import counterpart

Method = Literal["newton", "sinkhorn", "pot"]

# The compiled solver, None without numba.
_compiled = functools.partial(counterpart, "dhr_refine.transport.newton_numba")

# The first, cheap solve takes one pixel in 8, at least 256 and at most 1024: well spread, they place the
# potentials within a few per cent. With fewer than 1024 pixels it costs as much as it saves.
_SAMPLE_STEP, _SAMPLE_LEAST, _SAMPLE_MOST = 8, 256, 1024
# With a small regulariser single pixels decide, and the sample must be larger.
_SAMPLE_HARD = 8192
# Where the kernel exp(score / reg) spans more e-folds than this, the problem is annealed.
_EASY_RANGE = 20.0
# Smallest marginal that still has a finite logarithm and reciprocal in float32.
_TINY = 1e-30
# Smaller regularisers and larger ranges of scores / reg are beyond float32.
_LEAST_REG = 1e-6
_LARGEST_RANGE = 1e9
# Largest change of a potential in one step; a step that overshoots divides it by four.
_MAX_STEP = 16.0
# The lean loop: its passes at most, and the largest change of a potential in one of them.
_LEAN_PASSES = 6
_LEAN_STEP = 4.0
# Relative marginal error at which the solve on the sample stops: its own error is larger.
_SAMPLE_TOL = 1e-2


class _TransportPlan(NamedTuple):
    plan: Tensor
    """Transported mass, same shape and dtype as the scores, sums to 1 per image."""
    residual: Tensor
    """(B,) largest relative error of a class marginal, ``max |sum_n plan - b| / b``."""
    iterations: Tensor
    """(B,) int64, passes over all pixels."""


class TransportPlan(_TransportPlan):
    """Result of :func:`sinkhorn_ot`: a named tuple (plan, residual, iterations), and how it was solved."""

    solver: str = "torch"
    """"numba" or "torch" (where the compiled path does not apply, or numba is not installed), or "pot"."""

    def __repr__(self) -> str:
        """Name the shapes and the solver, not the numbers."""
        return f"{show_shapes(self)} by {self.solver}"

    @classmethod
    def of(cls, plan: Tensor, residual: Tensor, iterations: Tensor, solver: str) -> TransportPlan:
        """Build a plan that knows its solver."""
        result = cls(plan, residual, iterations)
        result.solver = solver
        return result


class PixelShares(NamedTuple):
    """Result of :func:`solve`: a plan divided by its pixel masses."""

    shares: Tensor
    """(B, K, N) share of each class in each pixel, sums to 1 over the classes."""
    residual: Tensor
    """(B,) largest relative error of a class marginal."""
    iterations: Tensor
    """(B,) int64, passes over all pixels."""
    solver: str
    """See :class:`TransportPlan`."""


class _Problem(NamedTuple):
    """One batch of transport problems in internal form."""

    scores: Tensor  # (B, K, N)
    sharpness: float  # 1 / reg
    pixels: Tensor | None  # (B, N) pixel mass, None where uniform
    classes: Tensor  # (B, K) class mass, 0 for classes that take no part
    valid: Tensor  # (B, K) bool

    def start(self) -> Tensor:
        """(B, K) first potentials: log masses, -inf for classes that take no part."""
        potentials = self.classes.clamp_min(_TINY).log()
        return potentials.masked_fill(~self.valid & self.valid.any(-1, keepdim=True), -math.inf)

    def shares(
        self, potentials: Tensor, *, buffer: Tensor | None = None, out: Tensor | None = None
    ) -> Tensor:
        """(B, K, N) share of each class in each pixel, the softmax of scores / reg + potentials."""
        # Fresh memory costs more than the arithmetic: a solver hands in its buffers.
        logits = torch.add(potentials[..., None], self.scores, alpha=self.sharpness, out=buffer)
        return torch.softmax(logits, dim=1, out=out)

    def marginal(self, p: Tensor) -> Tensor:
        """Class mass carried by the pixel shares ``p``; ``sum`` adds pairwise, so float32 is enough."""
        if self.pixels is None:
            return p.mean(-1)
        return (p * self.pixels[:, None]).sum(-1)

    def covariance(self, p: Tensor) -> Tensor:
        """(B, K, K) second moment of the shares; only steers the step, so its rounding is harmless."""
        weighted = p / p.shape[-1] if self.pixels is None else p * self.pixels[:, None]
        return weighted @ p.mT

    def sample(self, index: Tensor) -> _Problem:
        """The same problem on some of the pixels."""
        if self.pixels is None:
            return self._replace(scores=self.scores.index_select(2, index))
        picked = self.pixels.index_select(1, index)
        total = picked.sum(-1, keepdim=True)
        # A sample that holds no valid pixel of an image falls back to uniform weights there.
        picked = torch.where(total > 0, picked / total.clamp_min(_TINY), 1.0 / index.numel())
        return self._replace(scores=self.scores.index_select(2, index), pixels=picked)

    def images(self, index: Tensor) -> _Problem:
        """The same problem on some of the images."""
        pixels = None if self.pixels is None else self.pixels[index]
        return _Problem(self.scores[index], self.sharpness, pixels, self.classes[index], self.valid[index])

    def cooled(self, factor: float) -> _Problem:
        """The same problem at ``1 / factor`` times the regulariser."""
        return self._replace(sharpness=self.sharpness * factor)


def sinkhorn_ot(
    scores: Tensor,
    *,
    reg: float = 0.1,
    pixel_mass: Tensor | None = None,
    class_mass: Tensor | None = None,
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
    valid : bool Tensor, (B, H, W) or (B, N) for pixels, (B, K) for classes, optional
        What takes part; everything else gets 0. To mask both, set masses of 0 as well.
    tol : float
        Largest relative error of a class marginal to accept. Never tighter than the dtype can resolve
        (about 7e-7 at ``reg=0.1`` in float32).
    max_iter : int
        Passes over all pixels at most.
    method : {"newton", "sinkhorn", "pot"}
        ``"newton"``: semi-dual Newton from a subsampled start. ``"sinkhorn"``: log-domain Sinkhorn steps.
        ``"pot"``: :func:`ot.bregman.sinkhorn_log` of the POT library, image by image, on the CPU and
        without gradients. All solve the same problem to the same tolerance.

    Returns
    -------
    TransportPlan
        ``plan`` (shape and dtype of ``scores``, sums to 1 per image), ``residual`` (B,), ``iterations`` (B,);
        its attribute ``solver`` tells which implementation ran.
        An image without a valid pixel or class gets zeros, residual 0 and 0 iterations.

    Raises
    ------
    ValueError, TypeError
        Wrong rank or dtype, mismatched shapes or devices, non-finite scores, negative or non-finite masses,
        ``reg``, ``tol`` or ``max_iter`` not positive, an unknown method.

    Notes
    -----
    Gradients flow to ``scores`` and to both masses, exactly, by differentiating one Newton step at the
    solution (implicit differentiation); the plan is the same with and without them, to rounding.

    With numba installed (``pip install "dhr_refine[numba]"``), float32 problems on the CPU are solved by a
    compiled loop, one image a thread (:func:`torch.get_num_threads`); otherwise, and for what that loop
    leaves unfinished, by torch operations on any device. The results agree to rounding.

    On an accelerator the host waits for the device once to check the input and once or twice to test
    convergence: it first asks after the second pass from a subsampled start (1024 pixels and more), after the
    fourth from cold, then after each.

    References
    ----------
    Cuturi, Sinkhorn Distances: Lightspeed Computation of Optimal Transport, NeurIPS 2013.
    Jo et al., DHR: Dual Features-Driven Hierarchical Rebalancing, ECCV 2024, section 3.2.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine import sinkhorn_ot
    >>> scores = torch.tensor([[[0.9, 0.8, 0.2, 0.1], [0.1, 0.2, 0.3, 0.1]]])  # 1 image, 2 classes, 4 pixels
    >>> plan, residual, iterations = sinkhorn_ot(scores)
    >>> bool((plan.sum(-1) - 0.5).abs().max() < 1e-3)  # each class gets half of the mass
    True
    """
    check_choice(method, "method", ("newton", "sinkhorn", "pot"))
    check_reg(reg)
    check_positive(tol, "tol")
    check_count(max_iter, "max_iter", 1)
    check_tensor(scores, "scores", "(B, K, H, W) or (B, K, N)", ndim=(3, 4), floating=True)
    flat = scores.flatten(2).contiguous()
    if scores.dtype != torch.float64:
        flat = flat.float()
    pixels = _pixel_masses(scores, flat, pixel_mass, valid)
    classes = _class_masses(flat, class_mass, valid)

    if flat.numel() == 0:
        zero = flat.new_zeros(flat.shape[0])
        return TransportPlan.of(torch.zeros_like(scores), zero, zero.long(), "torch")
    low, high = _extent(flat.detach())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ValueError(
            "scores hold NaN or infinity: find the layer that produced them, or pass torch.nan_to_num(scores)"
        )

    if (high - low) / reg > _LARGEST_RANGE:
        raise ValueError(f"scores span {high - low:.3g}, too much for reg={reg}: scale them to [0, 1]")

    with torch.autocast(device_type=flat.device.type, enabled=False):
        shares, residual, iterations, solver = solve(
            flat,
            pixels,
            classes,
            reg=reg,
            tol=tol,
            max_iter=int(max_iter),
            method=method,
            extent=(low, high),
            scale=1.0 / flat.shape[-1] if pixels is None else 1.0,
        )
        # Pixels without mass transport nothing.
        plan = shares if pixels is None else shares * pixels[:, None]
    return TransportPlan.of(plan.reshape(scores.shape).to(scores.dtype), residual, iterations, solver)


def check_reg(reg: float) -> None:
    """Raise unless the regulariser is a number that float32 can work with."""
    check_positive(reg, "reg")
    check_range(reg, "reg", _LEAST_REG, math.inf)


def _pixel_masses(
    scores: Tensor, flat: Tensor, pixel_mass: Tensor | None, valid: Tensor | None
) -> Tensor | None:
    """Pixel masses (B, N) that sum to 1 (or 0 without a valid pixel); None where uniform."""
    batch, _, size = flat.shape
    grids = [tuple(scores.shape[2:]), (size,)]
    mass = None
    if pixel_mass is not None:
        check_tensor(pixel_mass, "pixel_mass", "(B, H, W) or (B, N)", ndim=(1, 2, 3), floating=True)
        if tuple(pixel_mass.shape) in grids:
            pixel_mass = pixel_mass[None].expand(batch, *pixel_mass.shape)
        if tuple(pixel_mass.shape[1:]) not in grids or pixel_mass.shape[0] != batch:
            raise ValueError(
                f"pixel_mass must match the pixels of scores {tuple(scores.shape)}, got shape "
                f"{tuple(pixel_mass.shape)}: pass (B, H, W) or (B, N)"
            )
        check_same(pixel_mass, "pixel_mass", scores, "scores")
        _check_mass(pixel_mass, "pixel_mass")
        mass = pixel_mass.flatten(1)
    if valid is not None and not _masks_classes(scores, flat, valid):
        kept = valid.flatten(1)
        mass = kept if mass is None else mass * kept
    return None if mass is None else _to_one(mass, flat.dtype)


def _class_masses(flat: Tensor, class_mass: Tensor | None, valid: Tensor | None) -> Tensor:
    """Bring class masses to (B, K), summing to 1 over the classes that take part (or 0 without any)."""
    batch, num_classes, size = flat.shape
    mask = None
    if valid is not None and valid.ndim == 2 and tuple(valid.shape) == (batch, num_classes) != (batch, size):
        mask = valid
    if class_mass is None:
        if mask is None:
            return flat.new_full((batch, num_classes), 1.0 / max(num_classes, 1))
        mass = flat.new_ones(batch, num_classes)
    else:
        check_tensor(class_mass, "class_mass", "(B, K) or (K,)", ndim=(1, 2), floating=True)
        if class_mass.ndim == 1:
            class_mass = class_mass[None].expand(batch, -1)
        if tuple(class_mass.shape) != (batch, num_classes):
            raise ValueError(
                f"class_mass must have shape ({batch}, {num_classes}) or ({num_classes},) as scores has "
                f"{num_classes} classes, got {tuple(class_mass.shape)}: pass one mass per class"
            )
        check_same(class_mass, "class_mass", flat, "scores")
        _check_mass(class_mass, "class_mass")
        mass = class_mass
    if mask is not None:
        mass = mass * mask
    return _to_one(mass, flat.dtype)


def _to_one(mass: Tensor, dtype: torch.dtype) -> Tensor:
    """Masses brought to sum 1 along the last axis; all zeros stay, and so does what counts as nothing."""
    if mass.numel() == 0:
        return mass.to(dtype)
    mass = mass.double()
    largest = mass.detach().amax(-1, keepdim=True)
    mass = mass / torch.where(largest > 0, largest, 1.0)  # or the sum of huge masses overflows
    mass = mass / mass.sum(-1, keepdim=True).clamp_min(1.0)
    return torch.where(mass > _TINY, mass, 0.0).to(dtype)


def _masks_classes(scores: Tensor, flat: Tensor, valid: Tensor) -> bool:
    """Tell whether ``valid`` masks classes (B, K) rather than pixels, and check it."""
    batch, num_classes, size = flat.shape
    if not isinstance(valid, Tensor) or valid.dtype != torch.bool:
        raise TypeError(f"valid must be a bool tensor, got {describe(valid)}: pass mask.bool()")
    shape = tuple(valid.shape)
    if shape == (batch, num_classes) == (batch, size):
        raise ValueError(
            f"valid of shape {shape} could mask pixels or classes as N = K = {size}: "
            "pass scores as (B, K, H, W) with a (B, H, W) mask, or class_mass with zeros"
        )
    if valid.device != scores.device:
        raise ValueError(
            f"valid is on {valid.device} but scores is on {scores.device}: move valid with .to(scores.device)"
        )
    if shape == (batch, num_classes):
        return True
    if shape in ((batch, size), (batch, *scores.shape[2:])):
        return False
    raise ValueError(
        f"valid must mask pixels {(batch, *scores.shape[2:])} or classes {(batch, num_classes)}, "
        f"got shape {shape}: match one of them"
    )


def _extent(scores: Tensor) -> tuple[float, float]:
    """Smallest and largest score; NaN or infinite where any score is (waits for the device)."""
    compiled = _compiled_for(scores)
    if compiled is not None:
        return compiled.extent(scores)
    return find_extent(scores)


def _check_mass(mass: Tensor, name: str) -> None:
    low, high = find_extent(mass)
    if not (low >= 0 and math.isfinite(high)):
        raise ValueError(f"{name} must be finite and non-negative, got values in [{low}, {high}]: clamp it")


def solve(
    scores: Tensor,
    pixels: Tensor | None,
    classes: Tensor,
    *,
    reg: float,
    tol: float,
    max_iter: int = 1000,
    method: Method = "newton",
    extent: tuple[float, float] = (0.0, 1.0),
    scale: float | None = None,
) -> PixelShares:
    """Solve checked problems: float scores (B, K, N), masses (B, N) or None and (B, K) that sum to 1.

    The other modules call this instead of :func:`sinkhorn_ot` once their own input is checked. ``extent`` is
    the smallest and the largest score. The shares of an image are defined in every pixel, also where its mass
    is zero. They mean nothing where it has no class, unless ``scale`` is given: it multiplies the shares, and
    leaves zeros there.
    """
    if pixels is not None:
        # An image without a pixel has nothing to transport to any class.
        classes = classes * (pixels.sum(-1, keepdim=True) > 0)
    eps = torch.finfo(scores.dtype).eps
    tol = max(tol, 0.6 * eps * max(extent[1] - extent[0], 1.0) / reg)
    recorded = torch.is_grad_enabled() and any(map(_requires_grad, (scores, pixels, classes)))
    easy = (extent[1] - extent[0]) / reg <= _EASY_RANGE
    compiled = _compiled_for(scores)
    if method == "newton" and easy and not recorded and compiled is not None:
        # Most batches end here: on small problems even the launch of a torch operation counts. What is left
        # unfinished goes through the compiled loop once more below, which costs next to nothing.
        solved, finished = _run(
            compiled,
            scores,
            pixels,
            classes,
            sharpness=1.0 / reg,
            tol=tol,
            max_iter=max_iter,
            extent=extent,
            scale=scale,
        )
        if finished:
            return PixelShares(solved.shares, solved.residual, solved.passes, "numba")
    valid = classes > 0
    problem = _Problem(scores, 1.0 / reg, pixels, classes, valid)
    with torch.no_grad():
        detached = problem._replace(
            scores=scores.detach(),
            pixels=None if pixels is None else pixels.detach(),
            classes=classes.detach(),
        )
        if method == "pot":
            solved = _solve_pot(detached, tol=tol, max_iter=max_iter)
        elif method == "newton":
            solved = _newton(detached, tol=tol, max_iter=max_iter, extent=extent)
        else:
            solved = _sinkhorn(detached, tol=tol, max_iter=max_iter)
    potentials, shares, residual, iterations, used = solved[:5]
    if recorded and method != "pot":
        shares = _differentiable_shares(problem, potentials, shares)
    dead = ~valid.any(-1)
    if scale is not None:
        mass = (~dead).to(shares.dtype)[:, None, None] * scale
        shares = shares * mass if shares.requires_grad else shares.mul_(mass)
    return PixelShares(shares, residual.masked_fill(dead, 0.0), iterations.masked_fill(dead, 0), used)


def _requires_grad(tensor: Tensor | None) -> bool:
    return tensor is not None and tensor.requires_grad


def _log_ratio(classes: Tensor, marginal: Tensor, valid: Tensor) -> Tensor:
    """log(b / m), 0 where a class takes no part."""
    ratio = classes.clamp_min(_TINY).log() - marginal.clamp_min(_TINY).log()
    return ratio.masked_fill(~valid, 0.0)


def _residual(classes: Tensor, marginal: Tensor, valid: Tensor) -> Tensor:
    error = (marginal - classes).abs() / classes.clamp_min(_TINY)
    return error.masked_fill(~valid, 0.0).amax(-1)


def _newton_matrix(problem: _Problem, p: Tensor) -> tuple[Tensor, Tensor]:
    """(B, K, K) inverse of the scaled semi-dual Hessian L = diag(m) - A, and its scale (B, K), in float64.

    L is a graph Laplacian, so its diagonal is summed from the off-diagonal moments: m - A_kk itself would
    cancel where the classes hardly overlap. Its free constant is fixed by pinning the largest class, and
    unit diagonals make the inverse accurate however small the class masses are. Rows of pinned classes and
    of classes without a part are zero.
    """
    flow = problem.covariance(p).double()
    flow.diagonal(dim1=1, dim2=2).zero_()
    degree = flow.sum(-1)
    pinned = torch.nn.functional.one_hot(problem.classes.argmax(-1), flow.shape[-1]).bool()
    free = problem.valid & ~pinned & (degree > 0)
    scale = torch.where(free, degree, 1.0).rsqrt() * free
    matrix = -scale[:, :, None] * flow * scale[:, None, :]
    # The ridge is far below any step that matters; it keeps an isolated pair of classes invertible.
    matrix.diagonal(dim1=1, dim2=2).fill_(1 + 1e-14)
    return torch.linalg.inv_ex(matrix).inverse, scale


def _direction(inverse: Tensor, scale: Tensor, classes: Tensor, m: Tensor, log_ratio: Tensor) -> Tensor:
    """Newton step (B, K) on the log residual: L d = r - m sum(r) with r = m log(b / m).

    Where it does not climb the semi-dual, the plain Newton step (right side b - m) does; where the matrix is
    singular beyond use, a Sinkhorn step takes its place.
    """
    ratio, mass = log_ratio.double(), m.double()
    side = mass * ratio
    side = side - mass * side.sum(-1, keepdim=True)
    gap = torch.where(log_ratio == 0, 0.0, classes - m).double()
    steps = scale[..., None] * (inverse @ (scale[..., None] * torch.stack((side, gap), dim=-1)))
    climbs = (gap[..., None] * steps).sum(1) > 0  # (B, 2); False for NaN
    step = torch.where(climbs[:, :1], steps[..., 0], steps[..., 1])
    usable = climbs.any(-1, keepdim=True) & torch.isfinite(step).all(-1, keepdim=True)
    # Adding a constant changes nothing; centred steps lose least to the limit on their length.
    low = step.amin(-1, keepdim=True)
    step = (step - (low + step.amax(-1, keepdim=True)) / 2) * (scale.sum(-1, keepdim=True) > 0)
    limit = 1e4 * _MAX_STEP  # float32 must not overflow before the step is shortened
    longest = step.abs().amax(-1, keepdim=True).clamp_min(limit)
    return torch.where(usable, step * (limit / longest), ratio).to(m.dtype)


def _clip(step: Tensor, radius: Tensor) -> Tensor:
    """Shorten a step (B, K) so that no potential moves by more than the radius (B, 1)."""
    return step * (radius / step.abs().amax(-1, keepdim=True).clamp_min(_TINY)).clamp_max(1.0)


class _Solved(NamedTuple):
    """What a solver knows about each image of a batch."""

    potentials: Tensor  # (B, K)
    shares: Tensor  # (B, K, N)
    residual: Tensor  # (B,)
    passes: Tensor  # (B,)
    solver: str = "torch"
    finished: bool = False  # whether the host knows that all images are within tol


def _blind(scores: Tensor, passes: int) -> int:
    """Passes before the host asks for the first time whether all images are finished.

    On an accelerator a question costs more than a pass over finished images; a CPU may ask at once.
    """
    return 0 if scores.device.type == "cpu" else passes


def _iterate(
    problem: _Problem,
    potentials: Tensor,
    move: Callable[[Tensor, Tensor, Tensor], Tensor],
    *,
    tol: float,
    max_iter: int,
    blind: int = 0,
) -> _Solved:
    """Pass over the pixels until every image is within ``tol``; finished images keep their potentials.

    ``move`` gives the next potentials from the present ones, their class marginals and their shares. During
    the first ``blind`` passes nobody looks whether they are finished.
    """
    shares, buffer = torch.empty_like(problem.scores), torch.empty_like(problem.scores)
    residual, finished = potentials[:, 0], False
    passes = torch.zeros(len(potentials), dtype=torch.long, device=potentials.device)
    done = torch.zeros_like(passes, dtype=torch.bool)
    for count in range(1, max_iter + 1):
        shares = problem.shares(potentials, buffer=buffer, out=shares)
        m = problem.marginal(shares)
        residual = _residual(problem.classes, m, problem.valid)
        passes += ~done
        done = residual <= tol
        finished = count > blind and bool(done.all())
        if count == max_iter or finished:
            break
        potentials = torch.where(done[:, None], potentials, move(potentials, m, shares))
    # NaN is no residual at all: such an image is unfinished.
    residual = residual.nan_to_num(nan=math.inf, posinf=math.inf)
    return _Solved(potentials, shares, residual, passes, finished=finished)


def _newton(problem: _Problem, *, tol: float, max_iter: int, extent: tuple[float, float]) -> _Solved:
    """Semi-dual Newton from a subsampled start: a lean loop first, a safeguarded one for what it leaves."""
    score_range = (extent[1] - extent[0]) * problem.sharpness
    if score_range > _EASY_RANGE:
        size = problem.scores.shape[-1]
        few = (
            problem
            if size <= _SAMPLE_HARD
            else problem.sample(_spread(size, _SAMPLE_HARD, problem.scores.device))
        )
        # The first of the easier problems spans half the range that counts as easy.
        steps = math.ceil(math.log(2 * score_range / _EASY_RANGE, 4.0))
        start, passes = _anneal(few, steps, max_iter=max_iter - 1 if few is problem else 50 * steps)
        spent = int(passes.max()) if few is problem else 0
        solved = _climb(problem, start, tol=tol, max_iter=max_iter - spent)
        return solved._replace(passes=solved.passes + passes) if few is problem else solved
    lean = min(max_iter, _LEAN_PASSES)
    solved = _lean(problem, tol=tol, max_iter=lean, extent=extent)
    if solved.finished:
        return solved
    rest = (solved.residual > tol).nonzero()[:, 0]
    if len(rest) == 0 or lean == max_iter:
        return solved
    hard = problem.images(rest)
    # A lean solve that went astray is no start.
    near = solved.residual[rest, None] < 1.0
    start = torch.where(near, solved.potentials[rest], hard.start())
    finish = _climb(hard, start, tol=tol, max_iter=max_iter - lean)
    solved.potentials[rest] = finish.potentials
    solved.shares[rest] = finish.shares
    solved.residual[rest] = finish.residual
    solved.passes[rest] = finish.passes + lean
    return solved


def _anneal(problem: _Problem, steps: int, *, max_iter: int) -> tuple[Tensor, Tensor]:
    """Potentials of a problem with a small regulariser by way of easier ones, and the passes (B,) it took.

    The potentials scale with 1 / reg.
    """
    start = problem.start()
    passes = torch.zeros(len(start), dtype=torch.long, device=start.device)
    for step in range(steps + 1):
        left = max_iter - int(passes.max())
        if left <= 0:
            # No more passes to spend: the potentials as they are, brought to the regulariser asked for.
            return start * 4.0 ** (steps - step), passes
        easier = problem.cooled(4.0 ** (step - steps))
        solved = _climb(easier, start, tol=1e-1 if step < steps else 1e-2, max_iter=min(left, 50))
        passes = passes + solved.passes
        start = solved.potentials * (4.0 if step < steps else 1.0)
    return start, passes


def _compiled_for(scores: Tensor) -> ModuleType | None:
    """The compiled solver where it serves these scores."""
    return _compiled() if scores.device.type == "cpu" and scores.dtype == torch.float32 else None


def _run(
    compiled: ModuleType,
    scores: Tensor,
    pixels: Tensor | None,
    classes: Tensor,
    *,
    sharpness: float,
    tol: float,
    max_iter: int,
    extent: tuple[float, float],
    scale: float | None = None,
) -> tuple[_Solved, bool]:
    """Newton without safeguards, compiled; tells whether all images are within ``tol`` or out of passes."""
    passes = min(max_iter, _LEAN_PASSES)
    potentials, shares, residual, spent, finished = compiled.solve_images(
        scores,
        sharpness,
        pixels,
        classes,
        _easy_sample(scores),
        middle=sum(extent) / 2,
        scale=1.0 if scale is None else scale,
        tol=tol,
        sample_tol=_SAMPLE_TOL,
        max_iter=passes,
        max_step=_LEAN_STEP,
    )
    solved = _Solved(potentials, shares, residual, spent, "numba")
    return solved, finished or passes == max_iter


def _easy_sample(scores: Tensor) -> Tensor | None:
    """Pixel indices of the first solve of an easy problem, None where it would not pay."""
    size = scores.shape[-1]
    if size < _SAMPLE_MOST:
        return None
    return _spread(size, min(max(size // _SAMPLE_STEP, _SAMPLE_LEAST), _SAMPLE_MOST), scores.device)


def _lean(problem: _Problem, *, tol: float, max_iter: int, extent: tuple[float, float]) -> _Solved:
    """Newton without safeguards, compiled where that is possible; a residual above ``tol`` is unfinished."""
    scores, sharpness, pixels, classes, _ = problem
    compiled = _compiled_for(scores)
    if compiled is not None:
        return _run(
            compiled, scores, pixels, classes, sharpness=sharpness, tol=tol, max_iter=max_iter, extent=extent
        )[0]
    sample = _easy_sample(scores)
    start, matrix = problem.start(), None
    blind = _blind(scores, 3)  # from cold
    if sample is not None:
        sampled = problem.sample(sample)
        start = _rush(
            sampled, start, tol=_SAMPLE_TOL, max_iter=max_iter, blind=_blind(scores, max_iter)
        ).potentials
        matrix = _semidual_inverse(sampled, sampled.shares(start))
        blind = _blind(scores, 1)
    return _rush(problem, start, tol=tol, max_iter=max_iter, matrix=matrix, blind=blind)


def _semidual_inverse(problem: _Problem, p: Tensor) -> Tensor:
    """(B, K, K) float64 inverse of diag(m) - A + m m^T, identity rows for classes without a part.

    Cheaper than :func:`_newton_matrix` and good enough for problems that are not hard; the ridge only
    serves classes that hardly overlap, which the safeguarded loop finishes.
    """
    flow = problem.covariance(p).double()
    m = flow.sum(-1)
    matrix = torch.diag_embed(m.where(problem.valid, 1.0) + 1e-9) - flow + m[:, :, None] * m[:, None, :]
    return torch.linalg.inv_ex(matrix).inverse


def _rush(
    problem: _Problem,
    start: Tensor,
    *,
    tol: float,
    max_iter: int,
    matrix: Tensor | None = None,
    blind: int = 0,
) -> _Solved:
    """Newton on the log residual, (diag(m) - A + m m^T) d = m log(b / m), without safeguards.

    ``matrix`` is an inverse to use throughout (that of a subsample: then no pass needs the second moment of
    all the pixels); None computes it in every pass.
    """

    def move(g: Tensor, m: Tensor, shares: Tensor) -> Tensor:
        inverse = _semidual_inverse(problem, shares) if matrix is None else matrix
        side = m * _log_ratio(problem.classes, m, problem.valid)
        step = (inverse @ side.double()[..., None])[..., 0]
        return g + step.to(g.dtype).clamp(-_LEAN_STEP, _LEAN_STEP)

    return _iterate(problem, start, move, tol=tol, max_iter=max_iter, blind=blind)


class _Ascent(NamedTuple):
    """Where each image stands in :func:`_climb`."""

    base: Tensor  # (B, K) last accepted potentials
    marginal: Tensor  # (B, K) class marginal there
    ratio: Tensor  # (B, K) log(b / m) there
    step: Tensor  # (B, K) step being tried
    radius: Tensor  # (B, 1) largest change of a potential allowed
    rejects: Tensor  # (B, 1) steps refused in a row


def _climb(problem: _Problem, potentials: Tensor, *, tol: float, max_iter: int) -> _Solved:
    """Safeguarded Newton ascent of the semi-dual from ``potentials``, for problems of any difficulty."""
    state: _Ascent | None = None

    def move(g: Tensor, m: Tensor, shares: Tensor) -> Tensor:
        nonlocal state
        state = _judge(problem, state, g, m, _newton_matrix(problem, shares))
        return state.base + state.step

    return _iterate(problem, potentials, move, tol=tol, max_iter=max_iter)


def _judge(
    problem: _Problem, state: _Ascent | None, trial: Tensor, m: Tensor, matrix: tuple[Tensor, Tensor]
) -> _Ascent:
    """Accept or refuse the potentials just tried, and choose the next step."""
    ratio = _log_ratio(problem.classes, m, problem.valid)
    fresh = _direction(*matrix, problem.classes, m, ratio)
    if state is None:
        radius = ratio.new_full((len(ratio), 1), _MAX_STEP / 2)
        rejects = torch.zeros_like(radius, dtype=torch.long)
        return _Ascent(trial, m, ratio, _clip(fresh, radius), radius, rejects)
    # Along a step that climbs, the slope (b - m) . d falls; a little below zero is a small overshoot. The
    # objective itself would cancel in float32.
    slope = ((problem.classes - m) * state.step).sum(-1, keepdim=True)
    old_slope = ((problem.classes - state.marginal) * state.step).sum(-1, keepdim=True)
    old_error = state.ratio.abs().amax(-1, keepdim=True)
    accept = (slope >= -0.5 * old_slope.abs()) | (ratio.abs().amax(-1, keepdim=True) <= 0.5 * old_error)
    accept |= state.rejects >= 2  # that was a Sinkhorn step, which is never worse in the long run
    rejects = torch.where(accept, 0, state.rejects + 1)
    base = torch.where(accept, trial, state.base)
    marginal = torch.where(accept, m, state.marginal)
    ratio = torch.where(accept, ratio, state.ratio)
    shorter = state.step.abs().amax(-1, keepdim=True) / 4
    radius = torch.where(accept, (state.radius * 2).clamp_max(_MAX_STEP), shorter)
    step = _clip(torch.where(accept, fresh, state.step), radius)
    # Two steps in a row went too far: a Sinkhorn step sets the scale anew.
    stuck = rejects >= 2
    step = torch.where(stuck, ratio, step)
    radius = torch.where(stuck, ratio.abs().amax(-1, keepdim=True).clamp(1e-3, _MAX_STEP), radius)
    return _Ascent(base, marginal, ratio, step, radius, rejects)


def _sinkhorn(problem: _Problem, *, tol: float, max_iter: int) -> _Solved:
    """Log-domain Sinkhorn in the class potentials: g += log(b / m), until every image is within ``tol``."""

    def move(g: Tensor, m: Tensor, shares: Tensor) -> Tensor:
        return g + _log_ratio(problem.classes, m, problem.valid)

    return _iterate(problem, problem.start(), move, tol=tol, max_iter=max_iter)


def _solve_pot(problem: _Problem, *, tol: float, max_iter: int) -> _Solved:
    """The same problems by the POT library, image by image in float64."""
    import ot

    scores = problem.scores
    reg = 1.0 / problem.sharpness
    shares = torch.zeros_like(scores)
    iterations = torch.zeros(scores.shape[0], dtype=torch.long, device=scores.device)
    size = scores.shape[-1]
    uniform = scores.new_full((size,), 1.0 / size)
    found = problem.start()
    for b in range(scores.shape[0]):
        classes = problem.classes[b].double()
        pixels = (uniform if problem.pixels is None else problem.pixels[b]).double()
        rows, columns = pixels > 0, classes > 0
        if not bool(columns.any()):
            continue
        a, target = pixels[rows], classes[columns]
        _, log = ot.bregman.sinkhorn_log(
            (a / a.sum()).cpu().numpy(),
            (target / target.sum()).cpu().numpy(),
            1.0 - scores[b][columns][:, rows].double().mT.cpu().numpy(),
            reg,
            # POT stops on the 2-norm of the marginal error, which bounds each entry of it.
            stopThr=tol * float(target.min()),
            numItermax=max_iter,
            log=True,
            warn=False,
        )
        # The class potentials carry over to pixels of zero mass, which POT does not take.
        potentials = torch.full_like(classes, -math.inf)
        potentials[columns] = torch.from_numpy(log["log_v"]).to(classes)
        found[b] = potentials
        shares[b] = torch.softmax(scores[b].double() / reg + potentials[:, None], dim=0).to(scores.dtype)
        iterations[b] = int(log["niter"]) + 1  # pyright: ignore[reportArgumentType]
    residual = _residual(problem.classes, problem.marginal(shares), problem.valid)
    return _Solved(found, shares, residual, iterations, "pot")


def _differentiable_shares(problem: _Problem, potentials: Tensor, shares: Tensor) -> Tensor:
    """Shares with exact gradients: one Newton step from the solution, whose matrix is a constant.

    At the solution the step itself is zero up to the tolerance, and its derivative is that of the implicit
    function g(scores, masses).
    """
    with torch.no_grad():
        inverse, scale = _newton_matrix(problem, shares)
    marginal = problem.marginal(problem.shares(potentials))
    gap = (problem.classes - marginal).double()
    gap = gap - gap.detach()  # value zero, gradient kept, here and below: requires_grad changes no plan
    step = scale * (inverse @ (scale * gap)[..., None])[..., 0]
    moved = problem.shares(potentials + step.to(potentials.dtype))
    return shares + (moved - moved.detach())


@functools.lru_cache(maxsize=32)
def _spread(size: int, count: int, device: torch.device) -> Tensor:
    """``count`` well-spread pixel indices; golden-ratio spacing, as a plain stride aliases with the rows."""
    ratio = (math.sqrt(5.0) - 1.0) / 2.0
    position = torch.arange(count, device=device, dtype=torch.float64) * ratio
    return ((position - position.floor()) * size).long().clamp_max(size - 1)


def early_stopped_weights(scores: Tensor, pixels: Tensor, classes: Tensor) -> Tensor:
    """OT weights of the released code: kernel Sinkhorn that stops after about two rounds, then min-max.

    Not a transport plan (its pixel marginals are off by about as much as they are); kept for parity only.
    ``scores`` (B, K, N), bool ``pixels`` (B, N) and ``classes`` (B, K); returns (B, K, N) in [0, 1], zero
    where masked. At most 100 rounds, until the mean absolute change of the row scaling is below 1e-2.
    """
    inside = pixels[:, None] & classes[..., None]
    kernel = torch.exp((scores - 1.0) / 0.1).masked_fill(~inside, 0.0)
    count = pixels.sum(-1, keepdim=True).clamp_min(1)
    row_mass = pixels / count
    column_mass = classes / classes.sum(-1, keepdim=True).clamp_min(1)
    rows = pixels.to(scores.dtype)
    columns = classes.to(scores.dtype)
    done = torch.zeros_like(count, dtype=torch.bool)
    for _ in range(100):
        new_rows = row_mass / (kernel.mT @ columns[..., None])[..., 0].clamp_min(_TINY)
        new_columns = column_mass / (kernel @ new_rows[..., None])[..., 0].clamp_min(_TINY)
        change = (new_rows - rows).abs().sum(-1, keepdim=True) / count
        rows = torch.where(done, rows, new_rows)
        columns = torch.where(done, columns, new_columns)
        done = done | (change < 1e-2)
        if bool(done.all()):
            break
    return minmax(rows[:, None] * kernel * columns[..., None], inside)


def minmax(maps: Tensor, inside: Tensor) -> Tensor:
    """Scale (B, K, N) to 0..1 over the entries ``inside``, range floored at 1e-5; 0 outside."""
    low = maps.masked_fill(~inside, math.inf).amin(-1, keepdim=True)
    high = maps.masked_fill(~inside, -math.inf).amax(-1, keepdim=True)
    scaled = (maps - low) / (high - low).clamp_min(1e-5)
    return scaled.clamp(0.0, 1.0).masked_fill(~inside, 0.0)
