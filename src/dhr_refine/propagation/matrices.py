"""Affinities that come as matrices: AffinityNet's (PSA, SEAM), and attention (CLIP-ES)."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from ..checks import (
    check_count,
    check_data,
    check_finite,
    check_positive,
    check_tensor,
    describe,
    find_extent,
    read_ints,
)
from ..compiled import eager
from .affinity import Affinity, check_grid, find_spread
from .averages import Averages, Dense, Sparse
from .limits import check_bytes

# Of a matrix that half precision made symmetric only nearly, over its largest entry.
_ASYMMETRY = 1e-3


@eager
@torch.no_grad()
def pairwise_affinity(matrix: Any, *, grid: tuple[int, int], beta: float = 8) -> Affinity:
    """Take affinities of pairs of cells as they come, as AffinityNet's (PSA, SEAM).

    Parameters
    ----------
    matrix : Tensor (B, N, N) or (N, N), or scipy.sparse matrix (N, N), floating point
        Affinity of each pair of cells, not negative and symmetric, cells row by row; 0 for pairs that are not
        neighbours. AffinityNet's ``forward(image, to_dense=True)`` before any power. A sparse tensor (N, N)
        of torch as well. Detached.
    grid : (h, w)
        Rows and columns of the N cells.
    beta : float, default 8
        Exponent of the affinities, that of PSA and SEAM.

    Returns
    -------
    Affinity
        For :func:`random_walk`, which takes 2**6 steps of it unless told otherwise, as SEAM does (``logt`` 6;
        PSA's later versions 2**8).

    Raises
    ------
    ValueError, TypeError
        Anything above violated, NaN, or a matrix that does not fit the memory; the message says which.

    Notes
    -----
    The transition divides by the sum over each cell's affinities, its own to itself among them; a cell
    without any keeps its scores. The host waits for the device a few times.

    References
    ----------
    J. Ahn and S. Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision", CVPR 2018,
    equations 3 to 5, whose code this does the same as.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine.propagation import pairwise_affinity, random_walk
    >>> matrix = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    >>> random_walk(torch.tensor([[[0.8, 0.4, 0.1]]]), pairwise_affinity(matrix, grid=(1, 3)))
    tensor([[[0.6000, 0.6000, 0.1000]]])
    """
    check_positive(beta, "beta")
    if _is_sparse(matrix):
        averages, sums = _read_sparse(matrix, grid, beta)
        return Affinity(_sides(grid), 2**6, averages, sums, find_spread(sums))
    check_tensor(matrix, "matrix", "(B, N, N) or (N, N)", ndim=(2, 3), floating=True)
    weights = _read_square(matrix if matrix.ndim == 3 else matrix[None], grid, "matrix")
    if not torch.equal(weights, weights.mT):
        if float((weights - weights.mT).abs().amax()) > _ASYMMETRY * float(weights.amax()):
            raise ValueError(_asymmetric())
        weights = (weights + weights.mT) / 2
    weights = weights**beta
    sums = _keep_isolated(weights, weights.sum(1))
    return Affinity(_sides(grid), 2**6, Dense(weights / sums[:, None]), sums, find_spread(sums))


@eager
@torch.no_grad()
def attention_affinity(attention: Tensor, *, grid: tuple[int, int], rounds: int = 3) -> Affinity:
    """Make the affinity of CLIP-ES: attention maps of a transformer, averaged, balanced, symmetrised.

    Parameters
    ----------
    attention : Tensor, (N, N), (L, N, N) or (B, L, N, N), floating point
        Attention of each cell (row) to each (column), class token left out, heads averaged; of L layers for
        one image or a batch, which are averaged. CLIP-ES takes the last 8 layers. Detached.
    grid : (h, w)
        Rows and columns of the N cells.
    rounds : int, default 3
        How often columns and then rows are divided by their sums (Sinkhorn), 3 in CLIP-ES.

    Returns
    -------
    Affinity
        For :func:`random_walk`, which takes 2 steps of it unless told otherwise: the square of CLIP-ES.

    Raises
    ------
    ValueError, TypeError
        Anything above violated, NaN, or matrices that do not fit the memory; the message says which.

    Notes
    -----
    As in CLIP-ES, the mean of the balanced matrix and its transpose is not balanced again: its rows sum to 1
    but for what the rounds left. A cell that neither gives nor gets attention keeps its scores.

    References
    ----------
    Y. Lin et al., "CLIP is Also an Efficient Segmenter", CVPR 2023, equations 6 and 7, whose code this does
    the same as.

    Examples
    --------
    >>> import torch
    >>> from dhr_refine.propagation import attention_affinity, random_walk
    >>> layers = torch.tensor([[0.9, 0.1], [0.1, 0.9]]).expand(8, 2, 2)
    >>> random_walk(torch.tensor([[[1.0, 0.0]]]), attention_affinity(layers, grid=(1, 2)), within=0.4)
    tensor([[[0.8200, 0.1800]]])
    """
    check_count(rounds, "rounds", 0)
    check_tensor(attention, "attention", "(N, N), (L, N, N) or (B, L, N, N)", ndim=(2, 3, 4), floating=True)
    layers = attention[(None,) * (4 - attention.ndim)]
    if layers.shape[1] == 0:
        raise ValueError(f"attention has no layer, got {describe(attention)}: pass the last 8, say")
    sides = check_square(layers, grid, "attention")
    check_data(layers, "attention")
    _check_affinities(layers, "attention")
    weights = layers.detach().mean(1, dtype=torch.float64)
    for _ in range(rounds):
        for axis in (1, 2):
            sums = weights.sum(axis, keepdim=True)
            weights = weights / torch.where(sums > 0, sums, 1.0)
    weights = (weights + weights.mT) / 2
    _keep_isolated(weights, weights.sum(1))
    return Affinity(sides, 2, Dense(weights), None, 1.0)


def check_square(matrix: Tensor, grid: Any, name: str) -> tuple[int, int]:
    """The grid, where a matrix (..., N, N) is square and has its cells, and fits the memory."""
    if matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(_not_square(matrix, name))
    sides = _sides(grid)
    check_grid(sides, matrix.shape[-1], name)
    fix = "pass fewer images, a sparse matrix, or the affinity of a coarser grid"
    count = matrix.shape[0] * matrix.shape[-1] ** 2
    check_bytes(count, 8, f"{name} of {matrix.shape[-1]:,} cells", fix)
    return sides


def _not_square(matrix: Any, name: str) -> str:
    shape = tuple(matrix.shape)
    return f"{name} must be square, got shape {shape}: pass one row and one column for each cell"


def _sides(grid: Any) -> tuple[int, int]:
    rows, columns = read_ints(grid, "grid", "(h, w)", 1)
    return rows, columns


def _read_square(matrix: Tensor, grid: Any, name: str) -> Tensor:
    check_square(matrix, grid, name)
    check_data(matrix, name)
    _check_affinities(matrix, name)
    return matrix.detach().double()


def _check_affinities(values: Tensor, name: str) -> None:
    """Raise unless affinities are finite and none is negative (waits)."""
    check_finite(values, name)
    low, _ = find_extent(values)
    if low < 0:
        raise ValueError(
            f"{name} holds negative affinities, the least {low:.3g}: pass {name}.clamp(min=0), or the "
            "softmax of logits"
        )


def _asymmetric() -> str:
    return (
        "matrix must be symmetric, as affinities of pairs are: pass (matrix + matrix.mT) / 2, or attention "
        "to attention_affinity"
    )


def _keep_isolated(weights: Tensor, sums: Tensor) -> Tensor:
    """Sums (B, N) of rows; one without any weight gets 1 for the cell itself, in ``weights`` as well."""
    alone = sums <= 0
    weights.diagonal(dim1=1, dim2=2).masked_fill_(alone, 1.0)
    return torch.where(alone, 1.0, sums)


def _is_sparse(matrix: Any) -> bool:
    if isinstance(matrix, Tensor):
        return matrix.layout != torch.strided
    scipy_sparse = sys.modules.get("scipy.sparse")  # who has such a matrix has imported it
    return scipy_sparse is not None and scipy_sparse.issparse(matrix)


def _read_sparse(matrix: Any, grid: Any, beta: float) -> tuple[Averages, Tensor]:
    """Averages and sums (1, N) of a sparse symmetric matrix."""
    if len(matrix.shape) != 2:
        raise ValueError(
            f"a sparse matrix must have shape (N, N), got {tuple(matrix.shape)}: pass the matrix of one "
            "image, and lists of CAMs and affinities to random_walk"
        )
    rows, columns, values = _entries(matrix)
    if matrix.shape[0] != matrix.shape[1]:
        raise ValueError(_not_square(matrix, "matrix"))
    count = matrix.shape[0]
    check_grid(_sides(grid), count, "matrix")
    _check_affinities(values, "matrix")
    kept = values > 0
    rows, columns, values = rows[kept], columns[kept], values[kept]
    order = torch.argsort(columns * count + rows)
    if not torch.equal((columns * count + rows)[order], rows * count + columns) or (
        len(values) > 0 and float((values - values[order]).abs().amax()) > _ASYMMETRY * float(values.amax())
    ):
        raise ValueError(_asymmetric())
    values = ((values + values[order]) / 2) ** beta
    sums = values.new_zeros(count).index_add_(0, rows, values)
    alone = torch.nonzero(sums <= 0)[:, 0]
    rows, columns = torch.cat((rows, alone)), torch.cat((columns, alone))
    values = torch.cat((values, values.new_ones(len(alone))))
    sums = torch.where(sums > 0, sums, 1.0)
    order = torch.argsort(rows, stable=True)
    rows, columns, values = rows[order], columns[order], values[order]
    sizes = torch.bincount(rows, minlength=count)
    return Sparse.of_one_pattern((values / sums[rows])[None], columns, sizes), sums[None]


def _entries(matrix: Any) -> tuple[Tensor, Tensor, Tensor]:
    """Rows, columns and values of a sparse matrix, sorted by row and column, each pair once."""
    if not isinstance(matrix, Tensor):
        entries = matrix.tocoo()
        if entries.dtype.kind != "f":
            raise TypeError(f"matrix must be floating point, got {entries.dtype}: call .astype(float)")
        places = torch.stack([torch.as_tensor(axis).long() for axis in (entries.row, entries.col)])
        values = torch.as_tensor(entries.data)
        matrix = torch.sparse_coo_tensor(places, values, entries.shape, check_invariants=True)
    if not matrix.is_floating_point():
        raise TypeError(f"matrix must be floating point, got {describe(matrix)}: call .float() on it")
    if matrix.is_mkldnn or matrix.dense_dim():
        raise TypeError("matrix is sparse in one axis alone, or of MKL-DNN: pass matrix.to_dense()")
    matrix = matrix.detach().to_sparse_coo().coalesce()
    rows, columns = matrix.indices()
    return rows, columns, matrix.values().double()
