"""Ways to refine a folder of masks that users have today, for ``report_folders.py``."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from dhr_refine import read_cams, refine_mask
from dhr_refine.folders.runs.worker import Worker


def refine_one(key: str, folder: Path, out: Path, boundary: Any = "crf") -> None:
    """The body of the loop that a user writes around ``read_cams`` and ``refine_mask``."""
    if (out / f"{key}.png").exists():
        return
    image = torch.from_numpy(np.array(Image.open(folder / "images" / f"{key}.jpg").convert("RGB")))
    cams, keys = read_cams(folder / "cams" / f"{key}.npy", background="none")
    base = torch.from_numpy(np.array(Image.open(folder / "base" / f"{key}.png"))).long()
    uss = torch.from_numpy(np.load(folder / "uss" / f"{key}.npy")).float()
    with np.load(folder / "wss" / f"{key}.npz") as levels:
        wss = [torch.from_numpy(levels[name]).float() for name in levels.files]
    mask = refine_mask(cams, base, uss, wss, image.permute(2, 0, 1), labels=keys, boundary=boundary)
    Image.fromarray(mask.numpy().astype(np.uint8)).save(out / f"{key}.png")


def loop(folder: Path, out: Path, keys: Sequence[str]) -> None:
    """One process, with all threads that PyTorch takes."""
    for key in keys:
        refine_one(key, folder, out)


def pool(folder: Path, out: Path, keys: Sequence[str], jobs: int) -> None:
    """A pool of processes of one thread each."""
    _in_pool(partial(refine_one, folder=folder, out=out), keys, jobs)


def crf_one(key: str, folder: Path, out: Path) -> None:
    """The CRF alone, by pydensecrf, from a mask: what IRN's scripts do for each image."""
    import pydensecrf.densecrf as dcrf
    from pydensecrf.utils import unary_from_labels

    image = np.array(Image.open(folder / "images" / f"{key}.jpg").convert("RGB"))
    mask = np.array(Image.open(folder / "base" / f"{key}.png"))
    labels, local = np.unique(mask, return_inverse=True)
    if len(labels) < 2:
        return
    field = dcrf.DenseCRF2D(image.shape[1], image.shape[0], len(labels))
    field.setUnaryEnergy(
        unary_from_labels(local.reshape(mask.shape), len(labels), gt_prob=0.7, zero_unsure=False)
    )
    field.addPairwiseGaussian(sxy=1, compat=3)
    field.addPairwiseBilateral(sxy=67, srgb=3, rgbim=np.ascontiguousarray(image), compat=4)
    found = np.argmax(field.inference(10), axis=0).reshape(mask.shape)
    Image.fromarray(labels[found].astype(np.uint8)).save(out / f"{key}.png")


def crf_pool(folder: Path, out: Path, keys: Sequence[str], jobs: int) -> None:
    """pydensecrf on masks in a pool of processes."""
    _in_pool(partial(crf_one, folder=folder, out=out), keys, jobs)


def in_threads(worker: Callable[[], Worker], keys: Sequence[str], jobs: int) -> None:
    """The workers of ``refine_folder`` in threads of one process instead of processes."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    chunks = [keys[start : start + 8] for start in range(0, len(keys), 8)]
    workers = [worker() for _ in range(jobs)]
    free = [*workers]

    def work(chunk: Sequence[str]) -> None:
        own = free.pop()
        own(chunk)
        free.append(own)

    with ThreadPoolExecutor(jobs) as threads:
        list(threads.map(work, chunks))
    for one in workers:
        one.close()
    torch.set_num_threads(before)


def _in_pool(work: Callable[[str], None], keys: Sequence[str], jobs: int) -> None:
    context = multiprocessing.get_context("spawn")
    with context.Pool(jobs, initializer=_alone) as processes:
        processes.map(work, keys, chunksize=4)


def _alone() -> None:
    torch.set_num_threads(1)
    os.environ["OMP_NUM_THREADS"] = "1"
