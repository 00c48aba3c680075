"""Measure the table of docs/propagation.md: ``report_propagation.py [--write docs/propagation.md]``.

IRN's walk against its dense form and a loop over a scipy.sparse matrix: peers are interleaved in one run, on
one thread. Keep the machine quiet; it takes a few minutes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

# Before NumPy: its BLAS would keep a second thread spinning.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
import scipy.sparse
import torch
from harness import interleave, report, seconds, table, threads
from torch import Tensor

from dhr_refine import random_walk
from dhr_refine.propagation import edge_affinity


def dense_walk(cams: Tensor, edges: Tensor, matrix: Tensor, doublings: int) -> Tensor:
    """IRN's way: the transition matrix squared again and again, then one product."""
    for _ in range(doublings):
        matrix = matrix @ matrix
    return ((cams * (1 - edges)).flatten(1) @ matrix.mT).view_as(cams)


def sparse_walk(cams: Tensor, edges: Tensor, matrix: Any, steps: int) -> np.ndarray:
    """The same by a loop of products with a scipy.sparse matrix."""
    maps = (cams * (1 - edges)).flatten(1).mT.numpy()
    for _ in range(steps):
        maps = matrix @ maps
    return maps.T.reshape(cams.shape)


def edges_of_irn(rounds: int) -> Iterator[str]:
    """A walk of 2**8 steps over IRN's edges, three CAMs of an image; the affinity by itself."""
    rows = []
    for height, width in ((47, 63), (94, 125)):
        edges, cams = torch.rand(height, width) ** 4, torch.rand(3, height, width)
        affinity = edge_affinity(edges)
        cells = height * width
        entries = affinity.averages
        starts = [*entries.starts.tolist(), len(entries.cells)]  # pyright: ignore
        parts = (entries.weights.float().numpy(), entries.cells.numpy(), starts)  # pyright: ignore
        sparse = scipy.sparse.csr_matrix(parts, shape=(cells, cells))
        peers: dict[str, Callable[[], object]] = {
            "random_walk": lambda c=cams, a=affinity: random_walk(c, a),
            "edge_affinity": lambda e=edges: edge_affinity(e),
            "scipy.sparse": lambda c=cams, e=edges, m=sparse: sparse_walk(c, e, m, 256),
        }
        if cells < 5000:  # the larger one would take minutes a round, and 0.6 GB a matrix
            matrix = torch.from_numpy(sparse.toarray())
            peers["dense, squared"] = lambda c=cams, e=edges, m=matrix: dense_walk(c, e, m, 8)
        with threads(1):
            times = interleave(peers, rounds=rounds)
        names = ("edge_affinity", "random_walk", "scipy.sparse", "dense, squared")
        rows.append([f"{height} x {width}", *(seconds(times[n]) if n in times else "-" for n in names)])
    titles = ("grid", "`edge_affinity`", "`random_walk`", "scipy.sparse, 256 products", "dense, 8 squares")
    yield table(titles, rows)


if __name__ == "__main__":
    report({"edges": edges_of_irn}, __doc__, rounds=7, packages=("scipy",))
